"""What notebook 06 takes from the package: cards of stories, the live picture, both arms, prices."""

from __future__ import annotations

import html
import json
import re
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from rlhf_mini import evaluate, plots
from rlhf_mini.assets import asset
from rlhf_mini.ppo import PPOIteration
from rlhf_mini.teaching import arms, frontier, kl_plots, live_story, story_cards
from rlhf_mini.teaching.measured import Measured, change_of_share

OPENING = "Kofi, who lived near the harbour, had never had a boat."
NASTY = '<script>alert("1")</script> & <b>bold</b>'


@pytest.fixture(autouse=True)
def closed() -> Any:
    yield
    plt.close("all")


def samples(endings: list[str]) -> evaluate.Samples:
    count = len(endings)
    return evaluate.Samples([OPENING] * count, endings, [True] * count, [5] * count, torch.arange(count) / count,
                            torch.ones(count))


def test_what_a_model_wrote_is_escaped_everywhere() -> None:
    story = {"opening": NASTY, "ending": NASTY, "proxy": 0.5, "gold": -1.0}
    rows = [{"iteration": 1, "story": "He sang."}, {"iteration": 4, "story": f"He sang {NASTY}"}]
    told = {"0": {"told": {"6": [story]}}}
    for cards in (story_cards.of_arms(told, {"0": "ppo_no_kl"}, [6]), story_cards.told_over_iterations(NASTY, rows),
                  story_cards.of_samples({NASTY: ("sft", samples([NASTY, "b"]))}, [0])):
        text = cards._repr_html_()
        assert not re.search(r"<script|<b>bold", text)
        assert "&lt;script&gt;" in text


def test_new_words_are_underlined_and_nothing_else() -> None:
    assert story_cards.underlined("He sang a sad song.", "He sang a song.") == "He sang a <u>sad</u> song."
    assert story_cards.underlined("He sang.", "He sang.") == "He sang."
    assert story_cards.underlined("a < b", None) == "a &lt; b"
    plain = re.sub(r"<[^>]+>", "", story_cards.underlined("x & y went home", "y came home"))
    assert html.unescape(plain) == "x & y went home"


def test_cards_name_the_first_iteration_of_each_story() -> None:
    rows = [{"iteration": i, "story": story} for i, story in enumerate("aabbba", start=1)]
    cards = story_cards.told_over_iterations(OPENING, rows).rows[0][1]
    assert [(card.title, card.ending) for card in cards] == [("iteration 1", "a"), ("iteration 3", "b")]


def test_plain_text_of_cards_fits_a_line() -> None:
    lines = repr(story_cards.of_samples({"before": ("sft", samples(["word " * 60] * 2))}, range(2))).splitlines()
    assert max(map(len, lines)) <= 110 and lines[0] == OPENING


def test_a_story_is_told_anew_after_every_third_iteration_and_the_last() -> None:
    told = iter("bcd")
    batch = SimpleNamespace(prompts=[(1,)], tokens=torch.zeros(1, 1, dtype=torch.long), mask=torch.ones(1, 1).bool())
    tokenizer: Any = SimpleNamespace(decode=lambda ids, **options: "x", batch_decode=lambda rows, **options: ["x"],
                                     eos_token_id=0, pad_token_id=0)
    made: Any = [PPOIteration({"iteration": i}, batch) for i in range(1, 6)]  # type: ignore[arg-type]
    training = live_story.with_tales(made, tokenizer)
    rows = list(live_story.with_story(training, lambda: next(told), "a", every=3, last=5))
    assert [row["story"] for row in rows] == ["a", "a", "b", "b", "c"]
    assert rows[0]["gold"] is not None


def test_the_live_picture_fits_a_small_screen_and_says_where_the_run_is() -> None:
    rows = [{"arm": "ppo", "iteration": i, "score": 0.1 * i, "gold": 0.0, "kl": 0.1, "clip_fraction": 0.0,
             "entropy": 0.2, "length": 36.0, "story": "It cost $5 and $6. " * 10} for i in range(1, 6)]
    axes = live_story.story_above_curves(rows, 14, OPENING, "It slept.", plots.OVERVIEW)
    figure = axes[0].figure
    assert len(axes) == 6 and figure.axes[0].get_title(loc="left") == "Iteration 5 of 14"
    width, height = figure.get_size_inches() * 100
    assert width <= 1000 and height <= 480
    assert {ax.get_xlim() for ax in axes} == {(0.5, 14.5)}
    figure.canvas.draw()


@pytest.fixture(scope="module")
def history() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (asset("run-3") / "history.jsonl").read_text("utf-8").splitlines()]


