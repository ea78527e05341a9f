"""Overoptimisation, for notebooks: what to measure and to draw when proxy and gold reward move apart."""

from rlhf_mini.teaching.overoptimisation.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    gold_of_readable,
    histories,
    results_over_coefficients,
    rewards_over_distance,
    scores_before_and_after,
    training_curves,
    word_bars,
)
from rlhf_mini.teaching.overoptimisation.measuring import (
    UNREADABLE,
    GoldCurve,
    correlation,
    fit_gold_curve,
    overused,
    readable_gold,
    worth_of_words,
)

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "UNREADABLE", "GoldCurve", "correlation", "fit_gold_curve",
           "gold_of_readable", "histories", "overused", "readable_gold", "results_over_coefficients",
           "rewards_over_distance", "scores_before_and_after", "training_curves", "word_bars", "worth_of_words"]
