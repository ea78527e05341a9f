"""Exercises on rows of tokens: a demonstration with its loss mask, a padded batch, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.checks.tokens import between
from rlhf_mini.forward import pad_right

Rows = Sequence[Sequence[int]]
Row = tuple[list[int], list[int]]  # tokens and loss mask


def check_row(function: Any) -> Result:
    """Check f(prompt_ids, ending_ids, eos_id): the tokens of a demonstration and its loss mask, two lists."""
    return check_plain(ROW, function)


def check_padded_batch(function: Any) -> Result:
    """Check f(rows, pad_id): tokens and mask, (B, L) each, padded on the right.

    The mask may be of any dtype, True and False or 1 and 0: the package reads it by `mask.bool()`.
    """
    return check(PADDED_BATCH, function)


def check_labels(function: Any) -> Result:
    """Check f(tokens, prompt_lengths, lengths), -> (B, L): the tokens that are learnt, and -100 elsewhere."""
    return check_plain(LABELS, function)


# --- one demonstration ------------------------------------------------------------------------------------------------


def row(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    return [*prompt_ids, *ending_ids, eos_id], [0] * len(prompt_ids) + [1] * (len(ending_ids) + 1)


def eos_missing(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    """the end-of-text token is missing: put eos_id after the ending, and learn it"""
    return prompt_ids + ending_ids, [0] * len(prompt_ids) + [1] * len(ending_ids)


def eos_not_learnt(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    """the end-of-text token is not learnt, and the model would never stop: its mask is 1"""
    return row(prompt_ids, ending_ids, eos_id)[0], [0] * len(prompt_ids) + [1] * len(ending_ids) + [0]


def eos_without_mask(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    """the mask is one shorter than the tokens: the end-of-text token needs a 1 too"""
    return row(prompt_ids, ending_ids, eos_id)[0], [0] * len(prompt_ids) + [1] * len(ending_ids)


def prompt_learnt(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    """the prompt is learnt too: its mask is 0"""
    return row(prompt_ids, ending_ids, eos_id)[0], [1] * (len(prompt_ids) + len(ending_ids) + 1)


def mask_inverted(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    """the mask is inverted: 1 stands where a token is learnt, 0 at the prompt"""
    tokens, mask = row(prompt_ids, ending_ids, eos_id)
    return tokens, [1 - one for one in mask]


def mask_early(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Row:
    """the mask stands one place early, at the positions that predict: here it marks the learnt tokens themselves"""
    tokens, mask = row(prompt_ids, ending_ids, eos_id)
    return tokens, [*mask[1:], 0]


ROW = PlainExercise(
    name="one row",
    right=row,
    mistakes=[eos_missing, eos_not_learnt, eos_without_mask, prompt_learnt, mask_inverted, mask_early],
    cases={"with a prompt of 3 tokens": {"prompt_ids": [5, 6, 7], "ending_ids": [8, 9], "eos_id": 0},
           "with a prompt of 1 token": {"prompt_ids": [4], "ending_ids": [6, 5, 6], "eos_id": 2}},
)


# --- a padded batch ---------------------------------------------------------------------------------------------------


def padded_batch(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    return pad_right(rows, pad_id), pad_right([[1] * len(one) for one in rows]).bool()


def masked_by_identity(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    """the mask leaves out every token that equals pad_id, also a real one, such as an EOS: make it from the lengths"""
    tokens = padded_batch(rows, pad_id)[0]
    return tokens, tokens != pad_id


def padded_left(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    """the padding stands on the left: put it after the row"""
    backwards = padded_batch([list(reversed(one)) for one in rows], pad_id)
    return backwards[0].flip(1), backwards[1].flip(1)


def cut_short(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    """long rows are cut to the shortest: fill the short ones up to the longest"""
    return padded_batch([one[:min(map(len, rows))] for one in rows], pad_id)


def padding_live(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    """the mask is inverted: it is True where a row has a token, False at the padding"""
    tokens, mask = padded_batch(rows, pad_id)
    return tokens, ~mask


def filled_with_zero(rows: Rows, pad_id: int) -> tuple[Tensor, Tensor]:
    """the padding is token 0, which may mean something: fill with pad_id"""
    return padded_batch(rows, 0)[0], padded_batch(rows, pad_id)[1]


PADDED_BATCH = Exercise(
    name="padded batch",
    right=padded_batch,
    mistakes=[masked_by_identity, padded_left, cut_short, padding_live, filled_with_zero],
    cases={"with a pad token of its own": {"rows": [[5, 6, 7, 0], [8, 0]], "pad_id": 1},
           "with the EOS, 2, as pad token": {"rows": [[8, 2], [5, 6, 7, 9, 2], [4, 7, 2]], "pad_id": 2}},
    parts=("tokens", "mask"),
)


# --- labels -----------------------------------------------------------------------------------------------------------


def labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    return tokens.masked_fill(~between(tokens, prompt_lengths, lengths), -100)


def prompt_labelled(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the prompt has labels: write -100 before prompt_lengths"""
    return labels(tokens, torch.zeros_like(prompt_lengths), lengths)


def padding_labelled(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the padding has labels: write -100 from lengths on"""
    return labels(tokens, prompt_lengths, torch.full_like(lengths, tokens.shape[1]))


def eos_unlabelled(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """off by one at the end: the last token of each row, the EOS, has no label, and the model would never stop"""
    return labels(tokens, prompt_lengths, lengths - 1)


def first_unlabelled(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """off by one at the start: the first token of each ending, tokens[prompt_length], has no label"""
    return labels(tokens, prompt_lengths + 1, lengths)


def zero_labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """0 is a token like any other: write -100, which F.cross_entropy ignores"""
    return tokens.masked_fill(~between(tokens, prompt_lengths, lengths), 0)


def shifted_labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the labels are shifted by one: here each stands where its token stands, and the loss does the shift later"""
    moved = labels(tokens, prompt_lengths, lengths).roll(-1, 1)
    return torch.where(torch.arange(tokens.shape[1], device=tokens.device) == tokens.shape[1] - 1, -100, moved)


def window_early(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """the labels stand one place early: the last token of the prompt has one, and the EOS has none"""
    return labels(tokens, prompt_lengths - 1, lengths - 1)


LABELS = PlainExercise(
    name="labels",
    right=labels,
    mistakes=[prompt_labelled, padding_labelled, eos_unlabelled, first_unlabelled, zero_labels, shifted_labels,
              window_early],
    cases={"without padding": {"tokens": torch.tensor([[5, 6, 7, 2], [8, 9, 5, 2]]),
                               "prompt_lengths": torch.tensor([2, 1]), "lengths": torch.tensor([4, 4])},
           "with the EOS, 2, as padding": {"tokens": torch.tensor([[5, 6, 7, 9, 2], [8, 4, 2, 2, 2]]),
                                           "prompt_lengths": torch.tensor([3, 1]), "lengths": torch.tensor([5, 3])}},
)
