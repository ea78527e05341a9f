"""Prompts in, a rollout out: what was sampled, and what the policy computed for it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import team
from rlhf_mini.cache import roomy_cache
from rlhf_mini.errors import InputError
from rlhf_mini.forward import autocast, lm_logits, trunk_of
from rlhf_mini.health import check_finite
from rlhf_mini.kl import full_precision, token_logprobs


@dataclass(frozen=True)
class Rollout:
    """A batch of sampled endings, padded on the right; masks come from lengths."""

    prompts: tuple[tuple[int, ...], ...]  # B rows of tokens
    tokens: Tensor  # (B, T)
    mask: Tensor  # (B, T) bool, the EOS included
    logp: Tensor  # (B, T) nats, under the sampling temperature, 0 where masked
    hidden: Tensor  # (B, T, D) the state that predicted each token: lm_logits(policy, hidden[:, t]) are its logits
    values: Tensor  # (B, T), 0 where masked, and everywhere if the policy has no value head
    ended: Tensor  # (B,) bool: EOS was reached within the limit

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)  # (B,) tokens, the EOS included

    @property
    def rows(self) -> list[list[int]]:
        """Prompt and ending of each row, without padding: B lists of tokens."""
        endings = zip(self.prompts, self.tokens.tolist(), self.lengths.tolist(), strict=True)
        return [[*prompt, *tokens[:length]] for prompt, tokens, length in endings]

    def select(self, index: Tensor) -> Rollout:
        """The same endings for some of the rows."""
        chosen: dict[str, Any] = {"prompts": tuple(self.prompts[i] for i in index.tolist())}
        chosen |= {field.name: getattr(self, field.name)[index] for field in fields(self)[1:]}
        return Rollout(**chosen)


@torch.no_grad()
def sample(policy: nn.Module, prompt_ids: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float,
           eos_id: int, pad_id: int, generator: torch.Generator) -> Rollout:
    """Let the policy write one ending per prompt, token by token, until its EOS or the limit.

    Each row has its own random numbers, so none depends on another.
    Raises: InputError where the temperature is not above 0, a prompt is empty, or the policy's logits are not finite.
    """
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}: give a number above 0")
    unfinished = Unfinished.start(policy, prompt_ids, pad_id, max_new_tokens)
    device, weight = unfinished.rows.device, trunk_of(policy).get_input_embeddings().weight
    batch, dtype = len(prompt_ids), torch.promote_types(weight.dtype, torch.float32)
    uniform = torch.rand(batch, max_new_tokens, generator=generator).to(device)  # drawn on the CPU: the same everywhere
    tokens = torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device)
    logp = torch.zeros(batch, max_new_tokens, dtype=dtype, device=device)
    hidden = torch.zeros(batch, max_new_tokens, weight.shape[1], dtype=weight.dtype, device=device)
    lengths = torch.zeros(batch, dtype=torch.long, device=device)
    ended = torch.zeros(batch, dtype=torch.long, device=device)

    for t in range(max_new_tokens):
        rows = unfinished.rows
        if len(rows) == 0:
            break
        state = unfinished.forward()  # (rows, D)
        logits = lm_logits(policy, state)  # (rows, V)
        drawn = draw(logits, uniform[rows, t], temperature)  # (rows,)
        tokens[rows, t], hidden[rows, t] = drawn, state.to(hidden.dtype)
        logp[rows, t] = token_logprobs(logits, drawn, temperature)
        lengths[rows] += ended[rows] == 0
        ended[rows] |= (drawn == eos_id).long()
        unfinished.append(drawn, ended[rows] == 1)

    tokens, logp, hidden, lengths, ended = map(team.total, (tokens, logp, hidden, lengths, ended))
    longest = int(lengths.max())
    mask = torch.arange(longest, device=device) < lengths[:, None]  # rows may have gone on after their EOS
    tokens, logp = tokens[:, :longest].where(mask, pad_id), logp[:, :longest].where(mask, 0.0)
    hidden = hidden[:, :longest].where(mask[..., None], 0.0)
    check_finite(logp, mask)
    value_head: Any = getattr(policy, "value_head", None)
    values = full_precision(value_head(hidden).squeeze(-1)).where(mask, 0.0) if value_head else torch.zeros_like(logp)
    return Rollout(tuple(map(tuple, prompt_ids)), tokens, mask, logp, hidden, values, ended.bool())


class Unfinished:
    """The rows that are still being written: their cache, and what goes into the next forward pass."""

    def __init__(self, policy: nn.Module, rows: Tensor, tokens: Tensor, mask: Tensor, room: int) -> None:
        self.policy, self.rows, self.cache = policy, rows, roomy_cache()  # rows (R,): their places in the whole batch
        self.tokens = tokens  # (R, L) that the cache does not hold yet: first the prompts, then one at a time
        self.mask = torch.cat([mask, mask.new_ones(len(mask), room)], 1)  # (R, P + room), 0 on the padding
        self.positions = positions(mask)  # (R, L)
        self.seen = mask.shape[1]

    @classmethod
    def start(cls, policy: nn.Module, prompt_ids: Sequence[Sequence[int]], pad_id: int, room: int) -> Unfinished:
        """This process's share of the prompts, padded on the left, so that all endings begin in one column."""
        device = trunk_of(policy).get_input_embeddings().weight.device
        tokens, mask = (team.share(x).to(device) for x in pad_left(prompt_ids, pad_id))
        return cls(policy, team.share(torch.arange(len(prompt_ids), device=device)), tokens, mask.long(), room)

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The state after the last token of each row. Shapes: -> (R, D)."""
        first = self.seen == self.tokens.shape[1]
        distinct, same = distinct_neighbours(self.tokens, self.mask[:, :self.seen]) if first else (slice(None), None)
        with autocast(self.policy):
            states = trunk_of(self.policy)(
                input_ids=self.tokens[distinct], attention_mask=self.mask[distinct, :self.seen],
                position_ids=self.positions[distinct], past_key_values=self.cache,
                use_cache=True).last_hidden_state[:, -1]
        if same is None or len(states) == len(same):
            return states
        self.cache.reorder_cache(same)  # type: ignore[arg-type]  # equal prompts were read once
        return states[same]

    @torch.inference_mode()
    def append(self, drawn: Tensor, ended: Tensor) -> None:
        """Put the drawn tokens after the rows. The rows that have ended leave, and the last ones take their places.

        Shapes: (R,), (R,) bool.
        """
        self.tokens, self.positions, self.seen = drawn[:, None], self.positions[:, -1:] + 1, self.seen + 1
        left = int((~ended).sum())
        if left < len(ended):
            stay = torch.arange(left, device=ended.device)
            stay[ended[:left]] = left + (~ended[left:]).nonzero().squeeze(1)
            self.rows, self.tokens, self.mask, self.positions = (
                x[stay] for x in (self.rows, self.tokens, self.mask, self.positions))
            self.cache.reorder_cache(stay)  # type: ignore[arg-type]


def distinct_neighbours(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each run of equal rows, and for each row its run. Shapes: (R, L) each -> (N,), (R,).

    Example: rows a, a, b give [0, 2] and [0, 0, 1].
    """
    other = (tokens[1:] != tokens[:-1]).any(1) | (mask[1:] != mask[:-1]).any(1)
    new = torch.cat([other.new_ones(1), other])
    return new.nonzero().squeeze(1), new.long().cumsum(0) - 1


