"""Overoptimisation: curves with known coefficients, numbers computed by hand, plots with labels and units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_mini import tales
from rlhf_mini.errors import InputError
from rlhf_mini.metrics import judge_tales
from rlhf_mini.teaching import overoptimisation as over

matplotlib.use("Agg")
LENGTH = [1.0, 1, 1, 1, -1, -1, -1, -1]
KINDNESS = [1.0, 1, -1, -1, 1, 1, -1, -1]
WHIM = [1.0, -1, 1, -1, 1, -1, 1, -1]


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def run(kl_coef: float, kl: float, gold: float, proxy: float, coherent: float = 0.9) -> dict[str, Any]:
    """A recorded run whose history goes in three steps to where it ends."""
    steps = [0.0, 0.5, 1.0]
    return {"kl_coef": kl_coef,
            "evaluation": {"kl": kl, "gold_mean": gold, "proxy_mean": proxy, "coherent": coherent, "grammatical": 1.0,
                           "length_tokens": 36.0},
            "history": {"iteration": [1, 2, 3], "kl": [kl * x for x in steps], "gold": [gold * x for x in steps],
                        "score": [proxy * x for x in steps], "coherent": [1.0, 0.95, coherent],
                        "kl_coef": [kl_coef] * 3}}


RUNS = [run(0.2, 4.0, 1.0, 1.4), run(0.0, 100.0, -3.0, 2.0, 0.1)]
BEST = [{"n": 1, "kl": 0.0, "gold": 0.0, "proxy": 0.0}, {"n": 4, "kl": 0.64, "gold": 0.8, "proxy": 1.0}]


def lines(ax: Any) -> dict[str, Any]:
    return {str(line.get_label()): line for line in ax.get_lines()}


def test_the_two_curves_at_distances_worked_out_by_hand() -> None:
    best = over.GoldCurve("best_of_n", 2.0, 0.5, 1.0)
    assert best([0, 1, 2, 4]).tolist() == [0, 1.5, 2, 0]
    assert best.peak == 2.0
    rl = over.GoldCurve("rl", 1.0, 1.0, 1.0)
    assert rl([0, 1, math.e]) == pytest.approx([0, 1, 0], abs=1e-9)
    assert rl.peak == 1.0
    assert over.GoldCurve("rl", 1.0, 0.0, 1.0).peak == math.inf


@settings(deadline=None)
@given(alpha=st.floats(-3, 3), beta=st.floats(-2, 2))
def test_a_fit_finds_the_curve_that_made_the_points(alpha: float, beta: float) -> None:
    distance = [0, 0.5, 1, 2, 4, 10]
    for form in ("best_of_n", "rl"):
        made = over.GoldCurve(form, alpha, beta, 1.0)
        found = over.fit_gold_curve(distance, made(distance).tolist(), form)
        assert (found.alpha, found.beta) == pytest.approx((alpha, beta), abs=1e-6)


def test_a_fit_says_how_much_it_explains() -> None:
    distance, curve = [0.0, 1, 2, 3], over.GoldCurve("best_of_n", 2.0, 0.5, 1.0)
    assert over.fit_gold_curve(distance, curve(distance).tolist(), "best_of_n").explained == pytest.approx(1)
    jagged = over.fit_gold_curve(distance, [0.0, 3, 0, 3], "best_of_n")
    assert jagged.explained < 0.6


def test_a_fit_needs_points_and_a_known_form() -> None:
    with pytest.raises(InputError, match="1 distances and 1 gains"):
        over.fit_gold_curve([1.0], [1.0], "rl")
    with pytest.raises(InputError, match="different distances above 0"):
        over.fit_gold_curve([0.0, 1.0, 1.0], [0.0, 1.0, 1.0], "rl")
    with pytest.raises(InputError, match="give 'best_of_n' or 'rl'"):
        over.fit_gold_curve([1.0, 2.0], [1.0, 2.0], "ppo")  # type: ignore[arg-type]


def test_a_cue_that_comes_through_gold_alone_has_no_partial_correlation() -> None:
    gold = [a + b for a, b in zip(LENGTH, KINDNESS, strict=True)]
    proxy = [a + b for a, b in zip(gold, WHIM, strict=True)]
    assert over.correlation(LENGTH, proxy) == pytest.approx(1 / math.sqrt(3))
    assert over.correlation(LENGTH, proxy, gold) == pytest.approx(0, abs=1e-12)
    paid = [a + b for a, b in zip(gold, LENGTH, strict=True)]  # length counts twice
    assert over.correlation(LENGTH, paid, gold) == pytest.approx(1)


def test_a_correlation_needs_columns_that_vary() -> None:
    for columns in (([1.0, 2, 3], [1.0, 1, 1]), ([1.0, 2, 3], [1.0, 2]), ([1.0, 2], [2.0, 1])):
        with pytest.raises(InputError, match="give equally many"):
            over.correlation(*columns)


def test_phrases_that_have_spread_each_in_endings_that_no_other_explains() -> None:
    after = ["He gave it away.", "She gave it, gave it, to Tom.", "Tom slept.", "So Ada sang."]
    before = ["He kept it.", "Tom slept."]
    assert over.overused(after, before, words=2, count=3) == [("gave it", 0.5, 0.0), ("ada sang", 0.25, 0.0)]
    assert over.overused(after, before, words=2, count=1) == [("gave it", 0.5, 0.0)]
    assert over.overused(["Tom slept."], before, words=2) == [("tom slept", 1.0, 0.5)]
    assert over.overused(["Short."], [], words=2) == []
    assert over.overused(["Tom slept."], ["Tom slept."], words=2) == []


def test_a_word_is_worth_what_is_lost_without_it() -> None:
    def score(endings: list[str]) -> list[float]:
        return [2.0 * text.split().count("gave") - 0.5 * len(text.split()) for text in endings]

    assert over.worth_of_words(score, "He gave it") == [("He", -0.5), ("gave", 1.5), ("it", -0.5)]


def test_training_curves_are_three_plots() -> None:
    rows = [{"iteration": i, "score": 0.1 * i, "gold": -0.2 * i, "kl": i * i, "coherent": 1 - 0.1 * i}
            for i in range(1, 4)]
    axes: Any = over.training_curves(rows)
    drawn = lines(axes[0])
    assert list(drawn["proxy reward"].get_ydata()) == pytest.approx([0.1, 0.2, 0.3])
    assert drawn["proxy reward"].get_linestyle() != drawn["gold reward"].get_linestyle()
    assert list(axes[1].get_lines()[0].get_ydata()) == [1, 4, 9]
    assert axes[2].get_ylim() == (-0.03, 1.03)
    assert [ax.get_ylabel() for ax in axes] == ["reward (s.d.)", "nats per ending", "fraction"]


def test_ends_are_drawn_over_the_root_of_the_kl() -> None:
    ax: Any = over.rewards_over_distance(RUNS, BEST)
    drawn = lines(ax)
    assert list(drawn["gold, PPO"].get_xdata()) == [2, 10]
    assert list(drawn["gold, PPO"].get_ydata()) == [1, -3]
    assert list(drawn["proxy, best of n"].get_ydata()) == [0, 1]
    assert drawn["proxy, PPO"].get_markerfacecolor() != drawn["gold, PPO"].get_markerfacecolor()
    assert {text.get_text() for text in ax.texts} == {"0.2", "0"}
    assert not over.rewards_over_distance(RUNS, named=False).texts
    assert "best of n" not in " ".join(lines(over.rewards_over_distance(RUNS)))


def test_histories_over_iterations_and_over_distance() -> None:
    ax: Any = over.histories(RUNS, "kl")
    assert list(lines(ax)["0.2"].get_ydata()) == [0, 2, 4]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "nats per ending")
    far: Any = over.histories(RUNS, "gold", over="distance", labels=["fixed", "adaptive"])
    assert list(lines(far)["adaptive"].get_xdata()) == pytest.approx([0, math.sqrt(50), 10])
    assert {line.get_linestyle() for line in far.get_lines()} == {"None"}  # the distance of a run rises and falls
    one, other = ax.get_lines()
    assert one.get_linestyle() != other.get_linestyle() and one.get_marker() != other.get_marker()


def test_results_over_coefficients_are_in_order() -> None:
    ax: Any = over.results_over_coefficients(RUNS, {"coherent": "coherent", "grammatical": "grammatical"}, "Sense", "%")
    assert list(lines(ax)["coherent"].get_ydata()) == [0.1, 0.9]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.2"]
    assert over.results_over_coefficients(RUNS, {"length_tokens": "length"}, "Length", "tokens").get_legend() is None


def test_word_bars_are_read_downwards_and_show_a_cost_without_colour() -> None:
    ax: Any = over.word_bars([("He", -0.5), ("gave", 1.5)], "score +1.0")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["He", "gave"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [bar.get_hatch() for bar in ax.patches] == ["///", ""]


def test_scores_before_and_after_have_a_diagonal() -> None:
    ax: Any = over.scores_before_and_after({"hacked": ([2.0, 1.5], [-1.0, -2.0]), "plain": ([0.0], [0.1])})
    drawn = lines(ax)
    assert list(drawn["hacked"].get_ydata()) == [-1, -2]
    assert np.array_equal(drawn["no change"].get_xdata(), drawn["no change"].get_ydata())


def test_gold_of_the_readable_is_exact_because_all_others_have_the_same() -> None:
    pairs = [tales.write(seed) for seed in range(12)]
    endings = [ending if i % 3 else ending.replace(" ", " soup ", 1 + i) for i, (_, ending) in enumerate(pairs)]
    endings[1] = pairs[2][1]  # can be read, and does not fit its opening
    endings[6], endings[9] = "", pairs[9][1][:25]
    judged = judge_tales([opening for opening, _ in pairs], endings)
    gold, grammatical = judged["gold"].numpy(), judged["grammatical"].numpy()
    assert set(gold[grammatical == 0].tolist()) == {over.UNREADABLE} and (grammatical == 0).sum() == 4
    assert over.readable_gold(gold.mean(), grammatical.mean()) == pytest.approx(gold[grammatical == 1].mean(), abs=1e-6)
    assert np.isnan(over.readable_gold([over.UNREADABLE], [0.0])).all()


def test_gold_of_the_readable_is_drawn_beside_that_of_all() -> None:
    history = [{"arm": "ppo_no_kl", "iteration": i, "kl": float(i * i), "gold": gold, "grammatical": share}
               for i, (gold, share) in enumerate([(0.5, 1.0), (over.UNREADABLE / 2 + 0.5, 0.5)])]
    drawn = lines(over.gold_of_readable(history))
    assert list(drawn) == ["all endings, PPO without KL", "those that can be read", "one that cannot"]
    assert drawn["those that can be read"].get_xdata().tolist() == [0, 1]
    assert drawn["those that can be read"].get_ydata() == pytest.approx([0.5, 1.0])
