"""The benchmark counts work by formulas, which here meet sums by hand and the counter of PyTorch."""

from __future__ import annotations

from typing import Any

import flops
import machine
import pytest
import torch
from flops import Shape
from machine import Summary, Turn, Work
from torch.utils.flop_counter import FlopCounterMode

from rlhf_mini.optimisers import muon_and_adamw

TINY = Shape(layers=2, width=3, inner=12, vocabulary=5)


def counted(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture
def model(tiny_model: Any) -> Any:
    """Its attention as separate products: PyTorch's counter does not know the fused one of a CPU."""
    tiny_model.set_attn_implementation("eager")
    return tiny_model


# --- by hand ----------------------------------------------------------------------------------------------------


def test_a_row_by_hand() -> None:
    weights = 2 * (3 * 9 + 3 * 3 + 3 * 12 + 12 * 3)  # 216
    assert TINY.linear(4) == 2 * 4 * weights == 1728
    assert TINY.attention(4) == 2 * (1 + 2 + 3 + 4) * (2 * 3 + 2 * 3)  # layers, pairs, products with keys and values
    assert TINY.trunk([4, 1]) == TINY.linear(5) + TINY.attention(4) + TINY.attention(1)


def test_the_stages_by_hand() -> None:
    # A prompt of 2 tokens with an ending of 3: four tokens go in, and three states are read.
    one = TINY.trunk([4]) + 2 * 3 * 3 * 5
    assert flops.next_tokens(TINY, [2], [3]) == one
    assert flops.sft(TINY, [2, 2], [3, 3]) == 3 * 2 * one
    scored = TINY.trunk([5]) + 2 * 3
    assert flops.scores(TINY, [5]) == scored and flops.reward_fit(TINY, [5]) == 3 * scored
    values = 2 * 3 * 3
    assert flops.ppo_update(TINY, [2], [3], epochs=4) == 4 * 3 * (one + values)
    assert flops.ppo_iteration(TINY, [2], [3], epochs=4) == (one + values) + one + scored + 12 * (one + values)


def test_muon_by_hand() -> None:
    # Matrices of 3 x 9, 3 x 3 and two of 3 x 12: x x' and the product with x cost the same, the square 2 * 27.
    each = sum(2 * 2 * 9 * columns + 2 * 27 for columns in (9, 3, 12, 12))
    assert flops.newton_schulz(TINY, steps=5) == 2 * 5 * each


# --- by PyTorch's counter ---------------------------------------------------------------------------------------


def test_the_shape_is_that_of_the_model(model: Any) -> None:
    assert Shape.of(model) == Shape(layers=2, width=32, inner=128, vocabulary=320)


def test_a_forward_pass_is_what_pytorch_counts(model: Any) -> None:
    shape, rows = Shape.of(model), torch.randint(320, (3, 20))
    square = 4 * shape.layers * shape.width * 20 * 20  # it also multiplies what the causal mask hides
    expected = 3 * (shape.linear(20) + square) + shape.lm_head(60)
    assert counted(lambda: model(input_ids=rows)) == expected
    assert shape.attention(20) / square == pytest.approx(21 / 40)


def test_training_is_three_forward_passes(model: Any) -> None:
    rows = torch.randint(320, (3, 20))
    forward = counted(lambda: model(input_ids=rows))
    assert counted(lambda: model(input_ids=rows).logits.sum().backward()) == flops.TRAINING * forward


def test_a_step_of_muon_is_what_pytorch_counts(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    muon = muon_and_adamw(model, 0.0)[0]
    assert counted(muon.step) == flops.newton_schulz(Shape.of(model))


# --- turns ------------------------------------------------------------------------------------------------------


def test_the_ideal_is_the_work_at_the_rate() -> None:
    turn = Turn(seconds=3.0, flop=40e9, tokens=12, rate=20e9)  # two seconds would be ideal
    assert turn.over_ideal == pytest.approx(1.5)
    assert machine.tokens_per_second([turn]) == Summary(4.0, 4.0, 4.0)


def test_others_are_compared_round_by_round_for_the_same_work() -> None:
    ours = [Turn(1.0, 10.0, 1, 20.0), Turn(2.0, 10.0, 1, 10.0), Turn(1.0, 10.0, 1, 20.0)]  # the machine slows down
    theirs = [Turn(6.0, 20.0, 2, 20.0), Turn(14.0, 20.0, 2, 10.0), Turn(5.0, 20.0, 2, 20.0)]  # with twice the work
    assert machine.slower(theirs, ours) == Summary(3.0, 2.5, 3.5)


def test_contenders_take_turns_after_a_warm_up() -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        def run() -> Work:
            order.append(name)
            return Work(1.0, 1)
        return machine.timed(run)

    turns = machine.take_turns({"a": contender("a"), "b": contender("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert {name: len(found) for name, found in turns.items()} == {"a": 2, "b": 2}