def positions(mask: Tensor) -> Tensor:
    """Position of each token counted from its row's first live one, so that left padding moves nothing."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def pad_left(prompt_ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as tokens (B, P) and mask (B, P), padded on the left."""
    if not prompt_ids or not all(prompt_ids):
        raise InputError(f"{sum(not ids for ids in prompt_ids)} of {len(prompt_ids)} prompts are empty: give at least "
                         "one prompt, and some text in each")
    longest = max(map(len, prompt_ids))
    tokens = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in prompt_ids])
    lengths = torch.tensor([len(ids) for ids in prompt_ids])
    return tokens, torch.arange(longest) >= longest - lengths[:, None]


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Turn one uniform number per row into one token per row, by inverting the cumulative distribution.

    Shapes: (B, V), (B,) -> (B,).
    """
    cumulative = (full_precision(logits) / temperature).softmax(-1).cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def best_of_n_index(scores: Tensor) -> Tensor:
    """Which of the n candidates of each prompt scores highest: (B, n) -> (B,)."""
    return scores.argmax(1)


def best_of_n_kl(n: int) -> float:
    """Upper bound on KL(best of n || one sample), in nats per ending: ln n - (n - 1) / n.

    Source: Stiennon et al. 2020; Beirami et al. 2024 show that it is a bound.
    """
    return math.log(n) - (n - 1) / n
