"""The optimisers: what decays, who holds which parameter, and that Muon is torch's Muon in full precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf_mini.optimisers import Muon, adamw, muon_and_adamw, orthogonal, schedule


def test_matrices_decay_and_biases_do_not(tiny_model: Any) -> None:
    decayed, others = adamw(tiny_model, weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and {p.ndim for p in decayed["params"]} == {2}
    assert others["weight_decay"] == 0 and {p.ndim for p in others["params"]} == {1}


def test_muon_and_adamw_share_the_parameters_between_them(tiny_model: Any) -> None:
    optimizers = muon_and_adamw(tiny_model, weight_decay=0.1)
    held = [[id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    assert sorted([*held[0], *held[1]]) == sorted(id(p) for p in tiny_model.parameters())
    assert held[0] and set(held[0]) == {id(p) for p in tiny_model.transformer.h.parameters() if p.ndim == 2}


@pytest.mark.parametrize(("progress", "factor"), [(0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0), (1.2, 0.0)])
def test_the_schedule_by_hand(progress: float, factor: float) -> None:
    assert schedule(progress, warmup=0.1) == pytest.approx(factor)


def test_the_schedule_moves_at_the_first_step_and_without_warm_up() -> None:
    assert schedule(0.0, warmup=0.1) > 0 and schedule(0.0, warmup=0.0) == 1
    assert schedule(0.5, warmup=1.0) == 0.5 and schedule(1.0, warmup=1.0) >= 0


# --- Muon -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 32), (2, 32, 8)])
def test_orthogonal_moves_every_singular_value_close_to_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert found.shape == matrices.shape and values.max() < 1.3 and values.min() > 0.3
    assert torch.allclose(found, torch.stack([orthogonal(matrix[None])[0] for matrix in matrices]), atol=1e-5)


def test_a_matrix_of_one_singular_value_by_hand() -> None:
    a, b, c = 3.4445, -4.7750, 2.0315
    x = 1.0  # a matrix of rank one and norm 1
    for _ in range(5):
        x = a * x + b * x**3 + c * x**5
    matrix = torch.zeros(1, 2, 3)
    matrix[0, 1, 2] = 7.0
    expected = torch.zeros(1, 2, 3)
    expected[0, 1, 2] = x
    torch.testing.assert_close(orthogonal(matrix), expected, atol=1e-5, rtol=1e-5)


def test_muon_steps_as_torch_does_which_rounds_to_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(6, 10, generator=generator), torch.randn(6, 10, generator=generator), torch.randn(9, 4)]
    ours = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    theirs = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    optimizers = [Muon(ours, lr=0.01, weight_decay=0.1),
                  torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")]
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, first in zip(ours, theirs, start, strict=True):
        moved, moved_there = mine.detach() - first, other.detach() - first
        assert torch.nn.functional.cosine_similarity(moved.flatten(), moved_there.flatten(), dim=0) > 0.999
        assert moved.norm() / moved_there.norm() == pytest.approx(1, abs=0.02)


def test_muon_leaves_a_matrix_without_gradient_alone() -> None:
    matrix = torch.nn.Parameter(torch.ones(2, 2))
    Muon([matrix], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(matrix, torch.ones(2, 2))
