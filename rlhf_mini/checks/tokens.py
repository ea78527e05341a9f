"""Exercises on logits: the log-probability of a token, and the loss of supervised fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.kl import token_logprobs


def check_token_logprobs(function: Any) -> Result:
    """Check f(logits, tokens, temperature): the log-probability of each token, (B, T), without a shift."""
    return check(TOKEN_LOGPROBS, function)


def check_sft_loss(function: Any) -> Result:
    """Check f(logits, tokens, prompt_lengths, lengths): the mean next-token loss over the ending, EOS included."""
    return check(SFT_LOSS, function)


# --- log-probabilities ------------------------------------------------------------------------------------------


def gathered(x: Tensor, tokens: Tensor) -> Tensor:
    return x.gather(-1, tokens[..., None])[..., 0]


def temperature_missing(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """the temperature is missing: divide the logits by it before anything else"""
    return token_logprobs(logits, tokens)


def temperature_multiplied(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """the logits are multiplied by the temperature instead of divided: a high temperature should flatten"""
    return token_logprobs(logits * temperature, tokens)


def temperature_too_late(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """the temperature divides the log-probabilities, which then no longer sum to 1: divide the logits"""
    return token_logprobs(logits, tokens) / temperature


def raw_logits(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """these are the logits themselves: a log-softmax over the vocabulary is missing"""
    return gathered(logits, tokens) / temperature


def probabilities(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """these are probabilities: the logarithm is missing"""
    return token_logprobs(logits, tokens, temperature).exp()


def surprisals(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """the sign is wrong: a log-probability is never positive (its negative is the loss)"""
    return -token_logprobs(logits, tokens, temperature)


def softmax_over_time(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """the softmax runs over the positions instead of the vocabulary: use the last dimension, dim=-1"""
    return gathered((logits / temperature).log_softmax(1), tokens)


def likeliest(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """this is the likeliest token's log-probability: take that of the token that was sampled"""
    return (logits / temperature).log_softmax(-1).amax(-1)


