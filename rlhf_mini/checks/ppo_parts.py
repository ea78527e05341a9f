"""The exercises on the sampled policy gradient and on the value loss of PPO."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import FULL, MASK, Exercise, Result
from rlhf_mini.kl import masked_mean
from rlhf_mini.ppo import value_loss
from rlhf_mini.teaching.policy_gradient import exact_gradient, policy_gradient


def check_policy_gradient(function: Any) -> Result:
    """Check f(logits, reward, samples, baseline): the gradient estimated from the samples, (V,)."""
    return check(POLICY_GRADIENT, function)


def check_value_loss(function: Any) -> Result:
    """Check f(values, values_old, returns, mask, clip): half the squared error, clipped, a mean over live tokens."""
    return check(VALUE_LOSS, function)


# --- policy gradient --------------------------------------------------------------------------------------------


def baseline_missing(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """the baseline is missing: subtract it from the reward of each sample"""
    return policy_gradient(logits, reward, samples)


def baseline_added(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """the baseline is added: subtract it from the reward of each sample"""
    return policy_gradient(logits, reward, samples, -baseline)


def summed(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """this is the sum over the samples: take the mean"""
    return policy_gradient(logits, reward, samples, baseline) * len(samples)


def of_a_loss(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """the sign is wrong: this is the gradient of the loss, minus the expected reward"""
    return -policy_gradient(logits, reward, samples, baseline)


def only_the_sampled(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """minus π is missing: the gradient of ln π(a) is 1 at the token a, less π at every token"""
    one_hot = F.one_hot(samples, len(logits)).to(reward)
    return ((reward[samples] - baseline)[:, None] * one_hot).mean(0)


def of_the_probability(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """this is the gradient of π, not of ln π: the samples come as often as π says, so π must not weigh them again"""
    chance = logits.softmax(0)
    slopes = chance[samples, None] * (F.one_hot(samples, len(logits)) - chance)
    return ((reward[samples] - baseline)[:, None] * slopes).mean(0)


def samples_ignored(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """this is the exact gradient, and the samples are not used: a language model has too many endings to sum over"""
    return exact_gradient(logits, reward)


def rewards_not_looked_up(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """every sample gets the mean reward of the batch: give each the reward of its own token, reward[samples]"""
    own = torch.full_like(reward, reward[samples].mean().item())
    return policy_gradient(logits, own, samples, baseline)


def samples_not_looked_up(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    """every token counts once, whatever was sampled: take the reward and the slopes of the sampled tokens, [samples]"""
    return policy_gradient(logits, reward, torch.arange(len(logits), device=logits.device), baseline)


LOGITS = torch.tensor([0.5, 0.25, 0.25]).log()
REWARD = torch.tensor([10.0, 14.0, 18.0])

POLICY_GRADIENT = Exercise(
    name="policy gradient",
    right=policy_gradient,
    mistakes=[baseline_missing, baseline_added, summed, of_a_loss, only_the_sampled, of_the_probability,
              samples_ignored, rewards_not_looked_up, samples_not_looked_up],
    cases={
        "with one sample": {"logits": LOGITS, "reward": REWARD, "samples": torch.tensor([2]), "baseline": 13.0},
        "with four samples": {"logits": LOGITS, "reward": REWARD, "samples": torch.tensor([0, 2, 0, 1]),
                              "baseline": 12.0},
        "with logits that are no log-probabilities": {
            "logits": torch.tensor([1.0, -0.5, 3.0, 2.0]), "reward": torch.tensor([0.5, -1.0, 2.0, 0.0]),
            "samples": torch.tensor([2, 2, 3, 0, 1]), "baseline": 0.25},
    },
)


# --- value loss -------------------------------------------------------------------------------------------------


def squares(values: Tensor, values_old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of the values, and of the clipped ones."""
    clipped = values_old + (values - values_old).clamp(-clip, clip)
    return 0.5 * (values - returns).square(), 0.5 * (clipped - returns).square()


def value_never_clipped(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """nothing is clipped: this is half the squared error alone"""
    return masked_mean(squares(values, values_old, returns, clip)[0], mask)


def value_only_clipped(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """only the clipped error is taken: take the maximum of both, or a value that went the wrong way stays there"""
    return masked_mean(squares(values, values_old, returns, clip)[1], mask)


def value_minimum(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """it takes the minimum of the two errors: take the maximum"""
    return masked_mean(torch.minimum(*squares(values, values_old, returns, clip)), mask)


def maximum_of_means(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """this is the larger of the two mean errors: take the larger error of each token first, then the mean"""
    one, other = squares(values, values_old, returns, clip)
    return torch.maximum(masked_mean(one, mask), masked_mean(other, mask))


def half_missing(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the factor 1/2 is missing: with it the slope is the error itself"""
    return 2 * value_loss(values, values_old, returns, mask, clip)


def clipped_as_a_number(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the value itself is clipped to [-clip, clip]: clip how far it has moved from the old value"""
    errors = (values - returns).square(), (values.clamp(-clip, clip) - returns).square()
    return masked_mean(0.5 * torch.maximum(*errors), mask)


def value_mask_ignored(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the mask is ignored: the padding is averaged too"""
    return torch.maximum(*squares(values, values_old, returns, clip)).mean()


def value_summed(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """this is the sum over the live tokens: take the mean"""
    return value_loss(values, values_old, returns, mask, clip) * mask.sum()


def value_over_slots(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """the padding is set to 0 but still counted: divide by the number of live tokens, mask.sum()"""
    return value_loss(values, values_old, returns, mask, clip) * mask.float().mean()


OLD = torch.tensor([[0.2, -0.5, 1.0, 7.0], [0.0, 0.4, -1.0, 0.6], [0.5, 4.0, -3.0, 2.0]])
NEW = OLD + torch.tensor([[0.9, -0.15, -0.8, 5.0], [-0.7, 0.2, 0.05, 0.6], [1.5, -2.0, 2.0, 1.0]])
TARGETS = torch.tensor([[1.5, 0.3, 1.2, -9.0], [0.8, 0.1, -2.0, 0.9], [1.0, 6.0, 5.0, -4.0]])

VALUE_LOSS = Exercise(
    name="value loss",
    right=value_loss,
    mistakes=[value_never_clipped, value_only_clipped, value_minimum, maximum_of_means, half_missing,
              clipped_as_a_number, value_mask_ignored, value_summed, value_over_slots],
    cases={
        "without padding": {"values": NEW[:2], "values_old": OLD[:2], "returns": TARGETS[:2].clamp(-2, 2),
                            "mask": FULL, "clip": 0.5},
        "with padding": {"values": NEW, "values_old": OLD, "returns": TARGETS, "mask": MASK, "clip": 0.5},
        "where two of three values came closer": {
            "values": torch.tensor([[1.0, 1.0, -0.3]]), "values_old": torch.zeros(1, 3),
            "returns": torch.tensor([[1.0, 1.2, 1.0]]), "mask": FULL[:1, :3], "clip": 0.2},
        "with clip 0.1": {"values": NEW, "values_old": OLD, "returns": TARGETS, "mask": MASK, "clip": 0.1},
    },
    gradient=True,
)
