"""How `pytest --nbval` compares what the notebooks print: numbers with an error by value, all else to the letter.

The rule itself is in `rlhf_mini.teaching.compared`.
"""

from __future__ import annotations

import os
from difflib import unified_diff
from typing import Any

from nbval.plugin import IPyNbCell

from rlhf_mini.teaching.compared import MEASURED, differences

# Kernels inherit these: sums are made by one thread of a CPU, whatever the machine has.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["RLHF_MINI_IGNORE_MY_PARTS"] = "1"  # a student's own functions are nobody else's


class Output(str):
    """What a cell printed; equal to another output where nothing differs but the luck of measuring."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and (str.__eq__(self, other) or not differences(self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other


def pytest_assertrepr_compare(op: str, left: Any, right: Any) -> list[str] | None:
    """What nbval prints below a cell that fails."""
    if op != "==" or not isinstance(left, Output) or not isinstance(right, Output):
        return None
    if MEASURED.search(left):
        return differences(left, right)
    return list(unified_diff(str(left).splitlines(), str(right).splitlines(), lineterm="", n=1))  # pytest's own fails


_sanitize = IPyNbCell.sanitize


def sanitize(cell: IPyNbCell, output: Any) -> Any:
    """nbval compares what this returns; it comes here with every output, the stored and the new."""
    plain = _sanitize(cell, output)
    return Output(plain) if isinstance(plain, str) else plain


IPyNbCell.sanitize = sanitize
