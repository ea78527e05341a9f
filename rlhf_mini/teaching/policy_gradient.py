"""The gradient of an expected reward, exact and sampled, for a policy that chooses one of a few tokens.

V is tokens, N samples. The policy is the softmax of V logits; the gradient is the one with respect to them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exact_gradient(logits: Tensor, reward: Tensor) -> Tensor:
    """The gradient of the expected reward: the probability of each token, times what it is above the mean.

    Shapes: (V,), (V,) -> (V,).
    """
    chance = logits.softmax(0)
    return chance * (reward - (chance * reward).sum())


def policy_gradient(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float = 0.0) -> Tensor:
    """Its estimate from sampled tokens: the mean of (reward − baseline) times the gradient of ln π.

    Shapes: logits (V,), reward (V,), samples (N,) token numbers -> (V,). Source: Williams 1992 (REINFORCE).
    """
    slopes = torch.nn.functional.one_hot(samples, len(logits)) - logits.softmax(0)  # (N, V), gradients of ln π
    return ((reward[samples] - baseline)[:, None] * slopes).mean(0)


def variance(logits: Tensor, reward: Tensor, baseline: float = 0.0) -> Tensor:
    """The variance of that estimate from one sample, by listing all tokens. Shapes: (V,), (V,) -> (V,)."""
    each = torch.stack([policy_gradient(logits, reward, token[None], baseline) for token in torch.arange(len(logits))])
    chance = logits.softmax(0)[:, None]  # (V, 1); each is (V, V): a row for each token that may be sampled
    return (chance * each.square()).sum(0) - (chance * each).sum(0).square()


def estimates(logits: Tensor, reward: Tensor, baseline: float, count: int, size: int) -> Tensor:
    """`count` estimates from `size` samples each, of the same tokens for every baseline. Shapes: -> (count, V)."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(logits.softmax(0), count * size, replacement=True, generator=generator)
    return torch.stack([policy_gradient(logits, reward, samples, baseline) for samples in drawn.view(count, size)])
