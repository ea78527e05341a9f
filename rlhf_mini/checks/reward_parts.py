"""Exercises on the parts of a reward model: where the score is read, and the best accuracy that there can be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result


def check_scores(function: Any) -> Result:
    """Check f(hidden, weight, lengths), (B, T, D), (D,), (B,) -> (B,): the score at the last live token of each row."""
    return check(SCORES, function)


def check_ceiling(function: Any) -> Result:
    """Check f(probabilities), (N,) -> a number: the best accuracy that any scorer can expect."""
    return check(CEILING, function)


# --- where the score is read ------------------------------------------------------------------------------------


def scores_at_the_end(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), lengths - 1] @ weight


def at_the_last_column(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """the score is read in the last column: for a short row that is padding, its last live token is at lengths - 1"""
    return hidden[:, -1] @ weight


def at_the_first_token(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """the score is read at the first token, which has seen nothing of the ending: read it at lengths - 1"""
    return hidden[:, 0] @ weight


def mean_over_tokens(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """this is the mean over the live tokens: read the score at the last one only, which has seen the whole story"""
    live = torch.arange(hidden.shape[1]) < lengths[:, None]  # (B, T)
    return (hidden @ weight * live).sum(1) / lengths


def mean_over_columns(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """this is the mean over all columns, padding too: read the score at the last live token, lengths - 1"""
    return (hidden @ weight).mean(1)


def one_too_far_left(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """the score is read one token too early: a row of n tokens ends at index n - 1"""
    return hidden[torch.arange(len(hidden)), lengths - 2] @ weight


def one_too_far_right(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """the score is read one token too late, in the padding: a row of n tokens ends at index n - 1"""
    return hidden[torch.arange(len(hidden)), lengths] @ weight


def every_length_in_every_row(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """the colon takes every row at every length: pair row b with lengths[b] by torch.arange(B)"""
    return hidden[:, lengths - 1] @ weight


def state_summed(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    """the state is summed without the weights: the score is the state times weight, summed"""
    return hidden[torch.arange(len(hidden)), lengths - 1].sum(-1)


HIDDEN = torch.tensor([[[0.5, -1.0], [2.0, 0.5], [-0.3, 0.8], [1.1, 1.7], [9.0, -7.0]],
                       [[1.2, 0.4], [-0.6, 2.1], [0.9, -1.3], [-8.0, 6.0], [7.0, 5.0]],
                       [[-1.4, 0.2], [0.7, 1.9], [5.0, -9.0], [-6.0, 8.0], [4.0, 3.0]]])  # (B, T, D)
SCORES = Exercise(
    name="scores",
    right=scores_at_the_end,
    mistakes=[at_the_last_column, at_the_first_token, mean_over_tokens, mean_over_columns, one_too_far_left,
              one_too_far_right, every_length_in_every_row, state_summed],
    cases={
        "with three rows": {"hidden": HIDDEN, "weight": torch.tensor([1.0, -0.5]), "lengths": torch.tensor([4, 3, 2])},
        "with two rows": {"hidden": HIDDEN[1:, :4], "weight": torch.tensor([0.3, 2.0]),
                          "lengths": torch.tensor([2, 3])},
    },
    gradient=True,
)


# --- the ceiling ------------------------------------------------------------------------------------------------


def best_accuracy(probabilities: Tensor) -> float:
    return torch.maximum(probabilities, 1 - probabilities).mean().item()


def always_the_first(probabilities: Tensor) -> Tensor:
    """this is the mean of p, what always saying the first would get: the best scorer says the likelier one"""
    return probabilities.mean()


def mean_before_maximum(probabilities: Tensor) -> Tensor:
    """the maximum is taken of the mean: take it in each pair first, then the mean"""
    return torch.maximum(probabilities.mean(), 1 - probabilities.mean())


def maximum_of_all(probabilities: Tensor) -> Tensor:
    """this is the chance of the surest pair only: take the larger of p and 1 - p in each pair, and then the mean"""
    return torch.maximum(probabilities, 1 - probabilities).max()


def largest_p(probabilities: Tensor) -> Tensor:
    """this is the largest p of all pairs: take the larger of p and 1 - p in each pair, and then the mean"""
    return probabilities.max()


def guessing_by_chance(probabilities: Tensor) -> Tensor:
    """this is how often two annotators agree, p * p + (1 - p) * (1 - p): the best scorer says the likelier one"""
    return (probabilities**2 + (1 - probabilities) ** 2).mean()


def distance_from_a_coin(probabilities: Tensor) -> Tensor:
    """this is the mean distance from one half: a coin is right in one half already, so add it"""
    return (probabilities - 0.5).abs().mean()


def worst_accuracy(probabilities: Tensor) -> Tensor:
    """this is the smaller side of each pair: the best scorer says the likelier one and is right with the larger"""
    return torch.minimum(probabilities, 1 - probabilities).mean()


def share_above_half(probabilities: Tensor) -> Tensor:
    """this counts the pairs with p above one half: the likelier side wins with probability p, not always"""
    return (probabilities > 0.5).double().mean()


CEILING = Exercise(
    name="ceiling",
    right=best_accuracy,
    mistakes=[always_the_first, mean_before_maximum, maximum_of_all, largest_p, guessing_by_chance,
              distance_from_a_coin, worst_accuracy, share_above_half],
    cases={
        "with one pair": {"probabilities": torch.tensor([0.3])},
        "with three pairs": {"probabilities": torch.tensor([0.9, 0.2, 0.6])},
        "with a coin toss": {"probabilities": torch.tensor([0.5, 1.0, 0.15, 0.7])},
    },
)
