"""The exercises of notebook 01: a softmax that overflows, and minus infinity where it is right."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.decoding import TOP_K


def test_a_softmax_that_overflows_is_worth_one_point() -> None:
    def plain(logits: Tensor, temperature: float) -> Tensor:
        weights = (logits / temperature).exp()
        return weights / weights.sum(-1, keepdim=True)
    result = checks.check_temperature(plain)
    assert result.points == 1 and "take the largest logit off first" in str(result)


def test_minus_infinity_is_no_fault_where_it_is_expected() -> None:
    result = checks.check_top_k(lambda logits, k: 2 * TOP_K.right(logits, k))
    assert "nor one of the usual mistakes" in str(result) and "which training cannot use" not in str(result)
    spoilt = checks.check_top_k(lambda logits, k: torch.full_like(logits, -torch.inf))
    assert "your result is -inf, which training cannot use" in str(spoilt)
