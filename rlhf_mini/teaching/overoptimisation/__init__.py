"""Overoptimisation, for notebooks: what to measure and to draw when proxy and gold reward move apart."""

from rlhf_mini.teaching.overoptimisation.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    histories,
    results_over_coefficients,
    rewards_over_distance,
    scores_before_and_after,
    training_curves,
    word_bars,
)
from rlhf_mini.teaching.overoptimisation.measuring import (
    GoldCurve,
    correlation,
    fit_gold_curve,
    overused,
    worth_of_words,
)

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "GoldCurve", "correlation", "fit_gold_curve", "histories",
           "overused", "results_over_coefficients", "rewards_over_distance", "scores_before_and_after",
           "training_curves", "word_bars", "worth_of_words"]
