"""Supervised fine-tuning: a language model learns to write one ending and stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini import team
from rlhf_mini.batches import shuffled_batches, similar_lengths
from rlhf_mini.config import SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import hidden_states, lm_logits
from rlhf_mini.given import text_tuples
from rlhf_mini.health import check_loss
from rlhf_mini.kl import full_precision
from rlhf_mini.language_model import context_length, encode_endings, encode_prompts
from rlhf_mini.optimisers import clip_gradients, muon_and_adamw, schedule, set_rate


class Example(NamedTuple):
    """A row of tokens, of which those from `start` on are to be learnt."""

    tokens: Sequence[int]
    start: int


def train_sft(model: Any, tokenizer: Any, demonstrations: Iterable[tuple[str, str]],
              config: SFTConfig) -> Iterator[dict[str, float]]:
    """Teach the model to write one ending and stop: the loss covers ending and EOS, never the opening.

    Yields per step: step, loss (nats per token), learning_rate, tokens (learnt so far).
    Raises: InputError where there is no demonstration, one is no (opening, ending) or does not fit into the context,
    or the loss diverges.
    """
    examples = encode_demonstrations(model, tokenizer, demonstrations, "demonstrations")
    generator = torch.Generator().manual_seed(config.seed)
    lengths = [len(example.tokens) for example in examples]
    shuffled = shuffled_batches(len(examples), config.batch_size, generator)
    batches = similar_lengths(shuffled, lengths, config.batch_size, generator)
    steps = (([examples[i] for i in next(batches)], step / config.steps) for step in range(config.steps))
    yield from fit_next_token(model, muon_and_adamw(model, config.weight_decay), steps, config.learning_rate,
                              config.warmup, config.max_grad_norm)


def fit_next_token(model: Any, optimizers: Sequence[torch.optim.Optimizer],
                   batches: Iterable[tuple[list[Example], float]], learning_rate: float, warmup: float,
                   max_grad_norm: float = 1.0) -> Iterator[dict[str, float]]:
    """The loop of pretraining and fine-tuning: each batch comes with the share of the training done before it.

    Raises: InputError where the loss or the gradient stops being a number; the weights are then
    those of the last good step.
    """
    tokens = 0
    for step, (batch, progress) in enumerate(batches, start=1):
        rate = set_rate(optimizers, learning_rate * schedule(progress, warmup))
        learnt = sum(len(row) - start for row, start in batch)
        loss = next_token_losses(model, team.share(batch)).sum() / learnt
        value = team.total(loss.detach().clone()).item()
        check_loss(value, step, rate)
        model.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(model, max_grad_norm, step, rate)
        for optimizer in optimizers:
            optimizer.step()
        tokens += learnt
        yield {"step": step, "loss": value, "learning_rate": rate, "tokens": tokens}


def next_token_losses(model: Any, batch: Sequence[Example]) -> Tensor:
    """Cross-entropy of every token to be learnt, in nats. Shapes: (tokens to be learnt,).

    The LM head reads the state before each of them, and no other state.
    """
    before = hidden_states(model, [row[:-1] for row, _ in batch], [start - 1 for _, start in batch])  # (tokens, D)
    targets = torch.tensor([token for row, start in batch for token in row[start:]], device=before.device)
    return F.cross_entropy(full_precision(lm_logits(model, before)), targets, reduction="none")


@torch.no_grad()
def mean_loss(model: Any, tokenizer: Any, pairs: Iterable[tuple[str, str]], batch_size: int = 512) -> float:
    """Mean loss of endings after their openings, in nats per token, the EOS included. Raises: InputError, as above."""
    examples = encode_demonstrations(model, tokenizer, pairs)
    batches = (examples[i:i + batch_size] for i in range(0, len(examples), batch_size))
    return float(torch.cat([next_token_losses(model, batch) for batch in batches]).mean())


def encode_demonstrations(model: Any, tokenizer: Any, pairs: Iterable[tuple[str, str]],
                          name: str = "pairs") -> list[Example]:
    """Opening + ending + EOS as one row, to be learnt from the ending on."""
    pairs = text_tuples(name, pairs, "opening", "ending")
    if not pairs:
        raise InputError("there are no demonstrations: give at least one (opening, ending)")
    prompts = encode_prompts(tokenizer, [opening for opening, _ in pairs])
    endings = encode_endings(tokenizer, [ending for _, ending in pairs])
    context = context_length(model)
    for prompt, ending, (opening, _) in zip(prompts, endings, pairs, strict=True):
        if not prompt:
            raise InputError("a demonstration has an empty opening: give some text to continue")
        if len(prompt) + len(ending) > context:
            raise InputError(f"the demonstration {opening[:60]!r} has {len(prompt) + len(ending)} tokens and the "
                             f"model sees {context}: shorten it")
    return [Example(prompt + ending, len(prompt)) for prompt, ending in zip(prompts, endings, strict=True)]
