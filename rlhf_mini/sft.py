"""Pretraining and supervised fine-tuning: one next-token loop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini.config import PretrainConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import context_length, encode_endings, encode_prompts, pad_id, pad_right
from rlhf_mini.optimisers import muon_and_adamw, schedule, set_rate

POOL = 8192  # documents that are shuffled and sorted by length together
SORTED_TOGETHER = 16  # batches of demonstrations that are


class Example(NamedTuple):
    """A row of tokens, of which those from `start` on are to be learnt."""

    tokens: Sequence[int]
    start: int


def train_sft(model: Any, tokenizer: Any, demonstrations: Sequence[tuple[str, str]],
              config: SFTConfig) -> Iterator[dict[str, float]]:
    """Teach the model to write one ending and stop: the loss covers ending and EOS, never the opening.

    Yields per step: step, loss (nats per token), learning_rate, tokens (learnt so far).
    Raises: InputError where there is no demonstration, or one does not fit into the context.
    """
    examples = encode_demonstrations(model, tokenizer, demonstrations)
    generator = torch.Generator().manual_seed(config.seed)
    lengths = [len(example.tokens) for example in examples]
    batches = alike(epochs(len(examples), config.batch_size, generator), lengths, config.batch_size, generator)
    steps = (([examples[i] for i in next(batches)], step / config.steps) for step in range(config.steps))
    yield from fit_next_token(model, muon_and_adamw(model, config.weight_decay), steps, config.learning_rate,
                              config.warmup, pad_id(tokenizer), config.max_grad_norm)


def train_lm(model: Any, documents: Iterable[Sequence[int]], config: PretrainConfig, eos_id: int,
             pad_id: int) -> Iterator[dict[str, float]]:
    """Pretrain on one pass over documents, each a row of its own: the loss covers every token but the first.

    Documents may be a stream: a pool of them is held at a time, and `config.documents` then sets the schedule.
    Yields per step: step, loss (nats per token), learning_rate, tokens (learnt so far).
    Raises: InputError where a document is too short or too long for the context.
    """
    total = len(documents) if isinstance(documents, Sequence) else config.documents
    batches = length_bucketed(checked(documents, eos_id, context_length(model)), config.batch_tokens, config.seed)
    steps = (([Example(row, 1) for row in batch], seen / total) for batch, seen in batches)
    yield from fit_next_token(model, muon_and_adamw(model, config.weight_decay), steps, config.learning_rate,
                              config.warmup, pad_id)


def fit_next_token(model: Any, optimizers: Sequence[torch.optim.Optimizer],
                   batches: Iterable[tuple[list[Example], float]], learning_rate: float, warmup: float, pad_id: int,
                   max_grad_norm: float = 1.0) -> Iterator[dict[str, float]]:
    """The loop: each batch comes with the share of the training that is done before it.

    Raises: InputError where the loss stops being a number.
    """
    tokens = 0
    for step, (batch, progress) in enumerate(batches, start=1):
        rate = set_rate(optimizers, learning_rate * schedule(progress, warmup))
        loss = next_token_losses(model, batch, pad_id).mean()
        value = loss.item()
        check_loss(value, step, rate)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        tokens += sum(len(row) - start for row, start in batch)
        yield {"step": step, "loss": value, "learning_rate": rate, "tokens": tokens}


def next_token_losses(model: Any, batch: Sequence[Example], pad_id: int) -> Tensor:
    """Cross-entropy of every token to be learnt, in nats. Shapes: (tokens to be learnt,).

    Rows are padded on the right, where a causal model never looks back from: no attention mask is needed, and
    the loss is taken at positions chosen by length. The vocabulary is multiplied out only at those positions.
    """
    tokens, lengths = pad_right([row for row, _ in batch], pad_id, model.device)  # (B, L)
    starts = torch.tensor([start for _, start in batch], device=model.device)
    position = torch.arange(1, tokens.shape[1], device=model.device)
    learnt = (position >= starts[:, None]) & (position < lengths[:, None])  # (B, L-1)
    # Embeddings, not ids, go in: seeing pad ids without a mask, transformers would warn.
    embeddings = model.get_input_embeddings()(tokens[:, :-1])
    hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state  # (B, L-1, D)
    logits = model.get_output_embeddings()(hidden[learnt])  # (tokens, V)
    return F.cross_entropy(logits.float(), tokens[:, 1:][learnt], reduction="none")


@torch.no_grad()
def mean_loss(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_size: int = 128) -> float:
    """Mean loss of endings after their openings, in nats per token, the EOS included."""
    examples = sorted(encode_demonstrations(model, tokenizer, pairs), key=lambda example: len(example.tokens))
    batches = (examples[i:i + batch_size] for i in range(0, len(examples), batch_size))
    losses = torch.cat([next_token_losses(model, batch, pad_id(tokenizer)) for batch in batches])
    return float(losses.mean())


def encode_demonstrations(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Example]:
    """Opening + ending + EOS as one row, to be learnt from the ending on."""
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


def check_loss(loss: float, step: int, rate: float) -> None:
    """Raises: InputError where a loss is no finite number, which no later step could repair."""
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} at step {step} (learning rate {rate:.1e}): lower the learning rate")


# --- batches ----------------------------------------------------------------------------------------------------


def epochs(count: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Indices in batches, without end: each example once before any comes again, in a new order every time."""
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:batch_size]
        del waiting[:batch_size]


def alike(batches: Iterator[list[int]], lengths: Sequence[int], size: int,
          generator: torch.Generator) -> Iterator[list[int]]:
    """The same indices, a few batches at a time, dealt anew so that a batch holds rows of like length.

    Then hardly any padding is multiplied; the batches come in random order. Never more than one pass is dealt
    together, so that no batch is filled with copies of one row.
    """
    together = max(1, min(SORTED_TOGETHER, len(lengths) // size))
    while dealt := list(islice(batches, together)):
        indices = sorted((i for batch in dealt for i in batch), key=lengths.__getitem__)
        for k in torch.randperm(len(dealt), generator=generator).tolist():
            yield indices[k * size:(k + 1) * size]


def length_bucketed(documents: Iterable[Sequence[int]], batch_tokens: int,
                    seed: int) -> Iterator[tuple[list[Sequence[int]], int]]:
    """Batches of documents of like length, at most batch_tokens with their padding, and how many came before.

    A pool at a time is sorted, cut and its batches shuffled: hardly any padding is multiplied, and short and long
    documents still alternate.
    """
    stream, generator, seen = iter(documents), torch.Generator().manual_seed(seed), 0
    while pool := list(islice(stream, POOL)):
        order = torch.randperm(len(pool), generator=generator).tolist()
        batches = cut(sorted((pool[i] for i in order), key=len), batch_tokens)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i], seen
            seen += len(batches[i])


def cut(rows: list[Sequence[int]], batch_tokens: int) -> list[list[Sequence[int]]]:
    """Rows, shortest first, in batches whose padded size is at most batch_tokens (but at least one row)."""
    batches: list[list[Sequence[int]]] = [[]]
    for row in rows:
        if batches[-1] and len(row) * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def checked(documents: Iterable[Sequence[int]], eos_id: int, context: int) -> Iterator[Sequence[int]]:
    """The documents, each shown to end in EOS and to fit. Raises: InputError for the first that does not."""
    for number, row in enumerate(documents):
        if not 2 <= len(row) <= context:
            raise InputError(f"document {number} has {len(row)} tokens: give 2 to {context}, the model's context")
        if row[-1] != eos_id:
            raise InputError(f"document {number} ends in token {row[-1]}: append the end-of-text token {eos_id}")
        yield row
