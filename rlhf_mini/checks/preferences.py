"""Exercises on preferences: the loss of a pair, and of a whole ranking with ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.reward import bradley_terry_loss, plackett_luce_loss

TieGroups = Sequence[Sequence[int]]


def check_pair_loss(function: Any) -> Result:
    """Check f(chosen, rejected): the mean of -ln sigmoid(chosen - rejected) over the pairs."""
    return check(PAIR_LOSS, function)


def check_plackett_luce(function: Any) -> Result:
    """Check f(scores, ranking): the Plackett-Luce loss, where members of a tie group do not compete with each other."""
    return check(PLACKETT_LUCE, function)


# --- pairs ------------------------------------------------------------------------------------------------------


def swapped(chosen: Tensor, rejected: Tensor) -> Tensor:
    """chosen and rejected are swapped: the loss must fall when the score of the chosen one rises"""
    return bradley_terry_loss(rejected, chosen)


def log_missing(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is the probability itself: the logarithm and the minus sign are missing"""
    return torch.sigmoid(chosen - rejected).mean()


def minus_probability(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is minus the probability: the logarithm is missing"""
    return -torch.sigmoid(chosen - rejected).mean()


def probability_of_the_other(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is the probability that the rejected one wins: a loss takes -ln of the probability that the chosen does"""
    return torch.sigmoid(rejected - chosen).mean()


def minus_missing(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the minus sign is missing: a loss is the negative of a log-probability"""
    return -bradley_terry_loss(chosen, rejected)


def pairs_summed(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is the sum over the pairs: take the mean"""
    return bradley_terry_loss(chosen, rejected) * len(chosen)


def mean_too_early(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the mean is taken of the scores before the loss: take it last, of the losses of the pairs"""
    return -F.logsigmoid((chosen - rejected).mean())


def log_of_mean(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is the logarithm of the mean probability: take the mean of the logarithms"""
    return -torch.sigmoid(chosen - rejected).mean().log()


def margin_only(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is only the difference of the scores: -ln sigmoid of it is missing"""
    return (rejected - chosen).mean()


def hinge(chosen: Tensor, rejected: Tensor) -> Tensor:
    """this is a hinge loss, max(0, 1 - margin): Bradley-Terry takes -ln sigmoid(margin)"""
    return (1 - (chosen - rejected)).clamp(min=0).mean()


def sigmoid_of_each(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the sigmoid is taken of each score by itself: take it of the difference, which alone has a meaning"""
    return (F.logsigmoid(rejected) - F.logsigmoid(chosen)).mean()


def pairs_in_bits(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the logarithm has base 2: these are bits, take the natural one"""
    return bradley_terry_loss(chosen, rejected) / math.log(2)


PAIR_LOSS = Exercise(
    name="pair loss",
    right=bradley_terry_loss,
    mistakes=[swapped, log_missing, minus_probability, probability_of_the_other, minus_missing, pairs_summed,
              mean_too_early, log_of_mean, margin_only, hinge, sigmoid_of_each, pairs_in_bits],
    cases={
        "with one pair": {"chosen": torch.tensor([2.0]), "rejected": torch.tensor([0.5])},
        "with equal scores": {"chosen": torch.tensor([1.5, -1.0]), "rejected": torch.tensor([1.5, -1.0])},
        "with three pairs": {"chosen": torch.tensor([2.0, -1.0, 0.5]), "rejected": torch.tensor([0.0, 1.0, 0.25])},
    },
    extremes={
        "with scores 200 apart (sigmoid gives 0 and its logarithm -inf: F.logsigmoid does both at once)":
            {"chosen": torch.tensor([-100.0, 100.0]), "rejected": torch.tensor([100.0, -100.0])},
    },
    gradient=True,
)


# --- rankings ---------------------------------------------------------------------------------------------------


def choices(scores: Tensor, ranking: TieGroups, ties_compete: bool = False, itself: bool = True) -> list[Tensor]:
    """The loss of each choice, best first: the logsumexp of the remaining scores, minus the score of the chosen one."""
    losses = []
    for depth, group in enumerate(ranking):
        below = [k for later in ranking[depth + 1:] for k in later]
        for i in group:
            remaining = below + (list(group) if ties_compete else [i] if itself else [])
            if remaining:
                losses.append(scores[remaining].logsumexp(0) - scores[i])
    return losses


def ties_compete(scores: Tensor, ranking: TieGroups) -> Tensor:
    """members of a tie group compete with each other: each should compete with itself and those strictly below"""
    return torch.stack(choices(scores, ranking, ties_compete=True)).sum()


def ties_in_order(scores: Tensor, ranking: TieGroups) -> Tensor:
    """the ties are ignored: a group was read as if its members were ranked in the order in which they are listed"""
    return plackett_luce_loss(scores, [[i] for group in ranking for i in group])


def only_the_next(scores: Tensor, ranking: TieGroups) -> Tensor:
    """each one competes only with the next group: it should compete with everything ranked below it"""
    pairs = [ranking[k:k + 2] for k in range(len(ranking))]
    return torch.stack([scores[[i, *(pair[1] if len(pair) > 1 else [])]].logsumexp(0) - scores[i]
                        for pair in pairs for i in pair[0]]).sum()


def only_the_best(scores: Tensor, ranking: TieGroups) -> Tensor:
    """only the first choice is counted: the lower ranks are choices too, each among those that remain"""
    return torch.stack(choices(scores, ranking)[:len(ranking[0])]).sum()


def nobody_removed(scores: Tensor, ranking: TieGroups) -> Tensor:
    """every choice is made among all completions: leave out those ranked above"""
    return (scores.logsumexp(0) - scores).sum()


def itself_missing(scores: Tensor, ranking: TieGroups) -> Tensor:
    """the chosen one is missing from its own denominator: sum over it and everything ranked below"""
    return sum(choices(scores, ranking, itself=False), scores.sum() * 0)


def worst_first(scores: Tensor, ranking: TieGroups) -> Tensor:
    """the ranking is read worst first: ranking[0] holds the best"""
    return plackett_luce_loss(scores, ranking[::-1])


def own_order(scores: Tensor, ranking: TieGroups) -> Tensor:
    """the scores are taken in their own order: the ranking holds indices, and scores[i] is the score of completion i"""
    order = iter(range(len(scores)))
    return plackett_luce_loss(scores, [[next(order) for _ in group] for group in ranking])


def choices_averaged(scores: Tensor, ranking: TieGroups) -> Tensor:
    """this is the mean over the completions: a ranking's log-probability is the sum of its choices"""
    return plackett_luce_loss(scores, ranking) / len(scores)


def ranking_minus_missing(scores: Tensor, ranking: TieGroups) -> Tensor:
    """the sign is wrong: this is the log-probability, and the loss is its negative"""
    return -plackett_luce_loss(scores, ranking)


def ranking_in_bits(scores: Tensor, ranking: TieGroups) -> Tensor:
    """the logarithm has base 2: these are bits, take the natural one"""
    return plackett_luce_loss(scores, ranking) / math.log(2)


def all_pairs(scores: Tensor, ranking: TieGroups) -> Tensor:
    """this is the sum of the pair losses: Plackett-Luce makes one choice among all that remain, not one a pair"""
    return sum((F.softplus(scores[k] - scores[i]) for depth, group in enumerate(ranking) for i in group
                for later in ranking[depth + 1:] for k in later), scores.sum() * 0)


SCORES = torch.tensor([0.5, 2.0, -1.0, 1.2])

PLACKETT_LUCE = Exercise(
    name="Plackett-Luce",
    right=plackett_luce_loss,
    mistakes=[ties_compete, ties_in_order, only_the_next, only_the_best, nobody_removed, itself_missing, worst_first,
              own_order, choices_averaged, ranking_minus_missing, ranking_in_bits, all_pairs],
    cases={
        "with two completions": {"scores": torch.tensor([0.3, 1.4]), "ranking": [[1], [0]]},
        "without ties": {"scores": SCORES, "ranking": [[3], [1], [0], [2]]},
        "with a tie in the middle": {"scores": SCORES, "ranking": [[2], [3, 0], [1]]},
        "with a tie at the top": {"scores": SCORES, "ranking": [[1, 3], [0], [2]]},
        "with all tied": {"scores": SCORES, "ranking": [[0, 1, 2, 3]]},
    },
    extremes={
        "with scores in the hundreds (exp overflows: logsumexp does not)":
            {"scores": 200 * SCORES, "ranking": [[3], [1, 2], [0]]},
    },
    gradient=True,
)