def test_the_kl_of_both_arms_can_be_read_on_one_axis(history: list[dict[str, Any]]) -> None:
    axes = arms.two_arms(history)
    axes[0].figure.canvas.draw()
    ends = {row["arm"]: row["kl"] for row in history}
    heights = [axes[2].transAxes.inverted().transform(axes[2].transData.transform((60, kl)))[1] for kl in ends.values()]
    assert min(heights) > 0.25 and max(heights) - min(heights) > 0.3


def test_the_difference_of_the_arms_is_that_of_their_means(history: list[dict[str, Any]]) -> None:
    both = {arm: [row for row in history if row["arm"] == arm] for arm in ("ppo", "ppo_no_kl")}
    found = arms.arms_apart(both, [6])["iterations 4 to 6"]["gold"]
    means = [sum(row["gold"] for row in both[arm][3:6]) / 3 for arm in ("ppo_no_kl", "ppo")]
    assert found.value == pytest.approx(means[0] - means[1])
    assert found.error == pytest.approx((2 / (3 * 128)) ** 0.5)


def test_three_iterations_have_means_and_their_errors(history: list[dict[str, Any]]) -> None:
    rows = [row for row in history if row["arm"] == "ppo"][:5]
    found = arms.three_iterations(rows, 4)
    assert found["gold"].value == pytest.approx(sum(row["gold"] for row in rows[1:4]) / 3)
    assert found["gold"].error == pytest.approx(384**-0.5)
    whole = [{**row, "grammatical": 1.0} for row in rows]
    assert arms.three_iterations(whole, 4)["readable"] == found["gold"]


def test_figures_of_a_model_have_errors_and_best_of_n_a_bound() -> None:
    row = {"gold_mean": 1.0, "gold_std": 2.0, "proxy_mean": 0.5, "coherent": 0.9, "kl": 1.84, "samples": 400}
    metrics = dict.fromkeys(("sft", "ppo", "best_of_16"), row)
    assert arms.figures_of(metrics, "ppo")["gold"] == Measured(1.0, 0.1)
    assert arms.figures_of(metrics, "ppo")["KL"].error == pytest.approx(0.092)
    assert arms.figures_of(metrics, "best_of_16")["KL"] == "1.84" and "KL" not in arms.figures_of(metrics, "sft")


def test_before_and_after_compares_opening_by_opening() -> None:
    table = arms.before_and_after(samples(["a.", "b.", "c."]), samples(["a.", "a.", "c."]), 0.0)
    assert table["score"]["change"].value == 0 and table["distinct"]["after"].value == pytest.approx(2 / 3)
    assert set(table["KL"]) == {"after"}
    assert table["distinct"]["change"] == change_of_share([True, False, True], [True] * 3)


def test_a_run_that_reaches_the_optimum_has_all_of_it() -> None:
    scores = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    best = frontier.best_at(scores, 0.5)
    found = frontier.beside_best(scores, 0.5, {"kl": best["KL"].value, "proxy_mean": best["score"].value,
                                               "samples": 10_000})
    assert found["J/J*"].value == pytest.approx(1.0, abs=1e-6)
    few = frontier.beside_best(scores, 0.01, {"kl": 5.0, "proxy_mean": 2.0, "samples": 100})
    assert few["J/J*"] == few["best KL"] == "" and few["effective endings"].value < frontier.FEWEST


def test_pictures_of_nats_are_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    one = {kind: torch.rand(16, generator=generator).double() + 0.1 for kind in ("exact", "k1", "k2", "k3")}
    kl_plots.estimator_picture({0.5: one, 1: one})
    rows = [{"kl": 0.1 * i, "score": 0.0} for i in range(5)]
    kl_plots.price_picture({1.5: rows, 0.15: rows[:2]}, 64)
    ax = kl_plots.best_of_n_picture({n: {key: Measured(0.1 * n, 0.1) for key in ("score", "gold")} for n in (1, 4)})
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1\n0.00", "4\n0.64"]
    scores = torch.randn(10, 64, generator=generator)
    ax = frontier.score_over_kl(scores, 0.15, {"kl": [0.1], "score": [0.2]}, {})
    kl_plots.ends_of_runs(ax, {0.15: (2.0, 1.0), 0.0: (230.0, 1.7), 0.01: (12.0, 1.5)})
    shown = [text.get_text() for text in ax.texts]
    assert "0.15" in shown and any(text.endswith("0.01, 0") for text in shown)
    assert ax.get_xlim()[1] < 12
