"""The sentences of a report follow from a run's numbers, whatever they are."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_mini.report.findings import (
    MEASURED,
    direction,
    headline,
    is_fooled,
    remark,
    story_caption,
    telling_story,
    unusual,
)

Means = tuple[float | None, float | None]  # score and gold


def run(sft: Means, ppo: Means, no_kl: Means, samples: int = 1024) -> dict[str, Any]:
    return {arm: {"proxy_mean": score, "gold_mean": gold, "gold_std": None if gold is None else 1.0, "samples": samples}
            for arm, (score, gold) in zip(MEASURED, (sft, ppo, no_kl), strict=True)}


USUAL = run((0.0, 0.0), (1.3, 1.2), (2.5, -3.5))
MILD = run((0.0, 0.0), (1.3, 1.2), (1.8, 0.6))


def test_a_usual_run() -> None:
    assert headline(USUAL) == ("Without the KL penalty, the score rose to +2.50 and gold fell to −3.50; with it, score "
                               "and gold both rose, to +1.30 and +1.20.")
    assert remark(USUAL).startswith("That is usual: ") and remark(USUAL).endswith("worse than before training.")
    assert remark(MILD).endswith("worse than with it.")


@pytest.mark.parametrize(("metrics", "sentence", "odd"), [
    (run((0.0, 0.0), (0.01, 0.02), (2.5, -3.0)), "with it, score and gold both hardly changed, +0.01 and +0.02.",
     ["with the penalty, PPO did not raise the score"]),
    (run((0.0, 0.0), (1.0, -0.5), (2.0, -3.0)), "with it, the score rose to +1.00 and gold fell to −0.50.",
     ["with the penalty, the score rose and gold did not"]),
    (run((0.0, 0.0), (1.0, 0.01), (2.0, -3.0)), "with it, the score rose to +1.00 and gold stayed near +0.01.",
     ["with the penalty, the score rose and gold did not"]),
    (run((0.0, 0.0), (1.0, 1.0), (1.5, 1.5)), "score and gold both rose, to +1.50 and +1.50; with it",
     ["without the penalty, gold is not lower than with it, so nothing shows that the reward model was exploited"]),
    (run((0.0, 0.0), (1.0, 1.0), (0.5, -1.0)), "the score rose to +0.50 and gold fell to −1.00",
     ["without the penalty, the score is not higher than with it"]),
    (run((0.0, 0.0), (-1.0, -1.0), (-1.0, -1.0)), "Without the KL penalty, score and gold both fell, to −1.00 and −1",
     ["with the penalty, PPO did not raise the score", "without the penalty, the score is not higher than with it",
      "without the penalty, gold is not lower than with it, so nothing shows that the reward model was exploited"]),
])
def test_a_run_that_is_not_usual_says_so(metrics: dict[str, Any], sentence: str, odd: list[str]) -> None:
    assert sentence in headline(metrics)
    assert unusual(metrics) == odd
    assert remark(metrics) == f"This run did not do what is usual: {'; '.join(odd)}."


def test_where_gold_is_not_known_nothing_is_said_of_it() -> None:
    metrics = run((0.0, None), (1.0, None), (2.0, None))
    assert headline(metrics) == "Without the KL penalty, the score rose to +2.00; with it, the score rose to +1.00."
    assert remark(metrics).startswith("Gold is not known in this run")
    odd = run((0.0, None), (1.0, None), (1.0, None))
    assert remark(odd) == ("This run did not do what is usual: without the penalty, the score is not higher than with "
                           "it.")


def test_what_is_not_measured_is_not_spoken_of() -> None:
    assert headline({}) == remark({}) == headline({"sft": USUAL["sft"], "ppo": None}) == ""
    part = {"sft": USUAL["sft"], "ppo": USUAL["ppo"]}
    assert headline(part) == "With the KL penalty, score and gold both rose, to +1.30 and +1.20." and remark(part) == ""


@pytest.mark.parametrize(("samples", "moved"), [(16, 0), (512, 1)])
def test_a_difference_within_twice_its_error_is_none(samples: int, moved: int) -> None:
    metrics = run((0.0, 0.0), (0.3, 0.3), (0.3, 0.3), samples)
    assert direction(metrics, "sft", "ppo", "gold") == direction(metrics, "sft", "ppo", "proxy") == moved


def story(*rows: Means) -> dict[str, Any]:
    return {arm: {"proxy": score, "gold": gold, "coherent": True}
            for arm, (score, gold) in zip(MEASURED, rows, strict=True)}


FOOLED, BETTER, TWO_WORST = (story((0, 1), (1, 2), (2, -3)), story((0, -1), (2, 2), (1, 0)),
                             story((0, -3), (1, 2), (2, -3)))
UNKNOWN = story((0, None), (1, None), (2, None))


def test_the_story_shown_first_is_one_whose_worst_ending_has_the_highest_score() -> None:
    assert [is_fooled(one) for one in (FOOLED, BETTER, TWO_WORST, UNKNOWN)] == [True, False, False, False]
    nonsense = {**FOOLED, "ppo": {**FOOLED["ppo"], "coherent": False}}
    assert telling_story([BETTER, nonsense, FOOLED, TWO_WORST]) is FOOLED
    assert telling_story([BETTER]) is BETTER and telling_story([UNKNOWN]) is UNKNOWN
    assert telling_story([]) is telling_story([{"opening": "x", "sft": FOOLED["sft"]}]) is None


def test_where_there_is_none_the_page_says_so() -> None:
    assert story_caption(BETTER, 8) == ("The highest score, +2.00, goes to PPO with KL, and it is also the best of the "
                                        "three: in none of 8 openings has the worst ending the highest score.")
    third = story_caption(story((3, 0), (2, 2), (1, -1)), 8)
    assert third.startswith("The highest score, +3.00, goes to the model after SFT: in none")
    assert story_caption(UNKNOWN, 8) == ("The highest score, +2.00, goes to PPO without KL. Gold is not known in this "
                                         "run: read the three, and judge for yourself.")
