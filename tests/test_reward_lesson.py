"""What notebook 04 measures and draws, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_mini.metrics import calibration_bins
from rlhf_mini.teaching import reward_pictures, reward_plots
from rlhf_mini.teaching.measured import Measured
from rlhf_mini.teaching.reward_lesson import (
    against,
    apart,
    beyond,
    by_form,
    gain_of_a_doubling,
    in_all_and_some,
    leans_more,
    overconfident_by,
    recorded_scale,
    when_sure,
)
from rlhf_mini.teaching.ties import print_ties

OPENINGS = ["a", "a", "b", "b", "c", "c", "d", "d"]
MARGINS = torch.tensor([3.0, 2.5, -3.0, 0.5, 4.0, -0.2, 1.0, 2.2])


def test_accuracy_is_set_against_chance_and_the_ceiling() -> None:
    right, certainty = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0.9, 0.8, 1.0, 0.8])
    found = against(right, certainty, list("abcd"))
    assert [found[name].value for name in ("accuracy", "beside chance")] == [0.75, 0.25]
    assert found["beside the ceiling"].value == pytest.approx(0.75 - 0.875)
    assert found["of the way"].value == pytest.approx(0.25 / 0.375)
    wider = against(right, certainty, list("abcd"), again=0.3)
    assert all(wider[name].error > found[name].error for name in found)


def test_where_a_model_is_sure_it_is_counted_how_often_it_is_wrong() -> None:
    found = when_sure(MARGINS, OPENINGS)  # sure from 2.197 on: five pairs, one of them wrong
    assert found["sure of"].value == pytest.approx(5 / 8) and found["is wrong in"].value == pytest.approx(1 / 5)
    said = torch.sigmoid(-torch.tensor([3.0, 2.5, 3.0, 4.0, 2.2])).mean().item()
    assert found["says it is wrong in"].value == pytest.approx(said)
    assert found["more than it says"].value == pytest.approx(1 / 5 - said)


def test_two_models_are_compared_on_the_same_pairs() -> None:
    sure = when_sure(MARGINS, OPENINGS)["more than it says"]
    assert overconfident_by(MARGINS, MARGINS, OPENINGS) == Measured(0.0, 0.0, "+%")
    right = MARGINS.abs()
    found = overconfident_by(MARGINS, right, OPENINGS)
    assert found.value == pytest.approx(sure.value - when_sure(right, OPENINGS)["more than it says"].value, abs=1e-6)
    without = MARGINS * (MARGINS > 0)  # the wrong ones left out
    gone = when_sure(MARGINS[MARGINS > 0], [o for o, m in zip(OPENINGS, MARGINS, strict=True) if m > 0])
    assert overconfident_by(without, MARGINS, OPENINGS).value == pytest.approx(
        gone["more than it says"].value - sure.value, abs=1e-6)


def test_a_figure_of_all_rows_and_of_some_has_a_paired_difference() -> None:
    generator = np.random.default_rng(0)
    x, some = generator.normal(size=200), np.arange(200) % 10 > 0
    found = in_all_and_some(np.mean, x, some=some, by=range(200))
    assert found["all endings"].value == pytest.approx(x.mean())
    assert found["those that make sense"].value == pytest.approx(x[some].mean())
    assert found["difference"].value == pytest.approx(x.mean() - x[some].mean())
    assert found["difference"].error < 0.5 * found["all endings"].error
    wider = in_all_and_some(np.mean, x, some=some, by=range(200), again=0.3)
    assert wider["difference"].error > 0.3


def test_the_scale_of_a_recorded_table_is_found() -> None:
    table = calibration_bins(MARGINS * 1.7)
    assert recorded_scale(MARGINS, table) == 1.7 and apart(MARGINS * 1.7, table) < 1e-6
    assert apart(MARGINS * 1.7, table[:-1]) == 1.0


def test_recorded_accuracies_are_read_by_form_and_size() -> None:
    rows = [{"form": "full", "rankings": size, "seed": seed, "accuracy": accuracy}
            for size, seed, accuracy in ((100, 1, 0.78), (25, 0, 0.6), (25, 1, 0.7), (100, 0, 0.7))]
    found = by_form({"results": rows})
    assert found == {"full": {25: [0.6, 0.7], 100: [0.7, 0.78]}}
    assert gain_of_a_doubling(found["full"], 25, 100) == pytest.approx([0.05, 0.04])


def test_what_is_beyond_gold_has_nothing_to_do_with_gold() -> None:
    gold, noise = np.array([1.0, 2, 3, 4]), np.array([1.0, -1, -1, 1])  # not correlated
    assert np.corrcoef(beyond(gold + noise, gold), gold)[0, 1] == pytest.approx(0, abs=1e-9)
    assert beyond(2 * gold + 1, gold) == pytest.approx(np.zeros(4), abs=1e-6)
    assert leans_more(noise, gold + noise, gold - noise, gold**2) > 0


def test_the_table_of_ties(capsys: pytest.CaptureFixture[str]) -> None:
    print_ties()
    assert capsys.readouterr().out.splitlines()[:2] == [
        "ours              1/4   all three  3/4   pull    1", "sum over orders   1/3   all three    1   pull  5/6"]


def test_an_elimination_shows_the_softmax_over_what_is_left() -> None:
    axes = reward_pictures.elimination([4, 3, 2, 1], [1, 0, 3, 2])
    heights = [[round(bar.get_height(), 3) for bar in ax.patches] for ax in axes]
    assert heights == [[0.4, 0.3, 0.2, 0.1], [0.571, 0.286, 0.143], [0.667, 0.333], [1.0]]
    assert "= 0.057" in axes[0].figure._supxlabel.get_text()


def test_the_calibration_is_that_of_the_metrics_with_intervals() -> None:
    margins = torch.linspace(-2, 3, 60)
    ax = reward_plots.calibration(margins, [str(i // 2) for i in range(60)], "toy")
    drawn = [np.ravel(line.get_xydata()) for line in ax.get_lines() if line.get_marker() == "o"]
    expected = [(row["predicted"], row["observed"]) for row in calibration_bins(margins)]
    assert np.allclose(drawn, expected, atol=1e-6)
    assert len(ax.containers) == len(expected)  # each with its interval


def test_the_other_pictures_name_what_they_draw() -> None:
    texts = [text.get_text() for text in reward_pictures.three_heads().texts]
    assert {"LM head (02)", "value head (05)", "reward head (here)", "EOS", "pad"} <= set(texts)
    ax = reward_plots.to_the_ceiling({"x": Measured(0.8, 0.02, "%"), "y": Measured(0.6, 0.1, "%")}, [0.9, 0.99])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["y", "x"]
    length = np.arange(24.0)
    ax = reward_plots.liking_for_length(length, length % 5, {"one": length % 3, "two": length % 7},
                                        [str(i % 8) for i in range(24)])
    assert {"one", "two"} <= {text.get_text() for text in ax.texts}
