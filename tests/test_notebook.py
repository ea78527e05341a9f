"""What every notebook uses: source as the package runs it, and a picture that follows a loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from matplotlib.axes import Axes
from nbclient import NotebookClient

from rlhf_mini import kl
from rlhf_mini.teaching import notebook

matplotlib.use("Agg")


class Screen:
    """Stands for the front end: what was displayed first, and what replaced it."""

    def __init__(self) -> None:
        self.first: list[Any] = []
        self.later: list[Any] = []

    def display(self, figure: Any, display_id: bool) -> Screen:
        assert display_id
        self.first.append(figure)
        return self

    def update(self, figure: Any) -> None:
        self.later.append(figure)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(notebook, "display", screen.display)
    return screen


def draw(rows: list[int]) -> Axes:
    _, ax = plt.subplots()
    ax.plot(rows)
    return ax


def points(figure: Any) -> int:
    return len(figure.axes[0].lines[0].get_xdata())


def test_one_picture_is_replaced_in_place_and_ends_with_all_rows(screen: Screen) -> None:
    assert notebook.live_plot(range(5), draw, seconds=0) == [0, 1, 2, 3, 4]
    assert [points(figure) for figure in screen.first] == [1]
    assert [points(figure) for figure in screen.later] == [2, 3, 4, 5, 5]
    assert not plt.get_fignums()  # closed, or the notebook would show it once more


def test_pictures_do_not_come_faster_than_asked(screen: Screen) -> None:
    notebook.live_plot(range(50), draw, seconds=3600)
    assert [points(figure) for figure in screen.first + screen.later] == [1, 50]


def test_the_stop_button_leaves_what_there_is(screen: Screen, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> Iterator[int]:
        yield from (7, 8)
        raise KeyboardInterrupt

    assert notebook.live_plot(stopped(), draw, seconds=3600) == [7, 8]
    assert points(screen.later[-1]) == 2
    assert capsys.readouterr().out == "stopped after 2 steps; their rows are kept\n"


def test_several_axes_are_one_figure_and_no_rows_are_no_picture(screen: Screen) -> None:
    notebook.live_plot([1], lambda rows: plt.subplots(1, 2)[1])
    assert len(screen.first[0].axes) == 2
    assert notebook.live_plot([], draw) == [] and len(screen.first) == 1


def test_source_is_shown_as_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    notebook.show(kl.masked_sum, kl.masked_mean)
    shown = capsys.readouterr().out
    assert shown.startswith("def masked_sum(") and "\n\ndef masked_mean(" in shown
    assert "return live(x, mask).sum(-1)" in shown


FIRST = next((Path(__file__).parent.parent / "notebooks").glob("00_*.ipynb"))
DRAW = """
import matplotlib.pyplot as plt
from rlhf_mini import plots
plots.curve([{"arm": "ppo", "iteration": i, "kl": i * i} for i in range(3)], "kl")
_, ax = plt.subplots(figsize=(4, 3), layout="constrained")
line = ax.plot([-1, 2], label="a line")
"""


def pictures() -> list[tuple[str, str]]:
    """What a new kernel shows for a figure of the package and one of pyplot, after a notebook's first lines."""
    first = next(cell.source for cell in nbformat.read(FIRST, as_version=4).cells if cell.cell_type == "code")
    cells = [nbformat.v4.new_code_cell(source) for source in (first.split("import copy")[0], DRAW)]
    made: Any = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=120, kernel_name="python3",
                               resources={"metadata": {"path": str(FIRST.parent)}}).execute()
    shown = [output for cell in made.cells for output in cell.outputs]
    assert all("data" in output for output in shown), shown
    return [(output.data["text/plain"], output.data["image/png"]) for output in shown if "image/png" in output.data]


def test_figures_appear_in_notebooks_whatever_is_set_for_matplotlib(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))  # empty: a person's own settings are left out
    monkeypatch.delenv("MPLBACKEND", raising=False)
    usual = pictures()
    assert [text for text, _ in usual] == ["<Figure size 600x380 with 1 Axes>", "<Figure size 400x300 with 1 Axes>"]
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 50\nfigure.facecolor: black\ntext.usetex: True\n")
    for backend in ("Agg", "garbage"):
        monkeypatch.setenv("MPLBACKEND", backend)
        assert pictures() == usual, backend
