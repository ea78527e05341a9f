"""Plots say what they show: labels, units, arms told apart without colour, gaps where nothing is known."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from rlhf_mini import plots, rankings
from rlhf_mini.errors import InputError
from rlhf_mini.teaching import overoptimisation
from rlhf_mini.token_views import TokenView

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def history(iterations: int = 4) -> list[dict[str, Any]]:
    """Two arms that start alike; without KL the score rises faster and gold falls."""
    return [{"arm": arm, "iteration": i, "score": i * slope, "gold": -i if arm == "ppo_no_kl" else i,
             "kl": float(i * i), "clip_fraction": 0.1, "entropy": 1.0, "length": 30.0}
            for arm, slope in (("ppo", 1.0), ("ppo_no_kl", 2.0)) for i in range(iterations)]


def lines(ax: Any) -> dict[str, Any]:
    return {str(line.get_label()): line for line in ax.get_lines()}


def test_curve_draws_both_arms_with_units() -> None:
    ax: Any = plots.curve(history(), "kl")
    drawn = lines(ax)
    assert list(drawn["PPO with KL"].get_ydata()) == [0, 1, 4, 9]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "nats per ending")
    assert ax.get_title(loc="left") == "KL from the reference"
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"PPO with KL", "PPO without KL"}


def test_arms_differ_in_dash_and_marker_and_not_only_in_colour() -> None:
    drawn = lines(plots.curve(history(), "score"))
    with_kl, without = drawn["PPO with KL"], drawn["PPO without KL"]
    assert with_kl.get_linestyle() != without.get_linestyle()
    assert with_kl.get_marker() != without.get_marker()
    assert to_hex(with_kl.get_color()) == "#0072b2"


def test_every_style_is_unlike_the_others() -> None:
    assert len({style.color for style in plots.STYLES.values()}) == len(plots.STYLES)
    assert len({style.marker for style in plots.STYLES.values()}) == len(plots.STYLES)


def test_a_key_without_a_name_is_still_drawn() -> None:
    ax = plots.curve([{"arm": "ppo", "iteration": 0, "grad_norm": 0.5}], "grad_norm")
    assert ax.get_title(loc="left") == "grad norm"
    assert list(lines(ax)["PPO with KL"].get_ydata()) == [0.5]


def test_curve_draws_on_the_axes_it_is_given() -> None:
    _, ax = plt.subplots()
    assert plots.curve(history(), "score", ax) is ax


@pytest.mark.parametrize("iterations", [2, 4, 18])
def test_iterations_are_counted_in_whole_numbers(iterations: int) -> None:
    assert all(tick == round(tick) for tick in plots.curve(history(iterations), "score").get_xticks())


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.3", True])
def test_what_is_not_a_number_is_a_gap(value: Any) -> None:
    rows = [{"arm": "ppo", "iteration": 0, "gold": 1.0}, {"arm": "ppo", "iteration": 1, "gold": value}]
    _, values = plots.series(rows, "ppo", "gold")
    assert values[0] == 1.0
    assert np.isnan(values[1])


def test_a_quantity_that_is_never_known_says_so() -> None:
    ax = plots.curve([{**row, "gold": None} for row in history()], "gold")
    assert [text.get_text() for text in ax.texts] == ["not known in this run"]
    assert ax.get_legend() is None


def test_overview_has_one_axes_per_key_and_one_legend() -> None:
    axes = plots.overview(history())
    assert [ax.get_title(loc="left") for ax in axes] == [plots.QUANTITIES[key][0] for key in plots.OVERVIEW]
    assert [ax.get_legend() is not None for ax in axes] == [True] + [False] * 5
    assert len(plots.overview(history(), ["kl", "score", "gold", "length"])[0].figure.axes) == 4


def test_proxy_against_gold_has_the_root_of_kl_below() -> None:
    rows = history()
    rows[0]["kl"] = -1e-9  # rounding at the start
    drawn = lines(plots.proxy_against_gold(rows))
    assert set(drawn) == {f"{kind}, PPO {arm}" for kind in ("proxy", "gold")
                          for arm in ("with KL", "without KL")}
    assert list(drawn["gold, PPO without KL"].get_xdata()) == [0, 1, 2, 3]
    assert list(drawn["gold, PPO without KL"].get_ydata()) == [0, -1, -2, -3]
    assert drawn["proxy, PPO with KL"].get_markerfacecolor() == "white"


def test_proxy_against_gold_without_gold_draws_the_proxy() -> None:
    drawn = lines(plots.proxy_against_gold([{**row, "gold": None} for row in history()]))
    assert set(drawn) == {"proxy, PPO with KL", "proxy, PPO without KL"}


def test_calibration_leaves_out_empty_bins_and_sizes_the_rest() -> None:
    ax: Any = plots.calibration([{"predicted": 0.25, "observed": 0.3, "count": 10},
                                 {"predicted": 0.5, "observed": None, "count": 0},
                                 {"predicted": 0.75, "observed": 0.7, "count": 40}])
    points = ax.collections[0]
    assert np.asarray(points.get_offsets()).tolist() == [[0.25, 0.3], [0.75, 0.7]]
    assert points.get_sizes()[0] < points.get_sizes()[1]
    assert "50 held-out pairs" in ax.get_legend().get_texts()[1].get_text()
    assert "probability" in ax.get_xlabel()


def test_calibration_of_nothing_says_so() -> None:
    assert [text.get_text() for text in plots.calibration([]).texts] == ["no calibration in this run"]


def test_mean_rewards_puts_the_base_on_top_and_writes_the_means() -> None:
    ax: Any = plots.mean_rewards({"base": {"gold_mean": -3.0, "gold_std": 1.0},
                            "ppo": {"gold_mean": 1.25, "gold_std": 0.5}})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PPO with KL", "base model"]
    assert sorted(text.get_text() for text in ax.texts) == ["+1.25", "−3.00"]
    bars = [list(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2]
    assert bars == [[0.75, 1.75], [-4.0, -2.0]]


def test_mean_rewards_can_show_the_proxy_where_gold_is_unknown() -> None:
    metrics = {"sft": {"gold_mean": None, "gold_std": None, "proxy_mean": 0.0}}
    assert plots.reward_to_compare(metrics) == "proxy_mean"
    assert plots.reward_to_compare({"sft": {"gold_mean": 0.1}}) == "gold_mean"
    ax = plots.mean_rewards(metrics, "proxy_mean")
    assert "Proxy" in ax.get_title(loc="left")
    assert [text.get_text() for text in ax.texts] == ["+0.00"]


def label_efficiency() -> dict[str, Any]:
    """Three seeds at two sizes, in two of the three forms."""
    accuracies = {("full", 25): (0.7, 0.6, 0.65), ("full", 100): (0.8, 0.75, 0.7),
                  ("top_1", 25): (0.5, 0.6, 0.55), ("top_1", 100): (0.6, 0.65, 0.7)}
    return {"ceiling": 0.87, "results": [
        {"rankings": size, "seed": seed, "form": form, "accuracy": accuracy}
        for (form, size), found in accuracies.items() for seed, accuracy in enumerate(found)]}


def test_accuracy_against_labels_draws_the_median_and_the_range_of_the_seeds() -> None:
    ax: Any = plots.accuracy_against_labels(label_efficiency())
    drawn = lines(ax)
    full, winner = drawn[plots.LABEL_FORMS["full"].label], drawn[plots.LABEL_FORMS["top_1"].label]
    assert list(full.get_xdata()) == [25, 100]
    assert list(full.get_ydata()) == [0.65, 0.75]
    assert list(winner.get_ydata()) == [0.55, 0.65]
    bands = [sorted({tuple(point) for point in band.get_paths()[0].vertices}) for band in ax.collections]
    assert bands[0] == [(25, 0.6), (25, 0.7), (100, 0.7), (100, 0.8)]
    assert full.get_linestyle() != winner.get_linestyle()
    assert full.get_marker() != winner.get_marker()


def test_accuracy_against_labels_has_sizes_below_and_ceiling_and_chance_as_lines() -> None:
    ax: Any = plots.accuracy_against_labels(label_efficiency())
    drawn = lines(ax)
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["25", "100"]
    assert (list(drawn["ceiling, 87.0%"].get_ydata()), drawn["ceiling, 87.0%"].get_linestyle()) == ([0.87, 0.87], "--")
    assert (list(drawn["chance"].get_ydata()), drawn["chance"].get_linestyle()) == ([0.5, 0.5], ":")
    assert "fraction" in ax.get_ylabel()


def test_accuracy_against_labels_without_a_ceiling_or_any_fit_says_so() -> None:
    ax: Any = plots.accuracy_against_labels({"ceiling": None, "results": []})
    assert set(lines(ax)) == {"chance"}
    assert [text.get_text() for text in ax.texts] == ["no fit has been recorded"]


DRAWN: list[Any] = [
    lambda: plots.curve(history(), "kl"), lambda: plots.overview(history())[0],
    lambda: plots.proxy_against_gold(history()), lambda: plots.mean_rewards({"sft": {"gold_mean": -1.0}}),
    lambda: plots.calibration([{"predicted": 0.25, "observed": 0.3, "count": 10}]),
    lambda: plots.accuracy_against_labels(label_efficiency()),
    lambda: plots.annotator_agreement(rankings.agreement([rankings.Ranking(
        id="1", annotator="Ada", prompt="p", completions=["a", "b"], ranking=[[0], [1]])])),
    lambda: plots.token_plot([TokenView("a", -1.0, -1.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.1, 0.5, 0.1, (), ())])[0],
    lambda: overoptimisation.word_bars([("word", -0.5)] * 12, "Words"),
    lambda: overoptimisation.training_curves(history())[0],
]
DARK: Any = {"text.usetex": True, "figure.facecolor": "black", "axes.facecolor": "black", "text.color": "white",
        "xtick.color": "white", "font.size": 20.0, "path.sketch": (1.0, 100.0, 2.0), "axes.unicode_minus": False,
        "figure.dpi": 30.0, "axes.formatter.use_locale": True}


@pytest.mark.parametrize("draw", DRAWN)
def test_a_picture_is_the_same_whatever_the_settings_of_matplotlib_are(draw: Any) -> None:
    def pixels() -> Any:
        canvas = draw().figure.canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()

    usual = pixels()
    with matplotlib.rc_context(DARK):
        before = dict(matplotlib.rcParams)
        assert np.array_equal(pixels(), usual)
        assert dict(matplotlib.rcParams) == before


def test_axes_that_are_given_keep_the_settings_of_their_maker() -> None:
    with matplotlib.rc_context({"axes.labelcolor": "white"}):
        _, ax = plt.subplots()
        assert plots.curve(history(), "kl", ax).xaxis.label.get_color() == "white"
        assert plots.curve(history(), "kl").xaxis.label.get_color() == "black"


def test_a_picture_needs_no_backend_that_works() -> None:
    code = ("from rlhf_mini import plots\n"
            "plots.curve([], 'kl').figure.canvas.draw()")
    environment = {**os.environ, "MPLBACKEND": "module://not_there", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_name_is_text_and_not_mathematics() -> None:
    record = rankings.Ranking(id="1", annotator="$x_$", prompt="p", completions=["a", "b"], ranking=[[0], [1]])
    ax = plots.annotator_agreement(rankings.agreement([record]))
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["$x_$"]
    with pytest.raises(InputError, match="no judgements"):
        plots.annotator_agreement(rankings.agreement([]))
