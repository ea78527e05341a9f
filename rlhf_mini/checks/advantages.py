"""The exercise on generalised advantage estimation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import FULL, MASK, Exercise, Result
from rlhf_mini.kl import masked_whiten
from rlhf_mini.ppo import gae

Pair = tuple[Tensor, Tensor]


def check_gae(function: Any) -> Result:
    """Check f(rewards, values, mask, gamma, lam): advantages and returns, both 0 where masked."""
    return check(GAE, function)


def next_values(values: Tensor, mask: Tensor) -> Tensor:
    """The value one token later, 0 after the last live one."""
    return torch.cat([(values * mask)[:, 1:], torch.zeros_like(values[:, :1])], 1)


def accumulated(surprise: Tensor, values: Tensor, decay: float) -> Pair:
    """Surprises summed from the end, where each step back multiplies the sum by `decay`; and the returns."""
    advantages = surprise.clone()
    for t in reversed(range(surprise.shape[1] - 1)):
        advantages[:, t] += decay * advantages[:, t + 1]
    return advantages, advantages + values


def surprises(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float) -> Tensor:
    return (rewards + gamma * next_values(values, mask) - values) * mask


def lambda_missing(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """lambda is missing: what follows is weighed by gamma * lam, not by gamma alone"""
    return gae(rewards, values, mask, gamma, 1.0)


def gamma_missing(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """gamma is missing: it discounts both the next value and the advantage that follows"""
    return gae(rewards, values, mask, 1.0, lam)


def gamma_missing_in_decay(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """gamma is missing before the advantage that follows: that is weighed by gamma * lam, not by lam alone"""
    return accumulated(surprises(rewards, values, mask, gamma), values, lam)


def gamma_missing_in_surprise(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """gamma is missing before the next value: the surprise is reward + gamma * next value - value"""
    return accumulated(surprises(rewards, values, mask, 1.0), values, gamma * lam)


def one_step(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """nothing is accumulated: these are the surprises of single steps, to be summed backwards with gamma * lam"""
    return gae(rewards, values, mask, gamma, 0.0)


def value_missing(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the value of the token itself is not subtracted: the surprise is reward + gamma * next value - value"""
    return accumulated(surprises(rewards, values, mask, gamma) + values * mask, values, gamma * lam)


def next_value_missing(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the next value is missing: the surprise is reward + gamma * next value - value"""
    return accumulated((rewards - values) * mask, values, gamma * lam)


def own_value_as_next(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the token's own value, values[:, t], stands where the next one belongs: the surprise is reward + gamma * next
    value - value"""
    return accumulated((rewards + gamma * values - values) * mask, values, gamma * lam)


def gae_mask_ignored(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the mask is ignored: rewards and values of the padding flow back into the live tokens"""
    return gae(rewards, values, torch.ones_like(mask), gamma, lam)


def bootstrapped(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """it bootstraps past the end: after the last live token nothing follows, its next value is 0, not what the
    padding holds"""
    after = next_values(values, torch.ones_like(mask))
    return accumulated((rewards + gamma * after - values) * mask, values, gamma * lam)


def last_value_repeated(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the last token's own value is taken as its next one: after the last live token nothing follows, use 0"""
    last = mask & (next_values(torch.ones_like(values), mask) == 0)
    return accumulated(surprises(rewards, values, mask, gamma) + gamma * values * last, values, gamma * lam)


def last_dropped(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """off by one at the end: the last live token, the one with the score, is left out"""
    return gae(rewards, values, next_values(torch.ones_like(values), mask).bool(), gamma, lam)


def forwards(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """it runs forwards: an advantage sums what follows its token, so start at the last token"""
    backwards, _ = accumulated(surprises(rewards, values, mask, gamma).flip(1), values, gamma * lam)
    return backwards.flip(1), backwards.flip(1) + values


def parts_swapped(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the two are in the wrong order: return advantages, returns"""
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    return returns, advantages


def returns_whitened(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the returns are made from whitened advantages: they lose the scale that the values must learn, so whiten
    nothing here"""
    whitened = masked_whiten(gae(rewards, values, mask, gamma, lam)[0], mask)
    return whitened, whitened + values


def advantages_whitened(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the returns are right, but the advantages are whitened: that comes later, here they keep their scale"""
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    return masked_whiten(advantages, mask), returns


def returns_only_whitened(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the advantages are right, but the returns are made from whitened ones: add the values before whitening"""
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    return advantages, masked_whiten(advantages, mask) + values


def returns_without_values(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the values are not added to the returns: returns are advantages + values"""
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    return advantages, advantages


def returns_summed(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Pair:
    """the returns are the discounted rewards: here they are advantages + values, the same only at lambda 1"""
    return gae(rewards, values, mask, gamma, lam)[0], gae(rewards, values, mask, gamma, 1.0)[1]


REWARDS = torch.tensor([[-0.1, 0.2, 1.5, 30.0], [0.3, -0.2, 0.1, -1.0], [2.0, 10.0, 20.0, -40.0]])
VALUES = torch.tensor([[0.5, 0.8, 1.2, -70.0], [0.4, -0.3, 0.6, 0.9], [1.1, 50.0, -8.0, 3.0]])

GAE = Exercise(
    name="GAE",
    right=gae,
    mistakes=[lambda_missing, gamma_missing, gamma_missing_in_decay, gamma_missing_in_surprise, one_step,
              value_missing, next_value_missing, own_value_as_next, gae_mask_ignored, bootstrapped, last_value_repeated,
              last_dropped, forwards, parts_swapped, returns_whitened, advantages_whitened, returns_only_whitened,
              returns_without_values, returns_summed],
    cases={
        "with gamma 1 and lambda 1": {"rewards": torch.tensor([[0.0, 1.0, 0.0, 3.0]]),
                                      "values": torch.tensor([[0.5, 1.0, 2.0, 1.5]]), "mask": FULL[:1],
                                      "gamma": 1.0, "lam": 1.0},
        "without padding": {"rewards": torch.tensor([[0.0, 1.0, -1.0, 2.0], [0.5, 0.0, -0.5, 1.0]]),
                            "values": torch.tensor([[0.2, 0.4, 0.6, 0.8], [1.0, -1.0, 0.5, 0.3]]), "mask": FULL,
                            "gamma": 0.9, "lam": 0.5},
        "with padding": {"rewards": REWARDS, "values": VALUES, "mask": MASK, "gamma": 0.9, "lam": 0.7},
    },
    parts=("advantages", "returns"),
)
