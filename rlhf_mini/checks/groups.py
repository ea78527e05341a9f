"""Exercises on methods without a critic: two advantages from groups of endings, and DPO's loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.methods import dpo_loss, grpo_advantages, rloo_advantages


def check_rloo_advantages(function: Any) -> Result:
    """Check f(scores), (N, k) -> (N, k): each ending minus the mean of the other endings of its prompt."""
    return check(RLOO, function)


def check_grpo_advantages(function: Any) -> Result:
    """Check f(scores), (N, k) -> (N, k): each ending minus its group's mean, divided by its standard deviation."""
    return check(GRPO, function)


def check_implicit_reward(function: Any) -> Result:
    """Check f(logp, logp_ref, beta), (N,) -> (N,): the reward for which a policy is the best one."""
    return check(IMPLICIT_REWARD, function)


def check_dpo_loss(function: Any) -> Result:
    """Check f(chosen, rejected, chosen_ref, rejected_ref, beta): the mean loss of the pairs."""
    return check(DPO_LOSS, function)


def flat(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scores as one row, and the number of each one's group. Shapes: (N, k) -> (N k,), (N k,)."""
    return scores.flatten(), torch.arange(len(scores), device=scores.device).repeat_interleave(scores.shape[1])


# --- RLOO -----------------------------------------------------------------------------------------------------------


def rloo(scores: Tensor) -> Tensor:
    return rloo_advantages(*flat(scores)).view(scores.shape)


def mean_with_itself(scores: Tensor) -> Tensor:
    """the ending's own score is in its baseline: take the mean of the other endings only"""
    return scores - scores.mean(1, keepdim=True)


def divided_by_all(scores: Tensor) -> Tensor:
    """the sum of the others is divided by k: there are k - 1 of them"""
    return scores - (scores.sum(1, keepdim=True) - scores) / scores.shape[1]


def over_the_batch(scores: Tensor) -> Tensor:
    """the others are taken from the whole batch: take them from the same prompt, which is a row"""
    return rloo(scores.view(1, -1)).view(scores.shape)


def over_columns(scores: Tensor) -> Tensor:
    """the mean is taken down the columns: a row holds the endings of one prompt"""
    return scores - (scores.sum(0) - scores) / max(1, len(scores) - 1)


def baseline_only(scores: Tensor) -> Tensor:
    """this is the baseline itself: subtract it from the scores"""
    return scores - rloo(scores)


def baseline_minus_score(scores: Tensor) -> Tensor:
    """the sign is turned: an ending that is better than the others has a positive advantage"""
    return -rloo(scores)


GROUPS = {
    "with one prompt": {"scores": torch.tensor([[1.0, 0.0, 2.0]])},
    "with two prompts": {"scores": torch.tensor([[1.0, 0.0, 2.0, -1.0], [5.0, 5.5, 4.0, 7.0]])},
    "with three prompts": {"scores": torch.tensor([[0.5, 1.5], [-2.0, 3.0], [4.0, 4.5]])},
}
SAME = torch.tensor([[0.1, 0.1, 0.1], [1.0, 2.0, 3.0]])

RLOO = Exercise(
    name="RLOO's advantage",
    right=rloo,
    mistakes=[mean_with_itself, divided_by_all, over_the_batch, over_columns, baseline_only, baseline_minus_score],
    cases=GROUPS,
    extremes={"with a group of equal scores": {"scores": SAME}},
)


# --- GRPO -----------------------------------------------------------------------------------------------------------


def grpo(scores: Tensor) -> Tensor:
    return grpo_advantages(*flat(scores)).view(scores.shape)


def not_divided(scores: Tensor) -> Tensor:
    """only the mean is subtracted: divide by the group's standard deviation as well"""
    return mean_with_itself(scores)


def not_centred(scores: Tensor) -> Tensor:
    """the scores are divided by the standard deviation, but the group's mean is not subtracted"""
    return scores / (scores.std(1, keepdim=True) + 1e-4)


def biased_deviation(scores: Tensor) -> Tensor:
    """the standard deviation is the biased one, divided by k: divide by k - 1 (correction=1)"""
    return mean_with_itself(scores) / (scores.std(1, keepdim=True, correction=0) + 1e-4)


def divided_by_group_variance(scores: Tensor) -> Tensor:
    """it is divided by the variance: divide by its square root, the standard deviation"""
    return mean_with_itself(scores) / (scores.var(1, keepdim=True) + 1e-4)


def batch_deviation(scores: Tensor) -> Tensor:
    """the standard deviation is that of the whole batch: take one of each group"""
    return mean_with_itself(scores) / (scores.std() + 1e-4)


def batch_mean_and_deviation(scores: Tensor) -> Tensor:
    """mean and standard deviation are those of the whole batch: take those of each group, which is a row"""
    return (scores - scores.mean()) / (scores.std() + 1e-4)


def left_out_and_divided(scores: Tensor) -> Tensor:
    """the baseline is RLOO's, the mean of the others: GRPO takes the mean of the whole group"""
    return rloo(scores) / (scores.std(1, keepdim=True) + 1e-4)


GRPO = Exercise(
    name="GRPO's advantage",
    right=grpo,
    mistakes=[not_divided, not_centred, biased_deviation, divided_by_group_variance, batch_deviation,
              batch_mean_and_deviation, left_out_and_divided],
    cases=GROUPS,
    extremes={"with a group of equal scores (0 / 0: add 1e-4 to the standard deviation)": {"scores": SAME}},
)


# --- DPO ------------------------------------------------------------------------------------------------------------


def implicit_reward(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    return beta * (logp - logp_ref)


def reference_first(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """the sign is turned: what the policy writes more often than the reference has a positive reward"""
    return beta * (logp_ref - logp)


def price_missing(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """beta is missing: it turns nats into units of the score"""
    return logp - logp_ref


def divided_by_price(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """it is divided by beta: solve policy = reference * exp(reward / beta) / Z for the reward"""
    return (logp - logp_ref) / beta


def reference_missing(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """the reference is missing: an ending that both models like has no high reward"""
    return beta * logp


def ratio_itself(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """this is the ratio of the probabilities: take its logarithm, the difference of the log-probabilities"""
    return beta * (logp - logp_ref).exp()


NATS = {"logp": torch.tensor([-3.0, -7.0, -5.0]), "logp_ref": torch.tensor([-4.0, -6.5, -5.0])}
IMPLICIT_REWARD = Exercise(
    name="implicit reward",
    right=implicit_reward,
    mistakes=[reference_first, price_missing, divided_by_price, reference_missing, ratio_itself],
    cases={"with beta = 0.5": {**NATS, "beta": 0.5}, "with beta = 0.1": {**NATS, "beta": 0.1}},
)


def sides_swapped(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """chosen and rejected are swapped: the loss must fall when the chosen ending becomes more likely"""
    return dpo_loss(rejected, chosen, rejected_ref, chosen_ref, beta)


def no_reference(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """the reference is missing: compare what each ending has gained over the reference"""
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def no_price(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """beta is missing: the implicit reward is beta times the gain"""
    return dpo_loss(chosen, rejected, chosen_ref, rejected_ref, 1.0)


def price_outside(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """beta stands in front of the logarithm: it belongs inside the sigmoid, with the difference"""
    return beta * dpo_loss(chosen, rejected, chosen_ref, rejected_ref, 1.0)


def summed(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """this is the sum over the pairs: take the mean"""
    return dpo_loss(chosen, rejected, chosen_ref, rejected_ref, beta) * len(chosen)


def positive(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """the minus sign is missing: a loss is the negative of a log-probability"""
    return -dpo_loss(chosen, rejected, chosen_ref, rejected_ref, beta)


PAIRS = {"chosen": torch.tensor([-3.0, -8.0, -5.0]), "rejected": torch.tensor([-4.0, -6.0, -9.0]),
         "chosen_ref": torch.tensor([-3.5, -7.0, -5.5]), "rejected_ref": torch.tensor([-3.0, -6.5, -9.5])}
DPO_LOSS = Exercise(
    name="DPO's loss",
    right=dpo_loss,
    mistakes=[sides_swapped, no_reference, no_price, price_outside, summed, positive],
    cases={"with one pair": {**{name: x[:1] for name, x in PAIRS.items()}, "beta": 0.5},
           "with three pairs": {**PAIRS, "beta": 0.2}},
    extremes={"with gains 2,000 nats apart (sigmoid gives 0 and its logarithm -inf: F.logsigmoid does both at once)":
              {**{name: 1000 * x for name, x in PAIRS.items()}, "beta": 0.5}},
    gradient=True,
)
