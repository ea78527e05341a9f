"""Plots for notebooks and the report: of a run, of labels and the reward model, and of one ending's tokens."""

from rlhf_mini.plots.backend import picture, subplots  # the first import of matplotlib, in a safe way
from rlhf_mini.plots.labels import LABEL_FORMS, accuracy_against_labels, annotator_agreement, calibration
from rlhf_mini.plots.run import (
    OVERVIEW,
    QUANTITIES,
    curve,
    mean_rewards,
    overview,
    proxy_against_gold,
    reward_to_compare,
    score_against_gold,
    series,
)
from rlhf_mini.plots.style import ARMS, STYLES, Style, labelled_axes, number, without_legend
from rlhf_mini.plots.tokens import token_plot

__all__ = ["ARMS", "LABEL_FORMS", "OVERVIEW", "QUANTITIES", "STYLES", "Style", "accuracy_against_labels",
           "annotator_agreement", "calibration", "curve", "labelled_axes", "mean_rewards", "number", "overview",
           "picture", "proxy_against_gold", "reward_to_compare", "score_against_gold", "series", "subplots",
           "token_plot", "without_legend"]
