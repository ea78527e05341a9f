"""The exercise on the mean loss of a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.checks.tokens import gathered
from rlhf_mini.kl import masked_mean, token_logprobs


def check_mean_nll(function: Any) -> Result:
    """Check f(logits, tokens, mask): the mean loss of the live tokens that have a token before them, in nats."""
    return check(MEAN_NLL, function)


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
