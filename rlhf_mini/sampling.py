"""Prompts in, rollouts out: what was written, and what the policy thought of it while writing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini.cache import roomy_cache
from rlhf_mini.errors import InputError
from rlhf_mini.kl import token_logprobs
from rlhf_mini.language_model import check_prompts, decode_endings, encode_prompts, pad_id

LEAVE = 1 / 8  # of the rows in the batch have ended: then they leave it, for leaving copies what the others know
CHUNK_TOKENS = 2048  # go through the trunk at once: few enough for a CPU's cache, many enough to fill it


@dataclass(frozen=True)
class Rollout:
    """A batch of sampled endings: prompts padded on the left, endings on the right, masks from lengths."""

    prompt_tokens: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool
    tokens: Tensor  # (B, T)
    mask: Tensor  # (B, T) bool, the EOS included
    logp: Tensor  # (B, T) nats, under the sampling temperature, 0 where masked
    hidden: Tensor  # (B, T, D) the state that predicted each token: head(hidden[:, t]) are its logits
    values: Tensor | None  # (B, T), if the policy has a value head
    ended: Tensor  # (B,) bool: EOS was reached within the limit

    @property
    def input_ids(self) -> Tensor:
        return torch.cat([self.prompt_tokens, self.tokens], 1)  # (B, P + T)

    @property
    def attention_mask(self) -> Tensor:
        return torch.cat([self.prompt_mask, self.mask], 1)  # (B, P + T)

    @property
    def position_ids(self) -> Tensor:
        return positions(self.attention_mask)  # (B, P + T)

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)  # (B,) tokens, the EOS included

    def rows(self, index: Tensor) -> Rollout:
        """The same endings for some of the rows."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            chosen[field.name] = None if value is None else value[index]
        return Rollout(**chosen)


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token counted from its row's first live one, so that left padding moves nothing."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def pad_left(prompt_ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths -> tokens (B, P) and mask (B, P), padded on the left."""
    if not prompt_ids or not all(prompt_ids):
        raise InputError(f"of {len(prompt_ids)} prompts at least one must be given and none may be empty")
    longest = max(map(len, prompt_ids))
    tokens = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in prompt_ids])
    lengths = torch.tensor([len(ids) for ids in prompt_ids])
    return tokens, torch.arange(longest) >= longest - lengths[:, None]


def trunk_and_head(policy: nn.Module) -> tuple[Any, Any, Any]:
    """The parts of a causal language model or a policy: trunk, LM head, and value head or None."""
    language_model: Any = getattr(policy, "language_model", policy)
    head = language_model.get_output_embeddings()
    return language_model.base_model, head, getattr(policy, "value_head", None)


