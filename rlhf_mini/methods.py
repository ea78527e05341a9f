"""Other ways to the objective of PPO, E[score] - beta * KL(policy || reference): none of them has a critic.

All sample, score and compare with the reference as PPO does (`training.train_method`). They differ in two things: how
much better than expected an ending was (its advantage), and the loss. B is endings, T tokens, N pairs; the endings of
one prompt are a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.errors import InputError
from rlhf_mini.kl import live, masked_mean, masked_sum
from rlhf_mini.ppo import policy_loss
from rlhf_mini.reward import bradley_terry_loss
from rlhf_mini.sampling import Rollout

# --- advantages -----------------------------------------------------------------------------------------------------


def batch_advantages(scores: Tensor) -> Tensor:
    """Better than the batch. Shapes: (B,) -> (B,). Source: Williams 1992 (REINFORCE)."""
    return scores - scores.mean()


def rloo_advantages(scores: Tensor, group: Tensor) -> Tensor:
    """Better than the mean of the other endings of the same prompt. Shapes: (B,), (B,) -> (B,).

    Raises: InputError where an ending has no others. Source: Kool et al. 2019; Ahmadian et al. 2024 (RLOO).
    """
    mean, size = group_means(scores, group)
    return (scores - mean) * size / (size - 1)  # the mean of the others leaves the ending itself out


def grpo_advantages(scores: Tensor, group: Tensor, std: bool = True) -> Tensor:
    """Better than the mean of the group and, with `std`, divided by the group's standard deviation.

    The deviation is the unbiased one, plus 1e-4; a group of equal scores gets zeros. Shapes: (B,), (B,) -> (B,).
    Raises: InputError where a group has one ending. Source: Shao et al. 2024 (GRPO); Liu et al. 2025, without `std`.
    """
    mean, size = group_means(scores, group)
    centred = scores - mean
    variance = group_means(centred.square(), group)[0] * size / (size - 1)
    return centred / (variance.sqrt() + 1e-4) if std else centred


def group_means(x: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """For each ending, the mean of x over its group, and the group's size. Shapes: (B,), (B,) -> (B,), (B,)."""
    if x.shape != group.shape or x.ndim != 1:
        raise InputError(f"scores have shape {tuple(x.shape)} but group has {tuple(group.shape)}: give (B,) for both")
    x = kl.full_precision(x)
    if not x.isfinite().all():
        raise InputError(f"one of the scores is {x[~x.isfinite()][0].item()}: give finite numbers")
    numbers, which, size = group.unique(return_inverse=True, return_counts=True)
    if (size < 2).any():
        raise InputError(f"group {numbers[size.argmin()].item()} has one ending: sample at least two for each prompt")
    member = x.new_zeros(len(size)).scatter(0, which, x)  # one of each group: equal scores have exactly their mean
    return (member + x.new_zeros(len(size)).index_add(0, which, x - member[which]) / size)[which], size[which]


# --- losses ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Sampled endings, what they are worth, what a nat costs; and by how much a minibatch's sums are divided."""

    rollout: Rollout
    score: Tensor  # (B,)
    logp_ref: Tensor  # (B, T)
    group: Tensor  # (B,) the number of each ending's prompt
    kl_coef: float
    clip: float
    endings: float  # of an average minibatch
    tokens: float  # of an average minibatch, live ones

    @property
    def reward(self) -> Tensor:
        """Score - beta * KL as sampled, k1: its mean is the objective. Shapes: -> (B,)."""
        log_ratio = kl.estimate(self.rollout.logp, self.logp_ref, "k1")
        return self.score - self.kl_coef * masked_sum(log_ratio, self.rollout.mask)

    def select(self, rows: Tensor) -> Batch:
        return replace(self, rollout=self.rollout.select(rows), score=self.score[rows], logp_ref=self.logp_ref[rows],
                       group=self.group[rows])


def clipped_loss(logp: Tensor, batch: Batch, advantages: Tensor, kl_kind: Literal["k1", "k2", "k3"] | None = None,
                 by_ending: bool = False) -> Tensor:
    """PPO's loss with one advantage for all tokens of an ending; with `kl_kind` it charges for the KL itself.

    Every token weighs the same or, with `by_ending`, every ending. Shapes: (B, T), B endings, (B,) -> scalar.
    """
    mask, divisor = batch.rollout.mask, batch.endings if by_ending else batch.tokens
    weight = torch.ones_like(logp) / (batch.rollout.lengths.clamp(min=1)[:, None] if by_ending else 1)  # (B, T)
    loss = policy_loss(logp, batch.rollout.logp, advantages[:, None] * weight, mask, batch.clip, denominator=divisor)
    if kl_kind is None:
        return loss
    charge = kl.estimate(live(logp, mask, "logp"), live(batch.logp_ref, mask, "logp_ref"), kl_kind)
    return loss + batch.kl_coef * masked_mean(charge * weight, mask, divisor)


def dpo_loss(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """Bradley-Terry, with beta * ln(policy / reference) as the score of an ending: the implicit reward.

    Shapes: (N,) each, log-probabilities of whole endings -> scalar mean. Source: Rafailov et al. 2023, equation 7.
    """
    if any(x.shape != chosen.shape or x.ndim != 1 for x in (chosen, rejected, chosen_ref, rejected_ref)):
        raise InputError("log-probabilities have other shapes than (N,): give four sums over the tokens for each pair")
    return bradley_terry_loss(beta * (chosen - chosen_ref), beta * (rejected - rejected_ref))


def preference_loss(logp: Tensor, batch: Batch, scores: Tensor, hard: bool = False) -> Tensor:
    """DPO on all pairs of each group, labelled by the scores: as often as Bradley-Terry says or, `hard`, always.

    Shapes: (B, T), B endings, (B,) -> scalar, a mean over pairs.
    """
    implicit = batch.kl_coef * masked_sum(logp - batch.logp_ref, batch.rollout.mask)  # (B,) rewards, as in `dpo_loss`
    i, j = (batch.group[:, None] == batch.group).triu(1).nonzero().T  # each pair once
    wins = (scores[i] - scores[j]).sign() / 2 + 0.5 if hard else (scores[i] - scores[j]).sigmoid()
    losses = F.binary_cross_entropy_with_logits(implicit[i] - implicit[j], wins, reduction="sum")
    return losses * len(logp) / (batch.endings * max(len(i), 1))  # no pairs: a process without a group of its own


# --- methods --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What the advantage is, and what the loss is."""

    advantages: Callable[[Batch], Tensor]  # (B,), once for each batch
    loss: Callable[[Tensor, Batch, Tensor], Tensor] = clipped_loss  # of log-probabilities, a minibatch, its advantages


METHODS = {
    "REINFORCE": Method(lambda batch: batch_advantages(batch.reward)),
    "RLOO": Method(lambda batch: rloo_advantages(batch.reward, batch.group)),
    "GRPO": Method(lambda batch: grpo_advantages(batch.score, batch.group),
                   partial(clipped_loss, kl_kind="k3", by_ending=True)),
    "online DPO": Method(lambda batch: batch.score, preference_loss),
}
