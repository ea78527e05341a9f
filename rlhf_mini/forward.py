"""Rows of tokens in, hidden states out: the only place where rows are sorted, padded and processed in chunks.

One trunk, three heads. The trunk reads rows of tokens of unequal length; a head reads its states:
    SFT loss            the LM head at the states before the tokens to be learnt
    log-probability     the LM head at the states before the tokens of the response
    value               the value head at the same states
    score               the reward head at the state of the last token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini.batches import split_by_tokens
from rlhf_mini.errors import InputError

CHUNK_TOKENS = 2048  # the trunk reads so many at a time: they fit into a CPU's cache and keep its cores busy
BLOCK_ROWS = 512  # the LM head reads so many states at a time


def hidden_states(model: nn.Module, rows: Sequence[Sequence[int]], starts: Sequence[int],
                  dropout: Dropout | None = None) -> Tensor:
    """The trunk's state at each row's tokens from index `start` on, row after row.

    Rows of similar length go through together, so that there is little padding. The padding is on the right, where a
    causal model never looks: it needs no mask. Shapes: N rows, N starts -> (tokens from the starts on, D).
    Example: rows [5, 6, 7] and [8, 9] with starts 1 and 0 give the states of 6, 7, 8, 9.
    """
    trunk, embed = trunk_of(model), language_model_of(model).get_input_embeddings()
    device, lengths = embed.weight.device, [len(row) for row in rows]
    states = [] if rows else [embed.weight[:0]]  # without rows: no states, but still with a gradient
    places: list[range] = [range(0)] * len(rows)  # where each row's states will stand among all of them
    total = 0
    for chunk in split_by_tokens(sorted(range(len(rows)), key=lengths.__getitem__), lengths, CHUNK_TOKENS):
        tokens = pad_right([rows[i] for i in chunk], device=device)  # (C, L)
        if dropout is not None:
            dropout.chunk = chunk
        with autocast(model):
            hidden = trunk(inputs_embeds=embed(tokens), use_cache=False).last_hidden_state  # (C, L, D)
        states.append(hidden.flatten(0, 1))
        for i in chunk:
            places[i] = range(total + starts[i], total + lengths[i])
            total += tokens.shape[1]
    index = torch.tensor([place for row in places for place in row], dtype=torch.long, device=device)
    return torch.cat(states).index_select(0, index)


def pad_right(rows: Sequence[Sequence[int]], fill: int = 0, device: torch.device | None = None) -> Tensor:
    """Rows of tokens as one tensor, (N, L); what fills the short ones is never looked at."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=device)


def trunk_of(model: nn.Module) -> Any:
    """The part of a language model, policy or reward model that its heads share."""
    return language_model_of(model).base_model


def language_model_of(model: nn.Module) -> Any:
    """The transformers model inside a policy with a value head; any other model itself."""
    return getattr(model, "language_model", model)


def lm_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """The LM head's logits for the next token. Shapes: (..., D) -> (..., V)."""
    with autocast(model):
        return language_model_of(model).get_output_embeddings()(hidden)


def in_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of some rows at a time, so that their logits, (rows, V), stay in the cache. Shapes: (N, ...) each."""
    return torch.cat([function(*rows) for rows in zip(*(x.split(BLOCK_ROWS) for x in tensors), strict=True)])


def autocast(model: nn.Module) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 where the model was told so (`use_bf16`); weights stay in their own precision."""
    language_model = language_model_of(model)
    if not uses_bf16(language_model):
        return nullcontext()
    return torch.autocast(language_model.device.type, torch.bfloat16)


def use_bf16(model: nn.Module) -> None:
    """From now on, this model and copies of it compute matrix products in bfloat16.

    Raises: InputError on a GPU that has no bfloat16. A CPU without it emulates it, slowly.
    """
    language_model = language_model_of(model)
    if language_model.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("this GPU has no bfloat16: leave out --bf16")
    language_model.computes_in_bf16 = True


def uses_bf16(model: nn.Module) -> bool:
    """Whether the model computes matrix products in bfloat16."""
    return getattr(language_model_of(model), "computes_in_bf16", False)


class Dropout:
    """Dropout of embeddings and layer outputs for as long as a `with` block lasts; the model itself is not changed.

    Every row of a batch and every position in it has random bytes of its own, so neither the chunks nor the processes
    that share a batch change a digit. Attention weights are kept: to drop them would cost the fast attention.
    """

    def __init__(self, model: nn.Module, probability: float, seed: int, lengths: Sequence[int],
                 rows: Sequence[int] | None = None) -> None:
        """`lengths` are those of the whole batch; `rows` are the numbers of the rows that come, by default all."""
        self.layers = [layer for name, layer in trunk_of(model).named_modules()
                       if isinstance(layer, nn.Dropout) and not name.endswith("attn_dropout")]
        self.dropped = round(256 * probability)  # of the 256 values of a random byte
        self.seed, self.shape = seed, (len(lengths), max(lengths))
        self.rows = range(len(lengths)) if rows is None else rows
        self.kept: dict[int, Tensor] = {}  # by layer: (rows, length, D) bool
        self.chunk: Sequence[int] = ()

    def __enter__(self) -> Dropout:
        self.hooks = [layer.register_forward_hook(partial(self._drop, number))
                      for number, layer in enumerate(self.layers if self.dropped else ())]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _drop(self, number: int, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if number not in self.kept:
            self.kept[number] = self._draw(number, output.shape[-1])
        kept = self.kept[number][[self.rows[i] for i in self.chunk], :output.shape[1]]  # (C, L, D)
        return output * kept.to(output.device, output.dtype) * (256 / (256 - self.dropped))

    def _draw(self, number: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * len(self.layers) + number)
        count = self.shape[0] * self.shape[1] * width
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-2**63, None, generator=generator)
        return (words.view(torch.uint8)[:count] >= self.dropped).view(*self.shape, width)
