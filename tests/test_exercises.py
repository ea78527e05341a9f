"""Every stub of the series has a check below it and a folded solution that the check accepts."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import torch.nn.functional as F

from rlhf_mini import checks

FOLDER = Path(__file__).parent.parent / "notebooks"
STUB = re.compile(r"^def (my_\w+)\(.*?\n {4}\.\.\.\s*$", re.S | re.M)
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>\s*```python\n(.*?)```\s*</details>", re.S)


def exercises() -> list[Any]:
    """Notebook, name and place of every stub."""
    found = []
    for path in sorted(FOLDER.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        found += [pytest.param(path, i, match[1], id=f"{path.stem[:2]}-{match[1]}") for i, cell in enumerate(cells)
                  if cell.cell_type == "code" for match in STUB.finditer(cell.source)]
    return found


@pytest.mark.parametrize(("path", "at", "name"), exercises())
def test_a_stub_has_a_check_and_a_folded_solution_that_it_accepts(path: Path, at: int, name: str) -> None:
    cells = nbformat.read(path, as_version=4).cells
    check = next(cell for cell in cells[at + 1:] if cell.cell_type == "code")
    called = re.findall(r"checks\.(check_\w+)", check.source)
    assert called and name in check.source, "the next code cell checks it"
    assert "not attempted yet" in str(check.outputs)
    known: dict[str, Any] = {"math": math, "torch": torch, "F": F, "Tensor": torch.Tensor}
    for cell in cells:  # a solution may use those above it
        for solution in SOLUTION.findall(cell.source) if cell.cell_type == "markdown" else ():
            if not re.search(rf"^def {name}\(", solution, re.M):
                exec(solution, known)
                continue
            exec(solution, known)
            results = [getattr(checks, one)(known[name]) for one in called]
            assert [result.points for result in results] == [2] * len(results), results
            return
    pytest.fail("it has no folded solution")
