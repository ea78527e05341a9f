"""Rows in, states out: neither order, nor chunks, nor padding change a state; dropout belongs to rows and positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_mini import forward
from rlhf_mini.forward import Dropout, hidden_states, in_blocks, lm_logits, pad_right, use_bf16, uses_bf16
from rlhf_mini.language_model import frozen_copy

rows_of_tokens = st.lists(st.lists(st.integers(2, 319), min_size=1, max_size=30), min_size=1, max_size=6)
property_test = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(rows_of_tokens, st.integers(0, 29), st.integers(1, 70))
@property_test
def test_states_are_those_of_each_row_alone(tiny_model: Any, rows: list[list[int]], start: int, chunk: int) -> None:
    starts = [min(start, len(row) - 1) for row in rows]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHUNK_TOKENS", chunk)
        together = hidden_states(tiny_model, rows, starts)
        alone = [tiny_model.transformer(torch.tensor([row])).last_hidden_state[0, first:]
                 for row, first in zip(rows, starts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_what_fills_the_padding_changes_nothing_to_the_bit(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def states(fill: int) -> tuple[torch.Tensor, torch.Tensor]:
        tiny_model.zero_grad()
        monkeypatch.setattr(forward, "pad_right", lambda rows, device: pad_right(rows, fill, device))
        found = hidden_states(tiny_model, [[5, 6, 7, 8, 9], [5, 6]], [1, 0])
        found.square().sum().backward()
        return found.detach(), torch.cat([p.grad.flatten() for p in tiny_model.transformer.h.parameters()])

    for one, other in zip(states(1), states(250), strict=True):
        assert torch.equal(one, other)


def test_no_rows_have_no_states_but_a_gradient(tiny_model: Any) -> None:
    """A process whose share of a batch is empty still takes part in the backward pass."""
    found = hidden_states(tiny_model, [], [])
    assert found.shape == (0, 32)
    lm_logits(tiny_model, found).sum().backward()
    assert not tiny_model.transformer.wte.weight.grad.any()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 10, 3)
    monkeypatch.setattr(forward, "BLOCK_ROWS", 4)
    assert torch.equal(in_blocks(lambda a, b: a * b.sum(1, keepdim=True), x, y), x * y.sum(1, keepdim=True))


def test_dropout_drops_its_share_and_keeps_the_mean(tiny_model: Any) -> None:
    layer = tiny_model.transformer.drop
    with Dropout(tiny_model, 0.25, seed=0, lengths=[500] * 40) as dropout:
        dropout.chunk = range(40)
        found = layer(torch.ones(40, 500, 32))
    assert found.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (found == 0).double().mean().item() == pytest.approx(0.25, abs=0.002)  # 6 standard errors are 0.0033
    assert found.mean().item() == pytest.approx(1, abs=0.003)
    assert torch.equal(layer(torch.ones(2, 3)), torch.ones(2, 3))  # nothing is left behind


def test_dropout_belongs_to_rows_and_positions(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever chunks and shares a batch is processed in, every row sees the same masks."""
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13], [14, 15, 16, 17, 18]]
    lengths, starts = [len(row) for row in rows], [0] * 4

    def states(numbers: list[int], chunk: int, seed: int = 3) -> list[torch.Tensor]:
        monkeypatch.setattr(forward, "CHUNK_TOKENS", chunk)
        with torch.no_grad(), Dropout(tiny_model, 0.5, seed, lengths, numbers) as dropout:
            found = hidden_states(tiny_model, [rows[i] for i in numbers], starts[:len(numbers)], dropout)
        return list(found.split([lengths[i] for i in numbers]))

    whole = states([0, 1, 2, 3], 1000)
    for numbers, chunk in (([0, 1, 2, 3], 1), ([2, 0], 1000), ([3], 1000)):
        for i, state in zip(numbers, states(numbers, chunk), strict=True):
            torch.testing.assert_close(state, whole[i], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole[0], states([0, 1, 2, 3], 1000, seed=4)[0])


def test_a_stop_inside_dropout_leaves_the_model_as_it_was(tiny_model: Any) -> None:
    def score() -> torch.Tensor:
        with torch.no_grad():
            return hidden_states(tiny_model, [[5, 6, 7]], [0])

    before = score()
    with pytest.raises(KeyboardInterrupt), Dropout(tiny_model, 0.5, 0, [3]):
        raise KeyboardInterrupt
    assert torch.equal(score(), before)
    assert not any(module.training for module in tiny_model.modules())


def test_bf16_is_for_matrix_products_and_stays_with_copies(tiny_model: Any) -> None:
    exact = lm_logits(tiny_model, hidden_states(tiny_model, [[5, 6, 7]], [0]))
    use_bf16(tiny_model)
    rough = lm_logits(tiny_model, hidden_states(tiny_model, [[5, 6, 7]], [0]))
    assert rough.dtype == torch.bfloat16 and tiny_model.dtype == torch.float32
    assert uses_bf16(frozen_copy(tiny_model))
    assert not torch.equal(rough.float(), exact) and (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
