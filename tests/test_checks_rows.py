"""The exercises of notebook 02: the types that a padded batch may have."""

from __future__ import annotations

import pytest
import torch
from right_answers import filled_batch

from rlhf_mini import checks


def test_lists_for_tensors_are_named() -> None:
    result = checks.check_padded_batch(lambda rows, pad_id: ([[1, 2]], [[1, 1]]))
    assert "tokens is a list of 1, expected is a tensor" in str(result)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_a_mask_may_be_of_any_dtype(dtype: torch.dtype) -> None:
    def converted(rows: list[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, mask = filled_batch(rows, pad_id)
        return tokens, mask.to(dtype)
    assert checks.check_padded_batch(converted).points == 2
