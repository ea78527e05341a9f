"""How `pytest --nbval` compares what the notebooks print: numbers with an error by value, all else to the letter.

The rule itself is in `rlhf_mini.teaching.compared`. How a piece of HTML looks (its `style`) is not compared.
"""

from __future__ import annotations

import os
import re
from typing import Any

from nbval.plugin import IPyNbCell

from rlhf_mini.teaching.compared import differences

# Kernels inherit these: sums are made by one thread of a CPU, whatever the machine has.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["RLHF_MINI_IGNORE_MY_PARTS"] = "1"  # a student's own functions are nobody else's


class Output(str):
    """What a cell printed; equal to another output where nothing differs but the luck of measuring."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and (str.__eq__(self, other) or not differences(str(self), str(other)))

    def __ne__(self, other: object) -> bool:
        return not self == other


STYLE = re.compile(r"""\sstyle=(?:'[^']*'|"[^"]*")""")

_sanitize = IPyNbCell.sanitize
_format_output_compare = IPyNbCell.format_output_compare


def sanitize(cell: IPyNbCell, output: Any) -> Any:
    """nbval compares what this returns; it comes here with every output, the stored and the new."""
    plain = _sanitize(cell, output)
    return Output(STYLE.sub("", plain)) if isinstance(plain, str) else plain


def format_output_compare(cell: IPyNbCell, key: str, stored: Any, new: Any) -> None:
    """What nbval prints below a cell that fails."""
    if not isinstance(stored, Output) or not isinstance(new, Output):
        _format_output_compare(cell, key, stored, new)
        return
    cell.comparison_traceback += [f" mismatch '{key}':", *(f"  {line}" for line in differences(str(stored), str(new)))]


IPyNbCell.sanitize = sanitize
IPyNbCell.format_output_compare = format_output_compare
