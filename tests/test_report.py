"""The report is one safe file that tells the truth about a run, whole or not."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
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
LOOKS: list[dict[str, Any]] = [{"arm": arm, "updates": updates, "stories": [
    {"opening": f"Mira found {thing}.", "ended": True, "grammatical": True, "coherent": updates < 2,
     "gold": 1.0 - updates, "proxy": 0.5 * updates,
     "ending": f"{thing} {arm} {updates} {EVIL}"} for thing in ("a key", "an egg")]}
    for arm in ("ppo", "ppo_no_kl") for updates in (0, 1, 3)]
HISTORY = [{"arm": arm, "iteration": i, "score": i, "gold": i, "kl": i, "clip_fraction": 0.1,
            "entropy": 1.0, "length": 30} for arm in ("ppo", "ppo_no_kl") for i in range(1, 4)]
ENDING = {"ending": "They shared it.", "gold": 0.5, "proxy": 0.25, "grammatical": True, "coherent": True}
STORIES = {"stories": [{"opening": "Mira found a key.", "sft": ENDING, "ppo": {**ENDING, "coherent": False},
                        "ppo_no_kl": {**ENDING, "ending": EVIL, "grammatical": False, "coherent": False,
                                      "gold": -3.0, "proxy": 2.0}}]}


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
        if self.lasttag not in ("script", "style"):
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
           samples: dict[str, Any], looks: Any = ()) -> tuple[str, Page]:
    source = write_report(folder, metrics, history, samples, looks).read_text(encoding="utf-8")
    return source, Page(source)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return render(tmp_path_factory.mktemp("run"), METRICS, HISTORY, STORIES, LOOKS)


def test_a_whole_run_is_reported_in_order(whole: tuple[str, Page]) -> None:
    source, page = whole
    headings = re.findall(r"<h2>(.*?)</h2>", source)
    assert headings == ["One story, told three ways: the worst has the highest score",
                        "The stories while the models train",
                        "The task and the results", "How PPO changed the two policies",
                        "How well the reward model predicts judgements",
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
    described = [value for name, value in page.attributes if name == "aria-label" and value.startswith("Plot: ")]
    assert described == ["Plot: " + title for title in (
        "Score against gold, iteration by iteration", "Gold reward of each model's endings",
        "Proxy and gold reward over the distance", "Score from the reward model", "Gold reward",
        "KL from the reference", "Clipped probability ratios", "Entropy of the policy",
        "Length of an ending", "Is the reward model as sure as it should be?")]
    assert page.tags.count("svg") == 10
    assert "nats per ending" in page.text  # letters stay letters


def test_the_file_needs_nothing_from_outside(whole: tuple[str, Page]) -> None:
    source, page = whole
    known = source.replace("https://example.org", "").replace("http-equiv", "")  # the one is a story's text, escaped
    assert "http" not in known
    assert page.tags.count("script") == 1
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src"))
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) == {"#"}


def test_the_browser_may_load_nothing_and_run_only_the_script_of_the_page(whole: tuple[str, Page]) -> None:
    source, page = whole
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    script = source[source.index("<script>") + 8:source.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


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
    assert source.count("<script") == 1 and page.tags.count("script") == 1
    assert "img" not in page.tags
    assert EVIL in page.text


def test_stories_stand_side_by_side_with_rewards_and_verdict(whole: tuple[str, Page]) -> None:
    _, page = whole
    assert page.tags.count("section") == 3 + 2 + 3
    for found in ("score +0.25 · gold +0.50", "reader: coherent", "reader: grammatical, not coherent",
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
    assert "score +0.25 · gold –" in page.text
    assert "not read: the reader can read only tales" in page.text
    assert "true probabilities" not in page.text
    assert "with the penalty, PPO did not raise the score" in page.text
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
    assert render(tmp_path, METRICS, HISTORY, STORIES, LOOKS)[0] == whole[0]


def test_the_page_reads_in_light_in_dark_and_in_a_narrow_window(whole: tuple[str, Page]) -> None:
    source, _ = whole
    assert "prefers-color-scheme: dark" in source
    assert 'name="viewport"' in source
    drawn = set(re.findall(r"(?:fill|stroke): ([^;\"]*)", source[source.index("<svg"):source.rindex("</svg>")]))
    named = set(re.findall(r"--plot-[0-9a-f]{6}(?=:)", source))
    assert {colour.split("(")[0] for colour in drawn} <= {"var", "none"}
    assert {found for colour in drawn for found in re.findall(r"--plot-[0-9a-f]{6}", colour)} <= named


@pytest.mark.parametrize(("backend", "settings"), [
    ("garbage", ""),
    ("module://not_there", "text.usetex: True\npath.sketch: 1, 100, 2\nfigure.dpi: 30\naxes.facecolor: black\n"),
    ("TkAgg", "font.family: No Such Font\nsavefig.bbox: tight\nsavefig.format: pdf\naxes.unicode_minus: False\n"),
])
def test_no_setting_of_matplotlib_changes_the_report(backend: str, settings: str, tmp_path: Path,
                                                     whole: tuple[str, Page]) -> None:
    (tmp_path / "matplotlibrc").write_text(settings)
    code = "import rlhf_mini.report; from test_report import *; write_report('.', METRICS, HISTORY, STORIES, LOOKS)"
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
    (0.501, 0.502, "Gold stayed at +0.50."),
    (-0.004, 0.5, "Gold rose from +0.00 to +0.50."), (None, 0.5, "Gold ended at +0.50."), (0.5, None, "")])
def test_how_a_number_moved(before: Any, after: Any, text: str) -> None:
    assert change_text("Gold", before, after) == text


# --- the scrubber -----------------------------------------------------------------------------------------------

def looks_of(page: Page) -> Any:
    return json.loads(next(value for name, value in page.attributes if name == "data-looks"))


def test_the_scrubber_has_every_look_at_both_arms(whole: tuple[str, Page]) -> None:
    looks = looks_of(whole[1])
    assert looks["updates"] == [0, 1, 3] and looks["openings"] == ["Mira found a key.", "Mira found an egg."]
    assert set(looks["arms"]) == {"ppo", "ppo_no_kl"}
    for stops in looks["arms"].values():
        assert [len(stop["stories"]) for stop in stops] == [2, 2, 2]
        across, down = zip(*(stop["dot"] for stop in stops[:2]), strict=True)
        assert across[0] < across[1] and down[0] > down[1]  # score and gold rise, and y counts from the top
    told, worth, verdict, broken, ring = looks["arms"]["ppo"][2]["stories"][0]
    assert told == f"a key ppo 3 {EVIL}" and worth == "score +1.50 · gold −2.00" and len(ring) == 2
    assert (verdict, broken) == ("reader: grammatical, not coherent", True)


def test_without_scripts_the_last_texts_and_a_table_stand_there(whole: tuple[str, Page]) -> None:
    source, page = whole
    for found in ("a key ppo 3 ", "a key ppo_no_kl 3 ", "updates score, with KL gold, with KL"):
        assert found in " ".join(" ".join(page.words).split())
    assert "a key ppo 1 " not in page.text
    assert '<details open="">' in source and re.search(r'class="controls" hidden', source)
    rows = re.findall(r'<tr><th scope="row">(\d+)</th>(.*?)</tr>', source)
    assert [number for number, _ in rows] == ["0", "1", "3"]
    assert [re.findall(r"<td>(.*?)</td>", cells) for _, cells in rows] == [
        ["+1.00"] * 4, ["+2.00"] * 4, ["+2.00", "+1.40", "+4.20", "−1.30"]]  # the last are those of the evaluation


def test_a_run_without_looks_has_one_sentence_in_the_place_of_the_scrubber(tmp_path: Path) -> None:
    source, page = render(tmp_path, METRICS, HISTORY, STORIES)
    assert "The texts of this run were not recorded while it trained" in page.text
    assert 'type="range"' not in source and page.tags.count("svg") == 9


@pytest.mark.parametrize("looks", [LOOKS[:1], LOOKS[:4], [LOOKS[2], LOOKS[4]], [
    *LOOKS[:3], {**LOOKS[4], "stories": [{**story, "gold": None, "proxy": None} for story in LOOKS[4]["stories"]]}], [
    {**LOOKS[0], "stories": LOOKS[0]["stories"][:1]}, *LOOKS[1:]]])
def test_some_of_the_looks_are_enough(looks: list[Any], tmp_path: Path) -> None:
    """Of a run that was stopped, that an earlier version began, or that has lost a line."""
    found = looks_of(render(tmp_path, {}, [], {}, looks)[1])
    assert all(len(stops) == len(found["updates"]) for stops in found["arms"].values())


def test_where_gold_is_not_known_the_dot_moves_over_the_iterations(tmp_path: Path) -> None:
    history = [{**line, "gold": None} for line in HISTORY]
    looks = [{**look, "stories": [{**story, "gold": None} for story in look["stories"]]} for look in LOOKS]
    metrics = {arm: row(None, 1.0, 2.0, None) for arm in ("sft", "ppo", "ppo_no_kl")}
    source, page = render(tmp_path, metrics, history, {}, looks)
    dots = [stop["dot"][0] for stop in looks_of(page)["arms"]["ppo"]]
    assert dots == sorted(dots) and "Gold is not known in this run." in page.text
    assert "score +1.50 · gold –" in page.text and "Score against gold" not in source


def test_values_can_be_looked_up_in_the_figures(whole: tuple[str, Page]) -> None:
    found = [json.loads(value) for name, value in whole[1].attributes if name == "data-points"]
    texts = [text for points in found for _, _, text in points]
    assert "PPO without KL, iteration 2: score +2.00, gold +2.00" in texts
    assert "PPO with KL, iteration 3: 0.1" in texts and "predicted 30\u00a0%, observed 35\u00a0% of 60 pairs" in texts
    assert all(0 <= x <= 72 * 4.6 and 0 <= y <= 72 * 3.9 for points in found for x, y, _ in points)


def test_each_term_is_linked_once_where_it_first_stands_and_explained(whole: tuple[str, Page]) -> None:
    source, _ = whole
    linked = re.findall(r'<a href="#(term-[\w-]+)"', source)
    assert {"term-score", "term-gold", "term-kl-divergence", "term-reward-model", "term-fine-tune"} <= set(linked)
    assert len(linked) == len(set(linked))
    assert sorted(linked) == sorted(re.findall(r'id="(term-[\w-]+)"', source))


def test_what_a_model_wrote_has_no_links(tmp_path: Path) -> None:
    story = {"opening": "The gold ring.", "sft": {**ENDING, "ending": "A score of nats."}}
    source, _ = render(tmp_path, {}, [], {"stories": [story]})
    assert "The gold ring." in source and "A score of nats." in source
