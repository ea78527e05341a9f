"""Which rows go into which batch: in random order, and with rows of similar length together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

SORTED_TOGETHER = 16  # so many batches are sorted by length at a time
POOL = 8192  # so many documents of a stream are shuffled and sorted at a time


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Indices in batches, without end: each once before any comes again, in a new order every time."""
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:batch_size]
        del waiting[:batch_size]


def similar_lengths(batches: Iterator[list[int]], lengths: Sequence[int], size: int,
                    generator: torch.Generator) -> Iterator[list[int]]:
    """The same indices, regrouped so that a batch holds rows of similar length, which need little padding.

    Example: of the batches [0, 1] and [2, 3] and the lengths 9, 2, 8, 3, the batches are [1, 3] and [2, 0], in random
    order. Some batches are regrouped at a time, never more than one pass, so that no batch is filled with one row.
    """
    together = max(1, min(SORTED_TOGETHER, len(lengths) // size))
    while group := list(islice(batches, together)):
        indices = sorted((i for batch in group for i in batch), key=lengths.__getitem__)
        for k in torch.randperm(len(group), generator=generator).tolist():
            yield indices[k * size:(k + 1) * size]


def token_batches(documents: Iterable[Sequence[int]], batch_tokens: int,
                  seed: int) -> Iterator[tuple[list[Any], int]]:
    """Batches of documents of similar length, at most `batch_tokens` with their padding, and how many came before.

    A pool at a time is sorted and split, and its batches are shuffled: short and long documents still alternate.
    """
    stream, generator, seen = iter(documents), torch.Generator().manual_seed(seed), 0
    while pool := list(islice(stream, POOL)):
        order = torch.randperm(len(pool), generator=generator).tolist()
        order.sort(key=lambda i: len(pool[i]))
        batches = split_by_tokens(order, [len(row) for row in pool], batch_tokens)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield [pool[j] for j in batches[i]], seen
            seen += len(batches[i])


def split_by_tokens(order: Sequence[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices, those of the shortest rows first, in groups of at most `limit` tokens with padding (or of one row).

    Example: rows of 1, 1 and 3 tokens and a limit of 3 give [[0, 1], [2]].
    """
    groups: list[list[int]] = []
    for i in order:
        if not groups or lengths[i] * (len(groups[-1]) + 1) > limit:
            groups.append([])
        groups[-1].append(i)
    return groups
