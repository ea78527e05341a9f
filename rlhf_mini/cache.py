"""A key-value cache with room to grow: a step of sampling writes into it, where transformers' own copies all of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 32  # the buffer grows by so many positions at a time


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer: views of the used part of one tensor. Shapes: (B, heads, positions, D) each."""

    buffer: Tensor  # (2, B, heads, positions and free ones, D), from the first update on

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new states after the old ones; returns all keys and values so far."""
        used, new = self.get_seq_length(), torch.stack([key_states, value_states])
        self.is_initialized = True
        length = used + new.shape[-2]
        if used == 0 or length > self.buffer.shape[-2]:
            larger = new.new_empty(*new.shape[:-2], length + ROOM, new.shape[-1])
            if used:
                larger[..., :used, :] = self.buffer[..., :used, :]
            self.buffer = larger
        self.buffer[..., used:length, :] = new
        return self._show(length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may come more than once.

        Where rows only leave, nothing is allocated, and only the rows that get another place are copied.
        """
        used, rows = self.get_seq_length(), len(beam_idx)
        if rows > self.buffer.shape[1]:
            self.buffer = self.buffer.index_select(1, beam_idx)
        else:
            moved = (beam_idx != torch.arange(rows, device=beam_idx.device)).nonzero().squeeze(1)
            self.buffer[:, moved, :, :used] = self.buffer[:, beam_idx[moved], :, :used]
            self.buffer = self.buffer[:, :rows]
        self._show(used)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self.buffer[..., :length, :]
        return self.keys, self.values


def roomy_cache() -> Cache:
    """An empty cache for one batch."""
    return Cache(layer_class_to_replicate=RoomyLayer)