@torch.no_grad()
def sample(policy: nn.Module, prompt_ids: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float,
           eos_id: int, pad_id: int, generator: torch.Generator) -> Rollout:
    """Let the policy write one ending per prompt, token by token, until its EOS or the limit.

    Rows that have ended leave the batch, some at a time. Each row has its own random numbers, so none depends on
    another.
    """
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}: give a number above 0")
    trunk, head, value_head = trunk_and_head(policy)
    device = next(trunk.parameters()).device
    prompt_tokens, prompt_mask = (x.to(device) for x in pad_left(prompt_ids, pad_id))
    batch = len(prompt_tokens)
    uniform = torch.rand(batch, max_new_tokens, generator=generator).to(device)  # CPU: same everywhere
    tokens = torch.full((batch, max_new_tokens), pad_id, device=device)
    logp = torch.zeros(batch, max_new_tokens, device=device)
    hidden = torch.zeros(batch, max_new_tokens, head.weight.shape[1], dtype=head.weight.dtype, device=device)
    lengths = torch.full((batch,), max_new_tokens, device=device)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)

    rows = torch.arange(batch, device=device)  # of those still in the batch
    writing = torch.ones_like(rows, dtype=torch.bool)
    cache = roomy_cache()
    step_tokens, attention_mask, position_ids = prompt_tokens, prompt_mask.long(), positions(prompt_mask)
    for t in range(max_new_tokens):
        state = trunk(input_ids=step_tokens, attention_mask=attention_mask, position_ids=position_ids,
                      past_key_values=cache, use_cache=True).last_hidden_state[:, -1]  # (rows, D)
        logits = head(state)  # (rows, V)
        chosen = draw(logits, uniform[rows, t], temperature)
        here = rows[writing]
        tokens[here, t] = chosen[writing]
        hidden[here, t] = state[writing]
        logp[here, t] = token_logprobs(logits[writing], chosen[writing], temperature)

        done = writing & (chosen == eos_id)
        ended[rows[done]] = True
        lengths[rows[done]] = t + 1
        writing &= ~done
        if not writing.any():
            break
        if writing.sum() <= (1 - LEAVE) * len(rows):
            going = writing.nonzero().squeeze(1)
            rows, writing, chosen, attention_mask, position_ids = (
                x[going] for x in (rows, writing, chosen, attention_mask, position_ids))
            cache.reorder_cache(going)  # type: ignore[arg-type]
        step_tokens = chosen[:, None]
        position_ids = position_ids[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(rows), 1)], 1)

    longest = int(lengths.max())
    hidden = hidden[:, :longest]
    mask = torch.arange(longest, device=device) < lengths[:, None]
    values = None if value_head is None else value_head(hidden).squeeze(-1).float()
    return Rollout(prompt_tokens, prompt_mask, tokens[:, :longest], mask, logp[:, :longest], hidden, values,
                   ended)


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Turn one uniform number per row into one token per row, by inverting the cumulative distribution.

    Shapes: (B, V), (B,) -> (B,).
    """
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)


def response_hidden(policy: nn.Module, rollout: Rollout) -> Tensor:
    """A fresh forward pass: the states that predict each response token.

    Shapes: -> (B, T, D); slots that the mask hides hold the state of some other token.
    Rows of similar length go through the trunk together, so that little padding is multiplied.
    """
    lengths = rollout.attention_mask.sum(1)  # (B,) prompt and ending
    order = lengths.argsort(stable=True)
    parts = [_chunk_hidden(policy, rollout.rows(rows))
             for rows in order.split(math.ceil(CHUNK_TOKENS / int(lengths.max())))]
    return torch.cat(parts)[order.argsort()]


def _chunk_hidden(policy: nn.Module, rollout: Rollout) -> Tensor:
    """`response_hidden` of one chunk.

    Each row is moved together to prompt, ending, padding: a causal model never looks right, so the padding
    needs no mask, and positions count from 0 without being told.
    """
    trunk, _, _ = trunk_and_head(policy)
    order = (~rollout.attention_mask).byte().argsort(dim=1, stable=True)
    longest = int(rollout.attention_mask.sum(1).max()) - 1  # the last token predicts nothing
    input_ids = rollout.input_ids.gather(1, order[:, :longest])
    everything = torch.ones_like(input_ids)
    hidden = trunk(input_ids=input_ids, attention_mask=everything, use_cache=False).last_hidden_state
    columns = torch.arange(rollout.mask.shape[1], device=hidden.device)
    where = rollout.prompt_mask.sum(1, keepdim=True) - 1 + columns  # (B, T)
    rows = torch.arange(len(where), device=hidden.device)[:, None]
    return hidden[rows, where.clamp(max=longest - 1)]  # (B, T, D)


def response_logits(policy: nn.Module, rollout: Rollout) -> Tensor:
    """A fresh forward pass: the logits that predict each response token, (B, T, V)."""
    _, head, _ = trunk_and_head(policy)
    return head(response_hidden(policy, rollout))


def sample_texts(model: nn.Module, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int,
                 temperature: float, seed: int,
                 batch_size: int = 128) -> tuple[list[str], list[bool], list[int]]:
    """One sampled ending per prompt: the texts, whether each ended, and how many tokens it has."""
    prompt_ids = encode_prompts(tokenizer, prompts)
    max_new_tokens = check_prompts(model, prompt_ids, prompts, max_new_tokens)
    generator = torch.Generator().manual_seed(seed)
    endings: list[str] = []
    ended: list[bool] = []
    lengths: list[int] = []
    for start in range(0, len(prompts), batch_size):
        rollout = sample(model, prompt_ids[start:start + batch_size], max_new_tokens=max_new_tokens,
                         temperature=temperature, eos_id=tokenizer.eos_token_id, pad_id=pad_id(tokenizer),
                         generator=generator)
        endings += decode_endings(tokenizer, rollout.tokens, rollout.mask)
        ended += rollout.ended.tolist()
        lengths += rollout.lengths.tolist()
    return endings, ended, lengths


def best_of_n_index(scores: Tensor) -> Tensor:
    """Which of the n candidates of each prompt scores highest: (B, n) -> (B,)."""
    return scores.argmax(1)


def best_of_n_kl(n: int) -> float:
    """Upper bound on KL(best of n || one sample), in nats per ending: ln n - (n - 1) / n.

    Source: Stiennon et al. 2020; Beirami et al. 2024 show that it is a bound.
    """
    return math.log(n) - (n - 1) / n