def tokens_shifted(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """the tokens are shifted: here logits[:, t] already predicts tokens[:, t]"""
    return token_logprobs(logits[:, :-1], tokens[:, 1:], temperature)


def averaged(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """this is the mean of all tokens: keep one log-probability per token"""
    return token_logprobs(logits, tokens, temperature).mean()


LOGITS = torch.tensor([[[1.0, 0.2, -0.5], [0.0, 2.0, 1.0], [0.3, -1.2, 0.9]],
                       [[-0.4, 0.8, 1.5], [2.2, -0.6, 0.1], [0.7, 0.6, -1.0]]])  # (B, T, V)
TOKENS = torch.tensor([[0, 2, 1], [1, 0, 2]])  # (B, T)

TOKEN_LOGPROBS = Exercise(
    name="token log-probabilities",
    right=token_logprobs,
    mistakes=[temperature_missing, temperature_multiplied, temperature_too_late, raw_logits, probabilities, surprisals,
              softmax_over_time, likeliest, tokens_shifted, averaged],
    cases={
        "at temperature 1": {"logits": LOGITS, "tokens": TOKENS, "temperature": 1.0},
        "at temperature 0.5": {"logits": LOGITS, "tokens": TOKENS, "temperature": 0.5},
        "at temperature 2": {"logits": LOGITS.flip(2), "tokens": TOKENS, "temperature": 2.0},
    },
    extremes={
        "with logits in the hundreds (never take exp or log of them yourself: log_softmax or logsumexp)":
            {"logits": 300 * LOGITS, "tokens": TOKENS, "temperature": 0.7},
    },
    gradient=True,
)


# --- supervised fine-tuning -------------------------------------------------------------------------------------


def sft_loss(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Mean loss of the tokens from prompt_lengths to lengths, each predicted by the logits one position earlier."""
    return next_token_losses(logits, tokens, prompt_lengths, lengths).mean()


def next_token_losses(logits: Tensor, tokens: Tensor, starts: Any, ends: Any) -> Tensor:
    """The loss of each token from `starts` to before `ends`. Shapes: -> (tokens to be learnt,)."""
    learnt = between(tokens, starts, ends)[:, 1:]  # (B, L-1)
    return F.cross_entropy(logits[:, :-1][learnt], tokens[:, 1:][learnt], reduction="none")


def between(tokens: Tensor, starts: Any, ends: Any) -> Tensor:
    """Whether each position lies from `starts` to before `ends`. Shapes: -> (B, L) bool."""
    starts, ends = (torch.as_tensor(bound, device=tokens.device) for bound in (starts, ends))
    position = torch.arange(tokens.shape[1], device=tokens.device)
    return ((position >= starts[..., None]) & (position < ends[..., None])).expand(tokens.shape)


def prompt_learnt(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the loss covers the prompt too: leave out the tokens before prompt_lengths"""
    return next_token_losses(logits, tokens, 1, lengths).mean()


def padding_learnt(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the loss covers the padding too: leave out the tokens from lengths on"""
    return next_token_losses(logits, tokens, prompt_lengths, tokens.shape[1]).mean()


def everything_learnt(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """there is no mask at all: the loss covers the prompt and the padding as well as the ending"""
    return next_token_losses(logits, tokens, 1, tokens.shape[1]).mean()


def eos_dropped(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """off by one at the end: the last token of each row, the EOS, is not learnt, and the model would never stop"""
    return next_token_losses(logits, tokens, prompt_lengths, lengths - 1).mean()


def first_dropped(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """off by one at the start: the first token of each ending, tokens[prompt_length], is not learnt"""
    return next_token_losses(logits, tokens, prompt_lengths + 1, lengths).mean()


def last_of_prompt_learnt(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """off by one at the start: the last token of each prompt is learnt too"""
    return next_token_losses(logits, tokens, prompt_lengths - 1, lengths).mean()


def not_shifted(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """nothing is shifted: logits[:, t] predict the next token, tokens[:, t + 1], not the one already there"""
    learnt = between(tokens, prompt_lengths, lengths)
    return F.cross_entropy(logits[learnt], tokens[learnt])


def mask_not_shifted(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the mask belongs to the predicted tokens: here it masks the positions of the logits, one too late"""
    learnt = between(tokens, prompt_lengths, lengths)[:, :-1]
    return F.cross_entropy(logits[:, :-1][learnt], tokens[:, 1:][learnt])


def summed(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """this is the sum over the tokens: take the mean"""
    return next_token_losses(logits, tokens, prompt_lengths, lengths).sum()


def mean_of_rows(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """this is the mean of each row's mean: take one mean over all tokens, so that each weighs the same"""
    rows = range(len(tokens))
    return torch.stack([sft_loss(logits[i:i + 1], tokens[i:i + 1], prompt_lengths[i:i + 1], lengths[i:i + 1])
                        for i in rows]).mean()


def mean_over_all_slots(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the sum is right, but it is divided by the number of all slots: divide by the number of learnt tokens"""
    return summed(logits, tokens, prompt_lengths, lengths) / tokens[:, 1:].numel()


def log_likelihood(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the sign is wrong: this is the mean log-probability, and a loss is its negative"""
    return -sft_loss(logits, tokens, prompt_lengths, lengths)


def logits_for_logprobs(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """these are logits, not log-probabilities: a log-softmax is missing"""
    learnt = between(tokens, prompt_lengths, lengths)[:, 1:]
    return -gathered(logits[:, :-1], tokens[:, 1:])[learnt].mean()


def softmax_twice(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """cross_entropy was given probabilities: it takes logits, and does the softmax itself"""
    return sft_loss(logits.softmax(-1), tokens, prompt_lengths, lengths)


SFT_LOGITS = torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(0))  # (B, L, V)
SFT_TOKENS = torch.tensor([[1, 2, 3, 1, 4, 0], [3, 1, 4, 0, 0, 0], [2, 3, 1, 2, 3, 4]])  # (B, L); 4 is the EOS
WIDE_LOGITS = torch.where(torch.arange(6)[:, None] >= torch.tensor([5, 3, 6])[:, None, None], 40.0, 1.0) * SFT_LOGITS

SFT_LOSS = Exercise(
    name="SFT loss",
    right=sft_loss,
    mistakes=[prompt_learnt, padding_learnt, everything_learnt, eos_dropped, first_dropped, last_of_prompt_learnt,
              not_shifted, mask_not_shifted, summed, mean_of_rows, mean_over_all_slots, log_likelihood,
              logits_for_logprobs, softmax_twice],
    cases={
        "without padding": {"logits": SFT_LOGITS, "tokens": SFT_TOKENS[[2, 2, 2]],
                            "prompt_lengths": torch.tensor([2, 3, 4]), "lengths": torch.tensor([6, 6, 6])},
        "with padding": {"logits": SFT_LOGITS.flip(0), "tokens": SFT_TOKENS,
                         "prompt_lengths": torch.tensor([2, 2, 3]), "lengths": torch.tensor([5, 3, 6])},
        "with large numbers in the padding": {"logits": WIDE_LOGITS, "tokens": SFT_TOKENS,
                                              "prompt_lengths": torch.tensor([3, 2, 2]),
                                              "lengths": torch.tensor([5, 3, 6])},
    },
    gradient=True,
)
