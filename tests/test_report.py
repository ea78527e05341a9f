"""The report is one safe file that tells the truth about a run, whole or not."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from rlhf_mini import files
from rlhf_mini.report import write_report
from rlhf_mini.report.html import Html, inline_svg, join, tag
from rlhf_mini.report.text import change_text, duration, format_number

EVIL = '<script>alert("x")</script> & <img src="https://example.org/a.png">'


def row(gold: float | None, proxy: float, kl: float, coherent: float | None) -> dict[str, Any]:
    return {"gold_mean": gold, "gold_std": None if gold is None else 0.9, "proxy_mean": proxy, "kl": kl,
            "grammatical": coherent, "coherent": coherent, "ended": 1.0, "distinct": 0.5,
            "length_tokens": 30.25, "samples": 512}


METRICS: dict[str, Any] = {
    "base": row(-3.0, -2.0, 3.0, 0.1), "sft": row(0.0, 0.0, 0.0, 0.97),
    "best_of_4": row(0.8, 1.0, 0.636, 0.97),
    "best_of_16": row(1.2, 1.6, 1.835, 0.96), "ppo": row(1.4, 2.0, 4.3, 0.96),
    "ppo_no_kl": row(-1.3, 4.2, 71.2, 0.2),
    "reward_model": {"accuracy": 0.76, "accuracy_ceiling": 0.8, "pairs_train": 6312, "pairs_test": 1480,
                     "calibration": [{"predicted": 0.3, "observed": 0.35, "count": 60}]},
    "seconds": {"sft": 41.0, "ppo": 118.4, "total": 352.0}, "seed": 3, "versions": {"torch": "2.13.0"},
}
HISTORY = [{"arm": arm, "iteration": i, "score": i, "gold": i, "kl": i, "clip_fraction": 0.1,
            "entropy": 1.0, "length": 30} for arm in ("ppo", "ppo_no_kl") for i in range(3)]
ENDING = {"ending": "They shared it.", "gold": 0.5, "proxy": 0.25, "grammatical": True, "coherent": True}
STORIES = {"stories": [{"opening": "Mira found a key.", "sft": ENDING, "ppo": {**ENDING, "coherent": False},
                        "ppo_no_kl": {**ENDING, "ending": EVIL, "grammatical": False, "coherent": False}}]}


class Page(HTMLParser):
    """What a browser would see: tags, ids, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_half_a_character_does_not_stop_the_report(tmp_path: Path) -> None:
    """UTF-8 has no place for a lone surrogate."""
    story = {"opening": "Mira found a key.", "sft": {**ENDING, "ending": "They shared \ud800it."}}
    assert "They shared ?it." in render(tmp_path, METRICS, HISTORY, {"stories": [story]})[1].text


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(tmp_path, METRICS, HISTORY, STORIES).read_text(encoding="utf-8")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(files.NotSavedError, match=r"report\.html"):
        write_report(tmp_path, {}, [], {})
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == [before]


def render(folder: Path, metrics: dict[str, Any], history: list[Any],
           samples: dict[str, Any]) -> tuple[str, Page]:
    source = write_report(folder, metrics, history, samples).read_text(encoding="utf-8")
    return source, Page(source)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return render(tmp_path_factory.mktemp("run"), METRICS, HISTORY, STORIES)


def test_a_whole_run_is_reported_in_order(whole: tuple[str, Page]) -> None:
    source, page = whole
    headings = re.findall(r"<h2>(.*?)</h2>", source)
    assert headings == ["The task and the results", "How well the reward model predicts judgements",
                        "PPO with the KL penalty", "PPO without the KL penalty",
                        "The same openings, continued by three models", "Where the time went", "Glossary"]
    assert "seed 3 · 5 min 52 s" in page.text
    assert "+1.40 ± 0.90" in page.text
    assert "≤ 0.64" in page.text  # best-of-n: a bound
    assert "96.0 %" in page.text
    assert "The gold reward fell from +0.00 to −1.30." in page.text
    assert "torch 2.13.0" in page.text
    assert "not finished" not in page.text


def test_every_figure_is_there_and_described(whole: tuple[str, Page]) -> None:
    _, page = whole
    described = [value for name, value in page.attributes if name == "aria-label"]
    assert described == ["Plot: " + title for title in (
        "Gold reward of each model's endings", "Is the reward model as sure as it should be?",
        "Proxy and gold reward over the distance", "Score from the reward model", "Gold reward",
        "KL from the reference", "Clipped probability ratios", "Entropy of the policy",
        "Length of an ending")]
    assert page.tags.count("svg") == 9
    assert "nats per ending" in page.text  # letters stay letters


def test_the_file_needs_nothing_from_outside(whole: tuple[str, Page]) -> None:
    source, page = whole
    assert "http" not in source.replace("https://example.org", "")  # that one is a story's text, escaped
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src"))
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) == {"#"}


def test_ids_are_unique_and_every_reference_is_found(whole: tuple[str, Page]) -> None:
    source, page = whole
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', source)) <= set(ids)


def test_text_is_escaped_wherever_it_comes_from(tmp_path: Path) -> None:
    metrics = {**METRICS, "seed": EVIL, "versions": {EVIL: EVIL}, "reasons": {EVIL: EVIL},
               "seconds": {EVIL: 1.0, "total": 2.0}}
    samples = {"stories": [{"opening": EVIL, "sft": {**ENDING, "ending": EVIL, "gold": EVIL}}]}
    source, page = render(tmp_path, metrics, HISTORY, samples)
    assert "<script" not in source
    assert not {"script", "img"} & set(page.tags)
    assert EVIL in page.text


