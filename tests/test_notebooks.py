"""The notebook series as files; what its cells print is compared by `pytest --nbval` itself."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest

import rlhf_mini
from rlhf_mini.teaching.compared import numbers

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_CELL = 15  # lines, empty ones aside
LARGEST_FILE = 1_500_000  # bytes
SURE = 6  # errors from 0, and nbval, which allows 5.7 of them between two runs, sees a sign turned
UNCOMPARED = {"nbval-ignore-output", "nbval-skip"}
PICTURES = re.compile(r"<(Figure size|IPython\.core\.display\.(HTML|Markdown) object)")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    """What nbval compares of a cell's outputs."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


def compared(cell: Any) -> bool:
    """Whether some output of the cell is compared that is not just the name of a picture."""
    if UNCOMPARED & set(cell.metadata.get("tags", [])):
        return False
    shown = [text for text in texts(cell) if text and not PICTURES.match(text)]
    return bool(shown) and proves("\n".join(shown))


def proves(text: str) -> bool:
    """Whether comparing this text proves something: it has no measured number, or one that is sure.

    A number with a sign is a difference: it says more or less than 0, or than what it was subtracted from. Where a
    cell prints one, a difference has to be sure; a number without sign is trivially far from 0.
    """
    found = numbers(text)
    differences = [number for number in found if number.text[0] in "+-−"]
    return not found or any(number.errors_from_zero >= SURE for number in differences or found)


def defined_in_package() -> set[str]:
    """Names of all public functions and classes of the package."""
    names: set[str] = set()
    for module in pkgutil.walk_packages(rlhf_mini.__path__, "rlhf_mini."):
        if not module.name.endswith(("__main__", "export.train_trl")):  # a script, and TRL's own
            found = vars(importlib.import_module(module.name))
            names |= {name for name, thing in found.items() if getattr(thing, "__module__", None) == module.name}
    return {name for name in names if not name.startswith("_")}


def test_the_series_begins_at_00_and_uses_no_number_twice() -> None:
    numbers = [int(path.name[:2]) for path in NOTEBOOKS]
    assert numbers[0] == 0
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_small_and_ran_from_top_to_bottom(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST_FILE
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata  # GitHub calls such a notebook invalid
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_are_set_up_before_a_notebook_imports_anything_that_draws(path: Path) -> None:
    first = code_cells(path)[0].source.split("\n\n")
    assert first[0] == "import sys"
    assert first[1].splitlines()[-1] == "%load_ext rlhf_mini.teaching.notebook"


@pytest.mark.parametrize(("text", "counts"), [
    ("it stopped by itself: True", True),
    ("gain +0.83 ± 0.05", True), ("gain +0.30 ± 0.05", True), ("gain -0.29 ± 0.05", False),
    ("accuracy 83.1 ± 1.2 %", True), ("nonsense 1.6 ± 1.1 %", False),
    ("accuracy 83.1 ± 1.2 %, above that of chance by +33.1 ± 1.2 %", True),
    ("accuracy 83.1 ± 1.2 %, below the ceiling by -2.4 ± 1.2 %", False),  # its text compares it with the ceiling
    ("gold +0.02 ± 0.05\nKL +2.31 ± 0.06", True),
])
def test_a_number_counts_that_is_six_errors_from_what_it_is_compared_with(text: str, counts: bool) -> None:
    assert proves(text) == counts


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_six_cells_of_ten_that_show_something_are_really_compared(path: Path) -> None:
    showing = [cell for cell in code_cells(path) if any(texts(cell))]
    share = sum(map(compared, showing)) / len(showing)
    assert share >= 0.6, f"{share:.0%} of {len(showing)} cells"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_reads_as_prose_with_short_cells(path: Path) -> None:
    for cell in code_cells(path):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= LONGEST_CELL, cell.source
    prose = sum(len(cell.source.split()) for cell in read(path).cells if cell.cell_type == "markdown")
    code = sum(len(cell.source.split()) for cell in code_cells(path))
    assert prose > code


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_that_the_package_defines(path: Path) -> None:
    package = defined_in_package()
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.name not in package, f"{node.name} is the package's"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_speaks_of_no_machine(path: Path) -> None:
    told = [cell.source + "".join(texts(cell) if cell.cell_type == "code" else []) for cell in read(path).cells]
    assert not re.search(r"/tmp/|/home/|/root/|/work/", "\n".join(told))


@pytest.mark.parametrize("path", [*NOTEBOOKS, FOLDER / "README.md"], ids=lambda path: path.stem)
def test_links_lead_to_files_that_are_there(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s#]+\.(?:ipynb|md|png))", path.read_text(encoding="utf-8")):
        assert (FOLDER / link).exists(), link


def test_each_notebook_leads_to_the_next() -> None:
    for path, after in pairwise(NOTEBOOKS):
        told = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
        assert f"({after.name})" in "".join(told[-2:]), path.name
