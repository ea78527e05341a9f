"""The roomy cache holds what transformers' own cache holds, whatever is written to it and whoever leaves."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from rlhf_mini.cache import ROOM, roomy_cache


@pytest.mark.parametrize("first", [1, 5, ROOM + 3])
def test_it_grows_and_shrinks_as_the_cache_that_copies(first: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = roomy_cache(), DynamicCache()
    batch = 6
    for step in range(2 * ROOM + 5):
        new = first if step == 0 else 1
        for layer in range(2):
            states = torch.randn(2, batch, 3, new, 4, generator=generator)
            found = ours.update(states[0], states[1], layer)
            expected = theirs.update(states[0], states[1], layer)
            assert all(map(torch.equal, found, expected))
        assert ours.get_seq_length() == theirs.get_seq_length() == first + step
        if step in (2, ROOM):
            rows = torch.tensor([3, 0, 2, 1][: batch - 2])
            ours.reorder_cache(rows)  # type: ignore[arg-type]
            theirs.reorder_cache(rows)  # type: ignore[arg-type]
            batch = len(rows)
        assert torch.equal(ours.layers[1].keys, theirs.layers[1].keys)  # type: ignore[arg-type, union-attr]


def test_rows_come_more_than_once_and_the_last_ones_take_the_places_of_those_that_leave() -> None:
    ours, theirs = roomy_cache(), DynamicCache()
    states = torch.randn(2, 2, 3, 4, 5)
    for cache in (ours, theirs):
        cache.update(states[0], states[1], 0)
        for rows in ([0, 0, 0, 1, 1], [0, 4, 3], [2, 1]):
            cache.reorder_cache(torch.tensor(rows))  # type: ignore[arg-type]
    assert torch.equal(ours.layers[0].keys, theirs.layers[0].keys)  # type: ignore[arg-type, union-attr]
    assert torch.equal(ours.layers[0].values, theirs.layers[0].values)  # type: ignore[arg-type, union-attr]


def test_a_step_copies_nothing_while_there_is_room() -> None:
    cache = roomy_cache()
    keys, _ = cache.update(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), 0)
    more, _ = cache.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0)
    assert more.shape == (1, 1, 4, 2) and more.data_ptr() == keys.data_ptr()
