"""The exercise on the clipped surrogate loss of PPO."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import FULL, MASK, Exercise, Result
from rlhf_mini.kl import masked_mean, masked_whiten
from rlhf_mini.ppo import policy_loss


def check_policy_loss(function: Any) -> Result:
    """Check f(logp, logp_old, advantages, mask, clip): the clipped surrogate loss, a mean over live tokens."""
    return check(POLICY_LOSS, function)


def surrogates(logp: Tensor, logp_old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Minus the advantage times the ratio, and times the clipped ratio."""
    ratio = (logp - logp_old).exp()
    return -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)


def tokenwise(logp: Tensor, logp_old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    return torch.maximum(*surrogates(logp, logp_old, advantages, clip))


def minimum_of_losses(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """it takes the minimum of the two losses: take the maximum (the minimum belongs to the surrogate before its
    sign is changed)"""
    return masked_mean(torch.minimum(*surrogates(logp, logp_old, advantages, clip)), mask)


def objective(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the sign is wrong: this is the surrogate, which should rise, and a loss is its negative"""
    return -policy_loss(logp, logp_old, advantages, mask, clip)


def maximum_of_surrogates(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the sign is wrong: with advantage * ratio (no minus) this is the optimistic surrogate, not a loss"""
    return -minimum_of_losses(logp, logp_old, advantages, mask, clip)


def never_clipped(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """nothing is clipped: this is the plain surrogate, -advantage * ratio"""
    return masked_mean(surrogates(logp, logp_old, advantages, clip)[0], mask)


def maximum_missing(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """only the clipped loss is taken: take the maximum of both, or a step that went too far is never corrected"""
    return masked_mean(surrogates(logp, logp_old, advantages, clip)[1], mask)


def clipped_around_zero(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the ratio is clipped to [-clip, clip]: clip it around 1, to [1 - clip, 1 + clip]"""
    ratio = (logp - logp_old).exp()
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(-clip, clip)), mask)


def ratio_backwards(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the ratio is the wrong way round: new divided by old, exp(logp - logp_old)"""
    return policy_loss(logp_old, logp, advantages, mask, clip)


def exponential_missing(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the exponential is missing: logp - logp_old is the logarithm of the ratio"""
    ratio = logp - logp_old
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)), mask)


def ratio_of_logs(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the log-probabilities are divided by each other: the ratio is that of the probabilities, exp of a difference"""
    ratio = logp / logp_old
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)), mask)


def loss_mask_ignored(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the mask is ignored: the padding is averaged too"""
    return tokenwise(logp, logp_old, advantages, clip).mean()


def loss_summed(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """this is the sum over the live tokens: take the mean"""
    return policy_loss(logp, logp_old, advantages, mask, clip) * mask.sum()


def loss_mean_of_rows(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """this is the mean of each row's mean: take one mean over all live tokens, so that each weighs the same"""
    return ((tokenwise(logp, logp_old, advantages, clip) * mask).sum(1) / mask.sum(1)).mean()


def loss_mean_over_slots(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the padding is set to 0 but still counted: divide by the number of live tokens, mask.sum()"""
    return (tokenwise(logp, logp_old, advantages, clip) * mask).mean()


def loss_last_dropped(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """off by one at the end: the last live token of each row, the EOS, is left out"""
    return policy_loss(logp, logp_old, advantages, F.pad(mask[:, 1:], (0, 1)), clip)


def whitened_again(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the advantages are whitened here: use them as they are given"""
    return policy_loss(logp, logp_old, masked_whiten(advantages, mask), mask, clip)


OLD = torch.tensor([[-0.5, -1.2, -3.0, -2.0], [-0.4, -2.0, -0.7, -1.5], [-0.9, -5.0, -3.0, -4.0]])
MOVED = torch.tensor([[0.5, -0.6, 0.1, 3.0], [-0.05, 0.3, -0.4, 0.15], [0.35, -2.0, 2.0, 1.0]])
ADVANTAGES = torch.tensor([[1.0, 0.5, -2.0, 20.0], [-1.5, -0.7, -1.2, 0.8], [2.0, -9.0, 7.0, 30.0]])

POLICY_LOSS = Exercise(
    name="policy loss",
    right=policy_loss,
    mistakes=[minimum_of_losses, objective, maximum_of_surrogates, never_clipped, maximum_missing, clipped_around_zero,
              ratio_backwards, exponential_missing, ratio_of_logs, loss_mask_ignored, loss_summed, loss_mean_of_rows,
              loss_mean_over_slots, loss_last_dropped, whitened_again],
    cases={
        "without padding": {"logp": OLD[:2] + MOVED[:2].clamp(-0.5, 0.5), "logp_old": OLD[:2],
                            "advantages": ADVANTAGES[:2].clamp(-2, 2), "mask": FULL, "clip": 0.2},
        "with padding": {"logp": OLD + MOVED, "logp_old": OLD, "advantages": ADVANTAGES, "mask": MASK, "clip": 0.2},
        "with clip 0.1": {"logp": OLD - MOVED, "logp_old": OLD, "advantages": ADVANTAGES, "mask": MASK, "clip": 0.1},
    },
    gradient=True,
)
