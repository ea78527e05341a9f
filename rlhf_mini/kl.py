"""Log-probabilities of tokens, estimates of the KL divergence, and averages that respect a mask.

B is prompts, T response tokens, V vocabulary; a mask has any dtype and is 1 on live response tokens. Whatever
stands in a masked slot, NaN included, changes no result and no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlhf_mini.errors import InputError


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token; `logits[:, t]` predicts `tokens[:, t]`, nothing is shifted.

    Shapes: logits (..., V), tokens (...) -> (...). Units: nats per token.
    """
    logits = full_precision(logits) / temperature
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)  # a gather and a sum: no second (B, T, V) tensor of log-softmax


def estimate(logp: Tensor, logp_ref: Tensor, kind: Literal["k1", "k2", "k3"] = "k1") -> Tensor:
    """Estimate KL(policy || reference) token by token from the policy's own samples.

    Shapes: (B, T), (B, T) -> (B, T). Units: nats per token.
    k1 is unbiased and noisy, k2 is biased and never negative, k3 is unbiased and never negative, but its
    exponential makes it useless at tens of nats.
    Source: Schulman 2020, "Approximating KL divergence".
    """
    log_ratio = full_precision(logp) - full_precision(logp_ref)
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return 0.5 * log_ratio.square()
    if kind == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise InputError(f"kind of KL estimate is {kind!r}: give 'k1', 'k2' or 'k3'")


def exact(logits: Tensor, logits_ref: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(policy || reference) at each state, summed over the whole vocabulary instead of sampled.

    Shapes: (..., V), (..., V) -> (...). Units: nats per token.
    """
    return divergence(log_probabilities(logits, temperature), log_probabilities(logits_ref, temperature))


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of the distribution at each state.

    Shapes: (..., V) -> (...). Units: nats per token.
    """
    logp = log_probabilities(logits, temperature)
    return -divergence(logp, torch.zeros_like(logp))


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of the whole vocabulary. Shapes: (..., V) -> the same. Units: nats."""
    return (full_precision(logits) / temperature).log_softmax(-1)


def divergence(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """KL(p || p_ref) from log-probabilities of the whole vocabulary. Shapes: (..., V) each -> (...). Units: nats."""
    difference = (logp - logp_ref).masked_fill(logp == -torch.inf, 0.0)  # 0 log 0 is 0
    return (logp.exp() * difference).sum(-1)


def live(x: Tensor, mask: Tensor, name: str = "x") -> Tensor:
    """Return x in full precision with 0 in every masked slot, in the forward pass and in the gradient.

    Raises: InputError if the shapes differ, or if a live slot holds NaN or infinity.
    """
    if x.shape != mask.shape:
        raise InputError(f"{name} has shape {tuple(x.shape)} but its mask has {tuple(mask.shape)}: "
                         "give equal shapes")
    x = torch.where(mask.bool(), full_precision(x), 0.0)  # multiplying would keep NaN: NaN * 0 is NaN
    broken = ~x.isfinite()
    if broken.any():
        where = broken.nonzero()[0].tolist()
        raise InputError(f"{name}{where} is {x[tuple(where)].item()} on a live token: give finite numbers "
                         "there, or 0 in the mask")
    return x


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the live tokens of each ending; nats per token become nats per ending.

    Shapes: (B, T), (B, T) -> (B,).
    """
    return live(x, mask).sum(-1)


def masked_mean(x: Tensor, mask: Tensor, denominator: float | None = None) -> Tensor:
    """Mean over all live tokens; 0 if there are none. A `denominator` replaces the number of live tokens.

    Shapes: any, the same -> scalar.
    """
    return live(x, mask).sum() / (denominator or mask.bool().sum().clamp(min=1))


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the live tokens to variance 1 and, with `shift_mean`, to mean 0; masked slots become 0.

    Shapes: any, the same -> the same. The variance is the unbiased one, plus 1e-8.
    """
    x = live(x, mask)
    mean = masked_mean(x, mask)
    centred = live(x - mean, mask)
    variance = centred.square().sum() / (mask.bool().sum() - 1).clamp(min=1)
    whitened = centred * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else live(whitened + mean, mask)


def full_precision(x: Tensor) -> Tensor:
    """Logarithms and sums want at least float32, whatever the model computes in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
