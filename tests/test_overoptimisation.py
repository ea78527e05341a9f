"""Overoptimisation: numbers computed by hand, recorded seeds, plots with labels and units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_mini import tales
from rlhf_mini.errors import InputError
from rlhf_mini.metrics import judge_tales
from rlhf_mini.teaching import overoptimisation as over
from rlhf_mini.teaching.overoptimisation import recorded as recorded_module

matplotlib.use("Agg")
LENGTH = [1.0, 1, 1, 1, -1, -1, -1, -1]
KINDNESS = [1.0, 1, -1, -1, 1, 1, -1, -1]
NOISE = [1.0, -1, 1, -1, 1, -1, 1, -1]


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


def test_a_cue_that_comes_through_gold_alone_has_no_partial_correlation() -> None:
    gold = [a + b for a, b in zip(LENGTH, KINDNESS, strict=True)]
    proxy = [a + b for a, b in zip(gold, NOISE, strict=True)]
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



# --- recorded seeds ---------------------------------------------------------------------------------------------


def recorded(*golds: tuple[float, float]) -> dict[str, Any]:
    """A recorded sweep at the coefficients 0 and 0.15; each seed has these two golds."""
    def one(kl_coef: float, gold: float) -> dict[str, Any]:
        told = {"kl": 3.0, "proxy_mean": 1.0, "gold_mean": gold, "gold_readable": gold, "coherent": 0.9,
                "distinct": 0.5}
        return {"kl_coef": kl_coef, "evaluation": told}
    rows = {"endings": {"coherent": [1.0] * 48 + [0.0], "length": [*LENGTH * 6, 9.0], "gold": [*KINDNESS * 6, -3.0],
                        "proxy": [a + b for a, b in zip([*LENGTH * 6, 0.0], [*NOISE * 6, 0.0], strict=True)]}}
    best = {"by": {"proxy": [{"n": 64, "gold": 1.4, "kl": 3.17}]}}
    return {str(3 + i): {"coefficients": {"sft": one(0, 0.0), "0.15": one(0.15, high), "0": one(0.0, low)},
                         "best_of_n": best, "length": rows} for i, (low, high) in enumerate(golds)}


def test_a_sweep_is_a_mean_over_seeds_and_half_their_range() -> None:
    rows = over.sweep_table(recorded((-3.0, 1.0), (-2.0, 1.2)))
    assert list(rows) == ["0", "0.15", "before"]
    assert (rows["0"]["gold"].value, rows["0"]["gold"].error) == (-2.5, 0.5)
    assert str(rows["0.15"]["coherent"]).startswith("90") and "%" in str(rows["0.15"]["coherent"])


def test_the_coefficient_with_the_most_gold_of_each_seed() -> None:
    found = over.turning_points(recorded((-3.0, 1.0), (2.0, 1.2)))
    assert [row["most gold at"] for row in found.values()] == ["0.15", "0"]
    assert over.best_of_n_row(recorded((2.0, 1.0))["3"])["at"] == "0"


def test_a_mark_for_each_seed_and_a_bar_from_the_lowest_to_the_highest() -> None:
    ax: Any = over.results_over_seeds(recorded((-3.0, 1.0), (-2.0, 1.2)), {"gold_mean": "gold"}, "Gold", "s.d.")
    assert [list(line.get_ydata()) for line in ax.get_lines()] == [[-3.0, 1.0], [-2.0, 1.2]]
    assert {line.get_linestyle() for line in ax.get_lines()} == {"None"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.15"]


def test_length_is_correlated_among_endings_that_make_sense() -> None:
    row: Any = over.length_row(recorded((0.0, 0.0))["3"]["length"]["endings"])
    assert row["endings"] == 48 and row["length with gold"].value == pytest.approx(0)
    assert row["with score"].value == pytest.approx(1 / math.sqrt(2))


def repaired(**golds: float) -> dict[str, Any]:
    """The parts of one seed's repairs, all with gold 0 but for these (path with _ for /)."""
    pairs = [*recorded_module.CLAIMS.values(), *recorded_module.MORE_CLAIMS.values()]
    paths = {path for pair in pairs for path in pair}
    seed: dict[str, Any] = {}
    for path in paths:
        place = seed
        *sections, last = path.split("/")
        for section in sections:
            place = place.setdefault(section, {})
        gold = golds.get(path.replace("/", "_"), 0.0)
        place[last] = {"diverged": "iteration 3"} if math.isnan(gold) else {"evaluation": {
            "gold_mean": gold, "objective": gold, "proxy_mean": 1.0, "proxy_first": 1.0, "kl": 2.0, "coherent": 0.5,
            "distinct": 0.5}}
    for kind in ("fits", "heads"):
        seed[kind]["members"] = {"sft": {"disagreement": [1.0, 1.0]},
                                 "baseline": {"disagreement": [4.0, 2.0], "coherent": [0.0, 1.0]}}
    return seed


def test_a_claim_is_settled_where_all_seeds_agree() -> None:
    rows = over.claims({"3": repaired(length=0.5, second_round=1.0), "4": repaired(length=0.7, second_round=-1.0)})
    assert rows["length taken out"]["so"] == "more" and rows["length taken out"]["control"] == "baseline"
    assert rows["labels about the policy"]["so"] == "not settled"
    assert rows["four fits, their mean"]["so"] == "not settled"
    assert rows["labels about the policy"]["seeds"] == "1 up, 1 down"
    assert over.settled(rows) == "length taken out (+0.60 ± 0.10)"
    assert over.settled({}) == "none, in every seed"


def test_a_training_that_diverged_is_said() -> None:
    found = over.more_claims({"3": repaired(reused_16=math.nan), "4": repaired()})
    assert found["used 16 times"] == {"minus its control": "diverged", "seeds": "in 1 of 2", "control": "used once"}


def test_disagreement_is_compared_between_models_and_between_endings() -> None:
    found = over.alarms({"3": repaired(), "4": repaired()}, "fits")
    assert found["baseline's over fine-tuned"].value == 3.0
    assert found["nonsense told from sense"].value == 1.0
    assert list(over.outcomes({"3": repaired(), "4": repaired()})["baseline"]) == [
        "own score", "gold", "KL", "coherent", "distinct"]
    assert recorded_module.told_apart([1.0, 2.0], [1.0]) == 0.75
    assert math.isnan(recorded_module.told_apart([], [1.0]))
