"""Overoptimisation, for notebooks: what to measure and to draw when proxy and gold reward move apart."""

from rlhf_mini.teaching.overoptimisation.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    rewards_over_distance,
    scores_before_and_after,
    training_curves,
    word_bars,
)
from rlhf_mini.teaching.overoptimisation.fooling import FoolTheRewardModel
from rlhf_mini.teaching.overoptimisation.measuring import (
    UNREADABLE,
    correlation,
    overused,
    readable_gold,
    worth_of_words,
)
from rlhf_mini.teaching.overoptimisation.recorded import (
    alarms,
    best_of_n_row,
    claims,
    final_policies,
    length_row,
    more_claims,
    outcomes,
    results_over_seeds,
    settled,
    sweep_table,
    turning_points,
)
from rlhf_mini.teaching.overoptimisation.stories import StoryAgainstPrice

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "UNREADABLE",
    "FoolTheRewardModel",
    "StoryAgainstPrice",
    "alarms",
    "best_of_n_row",
    "claims",
    "correlation",
    "final_policies",
    "length_row",
    "more_claims",
    "outcomes",
    "overused",
    "readable_gold",
    "results_over_seeds",
    "rewards_over_distance",
    "scores_before_and_after",
    "settled",
    "sweep_table",
    "training_curves",
    "turning_points",
    "word_bars",
    "worth_of_words",
]
