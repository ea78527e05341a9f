"""Exercises on the next token: its probabilities at a temperature, and top-k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result


def check_temperature(function: Any) -> Result:
    """Check f(logits, temperature), (..., V) -> (..., V): the probabilities of the next token."""
    return check(TEMPERATURE, function)


def check_top_k(function: Any) -> Result:
    """Check f(logits, k), (..., V) -> (..., V): the k largest logits, and whatever ties with them; the rest -inf."""
    return check(TOP_K, function)


# --- temperature ----------------------------------------------------------------------------------------------------


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).softmax(-1)


def temperature_missing(logits: Tensor, temperature: float) -> Tensor:
    """the temperature is missing: divide the logits by it before the softmax"""
    return at_temperature(logits, 1.0)


def temperature_multiplied(logits: Tensor, temperature: float) -> Tensor:
    """the logits are multiplied by the temperature: divide, so that a high temperature flattens"""
    return (logits * temperature).softmax(-1)


def temperature_too_late(logits: Tensor, temperature: float) -> Tensor:
    """the temperature divides the probabilities, which then no longer sum to 1: divide the logits"""
    return logits.softmax(-1) / temperature


def not_divided(logits: Tensor, temperature: float) -> Tensor:
    """these are e to the logits, which do not sum to 1: divide by their sum"""
    return (logits / temperature).exp()


def one_sum(logits: Tensor, temperature: float) -> Tensor:
    """all rows together sum to 1: each row is a distribution of its own, so sum over the last dimension"""
    return (logits / temperature).flatten().softmax(0).view(logits.shape)


def over_rows(logits: Tensor, temperature: float) -> Tensor:
    """the softmax runs over the rows instead of the vocabulary: use the last dimension, dim=-1"""
    return (logits / temperature).softmax(0)


ONE = torch.tensor([2.0, 0.5, 1.0, -1.0])  # (V,)
ROWS = torch.tensor([[0.5, 2.0, -1.0, 1.0], [3.0, -0.5, 0.0, 1.5]])  # (B, V)

TEMPERATURE = Exercise(
    name="temperature",
    right=at_temperature,
    mistakes=[temperature_missing, temperature_multiplied, temperature_too_late, not_divided, one_sum, over_rows],
    cases={"one row at temperature 0.5": {"logits": ONE, "temperature": 0.5},
           "two rows at temperature 2": {"logits": ROWS, "temperature": 2.0}},
    extremes={"with logits in the hundreds (take the largest logit off first, or let torch.softmax do it)":
              {"logits": 300 * ROWS, "temperature": 0.7}},
)


# --- top-k ----------------------------------------------------------------------------------------------------------


def top_k(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(logits < least_kept(logits, k), -torch.inf)


def least_kept(logits: Tensor, k: int) -> Tensor:
    """The k-th largest logit of each row. Shapes: (..., V) -> (..., 1)."""
    return logits.topk(k).values[..., -1:]


def largest_as_limit(logits: Tensor, k: int) -> Tensor:
    """the limit is the largest logit, values[..., :1], so that it alone is kept: take the k-th, values[..., -1:]"""
    return logits.masked_fill(logits < logits.topk(k).values[..., :1], -torch.inf)


def zero_for_minus_infinity(logits: Tensor, k: int) -> Tensor:
    """a logit of 0 still has a probability after the softmax: write -inf, whose probability is 0"""
    return logits.masked_fill(logits < least_kept(logits, k), 0.0)


def kth_cut(logits: Tensor, k: int) -> Tensor:
    """the k-th largest itself is cut: keep what is larger than it or equal to it"""
    return logits.masked_fill(logits <= least_kept(logits, k), -torch.inf)


def ties_cut(logits: Tensor, k: int) -> Tensor:
    """a logit that ties with the k-th is cut: keep both, as neither is larger"""
    kept = logits.topk(k)
    return torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)


def kept_alone(logits: Tensor, k: int) -> Tensor:
    """these are the k largest alone: keep the shape, with -inf in the other places, so that tokens keep their places"""
    return logits.topk(k).values


def one_limit(logits: Tensor, k: int) -> Tensor:
    """the limit is one number for the whole batch: each row has its own k-th largest"""
    return logits.masked_fill(logits < logits.flatten().topk(k).values[-1], -torch.inf)


TOP_K = Exercise(
    name="top-k",
    right=top_k,
    mistakes=[largest_as_limit, zero_for_minus_infinity, kth_cut, ties_cut, kept_alone, one_limit],
    cases={"one row with k = 2": {"logits": ONE, "k": 2}, "two rows with k = 3": {"logits": ROWS, "k": 3},
           "two that tie, with k = 2": {"logits": torch.tensor([0.5, 1.0, 2.0, 1.0]), "k": 2}},
)
