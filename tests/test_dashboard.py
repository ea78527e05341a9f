"""The pictures and tables of notebooks 00 and 09, on made-up and recorded runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest

from rlhf_mini import plots
from rlhf_mini.teaching import dashboard, live_story, recorded, the_map
from rlhf_mini.teaching.alarms import first_alarms, seed_histories


@pytest.fixture(autouse=True)
def no_figure_is_left() -> Iterator[None]:
    yield
    plt.close("all")


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_map_has_every_box_and_label() -> None:
    shown = texts(the_map.draw_map())
    assert set(the_map.BOXES) <= set(shown)
    assert {arrow.label for arrow in the_map.ARROWS} <= set(shown)
    assert all({arrow.start, arrow.end} <= set(the_map.BOXES) for arrow in the_map.ARROWS)


def test_the_map_in_words_has_a_line_for_each_arrow() -> None:
    lines = the_map.in_words().splitlines()
    assert len(lines) == len(the_map.ARROWS)
    assert "policy --[writes]--> endings (loop)" in lines and "rankings --[fit]--> reward model" in lines


def test_each_iteration_brings_the_story_of_its_moment() -> None:
    told = iter(["first", "second"])
    training: Any = [SimpleNamespace(stats={"iteration": i, "kl": 0.0}) for i in (1, 2)]
    rows = list(live_story.with_story(training, lambda: next(told)))
    assert [row["story"] for row in rows] == ["first", "second"] and rows[0]["arm"] == "ppo"


@pytest.mark.parametrize("story", ["short.", "A cat cost $5 and $6. " * 60])
def test_the_story_stands_above_the_curves_with_its_iteration(story: str) -> None:
    rows = [{"arm": "ppo", "iteration": i, "score": 0.1 * i, "kl": i, "story": story} for i in (1, 2)]
    axes = live_story.story_above_curves(rows, 8, "There was a cat.", "It slept.")
    figure = axes[0].figure
    figure.canvas.draw()
    assert len(axes) == 2 and figure.axes[0].get_title(loc="left") == "Iteration 2 of 8"
    before, now = texts(figure.axes[0])
    assert before.startswith("Before training: There was a cat. … It slept.")
    assert now.startswith("After 2 updates: There was a cat. …") and now.count("\n") < 3


def test_curves_have_the_median_their_band_and_both_names() -> None:
    axes = dashboard.curves(seed_histories(), "score", "kl", "clip_fraction")
    for ax in axes:
        assert texts(ax) == ["with KL", "without"]
        assert len(ax.lines) == len(plots.ARMS) == len(ax.collections)
        with_kl, without = (text.get_position()[1] for text in ax.texts)
        assert abs(with_kl - without) > 0.99 * dashboard.APART
    assert axes[1].get_yscale() == "symlog" and axes[1].get_ylabel() == "nats per ending"


def test_alarms_stand_in_their_order_and_never_apart() -> None:
    alarms = {"score": lambda x: x < -9, "kl": lambda x: x > 5}
    ax = dashboard.alarm_times(first_alarms(seed_histories(), alarms))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["score", "kl"]  # from the bottom


def test_alarms_are_printed_seed_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.print_alarms(seed_histories(), {"kl": lambda x: x > 5, "score": lambda x: x < -9})
    head, kl, score = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert head.startswith("seed 3 seed 4")
    assert kl.startswith("kl 15 11 13 11 12 83%") and kl.endswith("0 of 5 seeds")
    assert score == "score never never never never never 0 of 5 seeds"


def test_models_have_proxy_and_gold_with_their_range() -> None:
    ax = dashboard.models_over_seeds()
    assert len(ax.texts) == 2 * len(plots.STYLES) and len(ax.lines) == 4 * len(plots.STYLES)


def test_calibration_has_a_point_with_an_error_for_each_bin() -> None:
    ax = dashboard.calibration_with_errors([{"predicted": 0.1, "observed": 0.2, "count": 10},
                                            {"predicted": 0.9, "observed": 1.0, "count": 10}])
    assert len(ax.containers) == 2


def test_tables_have_a_row_for_each_arm_or_seed() -> None:
    assert list(dashboard.critic_table(seed_histories())) == ["with KL", "without"]
    halves = dashboard.half_readable(seed_histories())
    assert [row["gold is highest on line"] for row in halves.values()] == [9, 9, 8, 9, 10]
    for row, arms in zip(halves.values(), seed_histories().values(), strict=True):
        share = arms["ppo_no_kl"]["grammatical"]
        line = row["under half readable from line"]
        assert share[line - 1] < 0.5 <= min(share[:line - 1])


def test_final_figures_are_those_of_the_recorded_run() -> None:
    rows = recorded.final_figures()
    assert list(rows) == [style.label for style in plots.STYLES.values()]
    found = rows["PPO with KL"]["gold"]
    assert found.value == recorded.recorded_metrics()["ppo"]["gold_mean"] and found.error > 0
    assert rows["after SFT"]["KL"] == "0.00"


def test_the_way_has_the_highest_gold_and_the_last() -> None:
    rows = recorded.along_the_way(recorded.recorded_history())
    free = rows["PPO without KL"]
    assert free["highest"].value > free["last"].value
    assert free["readable, last"].value > free["last"].value


def test_proxy_and_gold_have_labels_and_no_legend() -> None:
    ax = recorded.proxy_and_gold(recorded.recorded_history())
    assert len(ax.texts) == 3 and ax.get_legend() is None
