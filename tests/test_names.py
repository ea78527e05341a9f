"""Names in any script in the picture of who agrees: never a row of boxes."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib.pyplot as plt
import pytest

from rlhf_mini import plots, rankings
from rlhf_mini.plots import names as in_pictures

NAMES = ["Ada", "Ольга", "فاطمة", "अनु", "王芳", "李雷", "🙂", "$x_$"]


def records(names: list[str]) -> list[rankings.Ranking]:
    return [rankings.Ranking(id=f"{name}{item}", annotator=name, prompt=f"P{item}", completions=["a", "b"],
                             ranking=[[0], [1]]) for name in names for item in range(2)]


def only_the_usual_font(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [font for font in in_pictures.fontManager.ttflist if font.name in ("DejaVu Sans", "Last Resort")]
    monkeypatch.setattr(in_pictures.fontManager, "ttflist", usual)


def test_every_name_is_drawn_without_a_missing_letter(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax: Any = plots.annotator_agreement(rankings.agreement(records(NAMES)))
        ax.figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_yticklabels()]
    plt.close(ax.figure)
    legend = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert sorted(legend.get(label, label) for label in shown) == sorted(NAMES)


def test_a_name_without_a_font_is_a_number_that_a_legend_explains(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only_the_usual_font(monkeypatch)
    ax: Any = plots.annotator_agreement(rankings.agreement(records(["王芳", "Ada", "李雷"])))
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["Ada", "no. 2", "no. 3"]
    plt.close(ax.figure)
    assert capsys.readouterr().out == "no. 2: 李雷\nno. 3: 王芳\n"


def test_in_a_notebook_the_legend_is_html_and_a_name_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython

    shown: list[Any] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", shown.append)
    in_pictures.show_legend({"<王>": "no. 1"})
    (legend,) = shown
    assert "no. 1: <bdi>&lt;王&gt;</bdi>" in legend.data


def test_usual_names_need_no_legend(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_pictures.numbered(["Ada", "Ольга", "O'Neill-Ångström"]) == {}
    in_pictures.show_legend({})
    assert capsys.readouterr().out == ""


def test_a_font_that_cannot_be_read_has_no_letters(tmp_path: Any) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    assert in_pictures._characters(str(broken)) == frozenset()