def test_stories_stand_side_by_side_with_rewards_and_verdict(whole: tuple[str, Page]) -> None:
    _, page = whole
    assert page.tags.count("section") == 3
    for found in ("gold +0.50 · proxy +0.25", "reader: coherent", "reader: grammatical, not coherent",
                  "reader: not grammatical"):
        assert found in page.text


def test_nulls_are_dashes_and_their_reason_is_given(tmp_path: Path) -> None:
    metrics = {**METRICS, **{arm: row(None, 1.0, 2.0, None) for arm in
                             ("base", "sft", "best_of_4", "best_of_16", "ppo", "ppo_no_kl")},
               "reward_model": {**METRICS["reward_model"], "accuracy_ceiling": None},
               "reasons": dict.fromkeys(("gold", "coherent"), "the ranked text is not tales")}
    story = {**ENDING, "gold": None, "grammatical": None, "coherent": None}
    _, page = render(tmp_path, metrics, [{**line, "gold": None} for line in HISTORY],
                     {"stories": [{"opening": "To be,", "sft": story}]})
    assert page.text.count("gold, coherent not known: the ranked text is not tales") == 1
    assert "gold – · proxy +0.25" in page.text
    assert "not read: the reader can read only tales" in page.text
    assert "true probabilities" not in page.text
    assert "mean proxy reward" in page.text
    assert "Proxy reward of each model's endings" in page.text
    assert not re.search(r"\b(None|nan)\b", page.text)


@pytest.mark.parametrize("history", [[], HISTORY[:2]])
def test_a_run_that_was_stopped_can_be_looked_at(tmp_path: Path, history: list[Any]) -> None:
    _, page = render(tmp_path, {"sft": METRICS["sft"], "ppo": None, "reward_model": None}, history, {})
    assert "This run is not finished. Not measured yet: base model, best of 4" in page.text
    assert "The reward model has not been fitted yet." in page.text
    assert "No endings have been sampled yet." in page.text
    assert ("No iteration of PPO has been recorded yet." in page.text) == (not history)


def test_nothing_at_all_still_makes_a_page(tmp_path: Path) -> None:
    _, page = render(tmp_path, {}, [], {})
    assert "No model has been measured yet." in page.text
    assert page.tags.count("svg") == 0


def test_the_same_run_writes_the_same_file(tmp_path: Path, whole: tuple[str, Page]) -> None:
    assert render(tmp_path, METRICS, HISTORY, STORIES)[0] == whole[0]


def test_the_page_reads_in_light_in_dark_and_in_a_narrow_window(whole: tuple[str, Page]) -> None:
    source, _ = whole
    assert "prefers-color-scheme: dark" in source
    assert "figure { margin: 0; background: #fff; color: #1f2328;" in source
    assert 'name="viewport"' in source


@pytest.mark.parametrize(("backend", "settings"), [
    ("garbage", ""),
    ("module://not_there", "text.usetex: True\npath.sketch: 1, 100, 2\nfigure.dpi: 30\naxes.facecolor: black\n"),
    ("TkAgg", "font.family: No Such Font\nsavefig.bbox: tight\nsavefig.format: pdf\naxes.unicode_minus: False\n"),
])
def test_no_setting_of_matplotlib_changes_the_report(backend: str, settings: str, tmp_path: Path,
                                                     whole: tuple[str, Page]) -> None:
    (tmp_path / "matplotlibrc").write_text(settings)
    code = "import rlhf_mini.report; from test_report import *; write_report('.', METRICS, HISTORY, STORIES)"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
                          env={**os.environ, "MPLBACKEND": backend, "PYTHONPATH": path})
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == whole[0]


def test_a_settings_file_that_matplotlib_cannot_read_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes("# größer\n".encode("latin-1"))
    code = ("from rlhf_mini.errors import InputError\n"
            "try: import rlhf_mini.report\n"
            "except InputError as error: print(error)")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert "matplotlibrc" in told.stdout and told.stdout.count("\n") == 1


def test_report_imports_no_torch() -> None:
    code = "import sys, rlhf_mini.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tag_escapes_text_and_leaves_markup() -> None:
    made = tag("p", "a < b", tag("b", "&"), class_='"x"')
    assert made == '<p class="&quot;x&quot;">a &lt; b<b>&amp;</b></p>'
    assert join("<", Html("<br>")) == "&lt;<br>"


def test_inline_svg_keeps_figures_apart() -> None:
    figure = Figure()
    figure.add_subplot().plot([0, 1], [0, 1], label="<b>")
    one, two = inline_svg(figure, "one", "first"), inline_svg(figure, "two", 'a "second"')
    assert not set(re.findall(r'id="([^"]*)"', one)) & set(re.findall(r'id="([^"]*)"', two))
    assert 'aria-label="a &quot;second&quot;"' in two


@pytest.mark.parametrize(("value", "pattern", "text"), [
    (-1.5, "{:+.2f}", "−1.50"), (0.961, "{:.1%}", "96.1\u00a0%"), (6312, "{:,.0f}", "6,312"),
    (None, "{:.2f}", "–"), (float("nan"), "{:.2f}", "–"), ("7", "{:.2f}", "–")])
def test_numbers_as_text(value: Any, pattern: str, text: str) -> None:
    assert format_number(value, pattern) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"),
                                               (352.0, "5 min 52 s")])
def test_durations_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("before", "after", "text"), [
    (0.0, 1.0, "Gold rose from +0.00 to +1.00."), (1.0, 0.5, "Gold fell from +1.00 to +0.50."),
    (0.501, 0.502, "Gold stayed at +0.50."), (None, 0.5, "Gold ended at +0.50."), (0.5, None, "")])
def test_how_a_number_moved(before: Any, after: Any, text: str) -> None:
    assert change_text("Gold", before, after) == text
