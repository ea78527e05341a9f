"""Exercises on the next token: its probabilities at a temperature, top-k, and the mean loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.checks.tokens import gathered
from rlhf_mini.kl import masked_mean, token_logprobs


def check_temperature(function: Any) -> Result:
    """Check f(logits, temperature), (..., V) -> (..., V): the probabilities of the next token."""
    return check(TEMPERATURE, function)


def check_top_k(function: Any) -> Result:
    """Check f(logits, k), (..., V) -> (..., V): the k largest logits, and whatever ties with them; the rest -inf."""
    return check(TOP_K, function)


def check_mean_nll(function: Any) -> Result:
    """Check f(logits, tokens, mask): the mean loss of the live tokens that have a token before them, in nats."""
    return check(MEAN_NLL, function)


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
    mistakes=[zero_for_minus_infinity, kth_cut, ties_cut, kept_alone, one_limit],
    cases={"one row with k = 2": {"logits": ONE, "k": 2}, "two rows with k = 3": {"logits": ROWS, "k": 3},
           "two that tie, with k = 2": {"logits": torch.tensor([0.5, 1.0, 2.0, 1.0]), "k": 2}},
)


# --- the mean loss ----------------------------------------------------------------------------------------------------


def mean_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(losses(logits, tokens), mask[:, 1:])


def losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """The loss of every token but the first, each predicted one position earlier. Shapes: -> (B, L - 1)."""
    return -token_logprobs(logits[:, :-1], tokens[:, 1:])


def nothing_shifted(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """nothing is shifted: logits[:, t] predict tokens[:, t + 1], not the token that is already there"""
    return masked_mean(-token_logprobs(logits, tokens), mask)


def mask_unshifted(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """the mask is that of the position that predicts: take the mask of the token that is predicted, mask[:, 1:]"""
    return masked_mean(losses(logits, tokens), mask[:, :-1])


def padding_counted(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """the padding is counted: leave out the tokens whose mask is False"""
    return losses(logits, tokens).mean()


def divided_by_slots(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """the sum is right, but it is divided by the number of all slots: divide by the number of live tokens"""
    return summed(logits, tokens, mask) / mask[:, 1:].numel()


def first_counted(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """the sum is divided by one token too many in each row: nothing predicts the first, so it does not count"""
    return summed(logits, tokens, mask) / mask.sum()


def summed(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """this is the sum over the tokens: take the mean"""
    return losses(logits, tokens)[mask[:, 1:].bool()].sum()


def mean_of_means(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """this is the mean of each row's mean: take one mean over all tokens, so that each weighs the same"""
    rows = losses(logits, tokens).masked_fill(~mask[:, 1:].bool(), 0.0).sum(1)
    return (rows / mask[:, 1:].sum(1)).mean()


def sign_missing(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """the sign is wrong: this is the mean log-probability, and the loss is its negative"""
    return -mean_nll(logits, tokens, mask)


def softmax_missing(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """these are logits, not log-probabilities: a log-softmax is missing"""
    return masked_mean(-gathered(logits[:, :-1], tokens[:, 1:]), mask[:, 1:])


LOGITS = torch.randn(2, 5, 4, generator=torch.Generator(device="cpu").manual_seed(1), device="cpu")  # (B, L, V)
TOKENS = torch.tensor([[1, 3, 2, 0, 1], [2, 1, 0, 0, 0]])  # (B, L)
LIVE = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()

MEAN_NLL = Exercise(
    name="mean loss",
    right=mean_nll,
    mistakes=[nothing_shifted, mask_unshifted, padding_counted, divided_by_slots, first_counted, summed, mean_of_means,
              sign_missing, softmax_missing],
    cases={"without padding": {"logits": LOGITS, "tokens": TOKENS, "mask": LIVE | True},
           "with padding": {"logits": LOGITS.flip(0), "tokens": TOKENS, "mask": LIVE}},
    extremes={"with logits in the hundreds (never take exp or log of them yourself: log_softmax or logsumexp)":
              {"logits": 300 * LOGITS, "tokens": TOKENS, "mask": LIVE}},
)
