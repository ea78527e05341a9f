"""The exercises of notebook 02: right answers in several styles pass, and usual mistakes are called by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise
from rlhf_mini.checks.plain import PlainExercise, agreeing, answers_of
from rlhf_mini.checks.rows import LABELS, PADDED_BATCH, ROW

Function = Callable[..., Any]

CHECKS: dict[str, tuple[Function, Any]] = {
    "row": (checks.check_row, ROW), "padded_batch": (checks.check_padded_batch, PADDED_BATCH),
    "labels": (checks.check_labels, LABELS),
}
MISTAKES = [pytest.param(check, exercise, mistake, id=f"{name}-{mistake.__name__}")
            for name, (check, exercise) in CHECKS.items() for mistake in exercise.mistakes]


def looped_row(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Any:
    tokens, mask = [], []
    for token in prompt_ids:
        tokens.append(token)
        mask.append(False)
    for token in [*ending_ids, eos_id]:
        tokens.append(token)
        mask.append(True)
    return tokens, mask


def filled_batch(rows: list[list[int]], pad_id: int) -> Any:
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        tokens[i, :len(row)] = torch.tensor(row)
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def added_batch(rows: list[list[int]], pad_id: int) -> Any:
    longest = max(map(len, rows))
    return (torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows]),
            torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]))


def looped_labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    found = torch.full_like(tokens, -100)
    for b in range(len(tokens)):
        found[b, prompt_lengths[b]:lengths[b]] = tokens[b, prompt_lengths[b]:lengths[b]]
    return found


def compared_labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    position = torch.arange(tokens.shape[1])
    return torch.where((position >= prompt_lengths[:, None]) & (position < lengths[:, None]), tokens, -100)


@pytest.mark.parametrize(("name", "function"), [
    ("row", lambda prompt, ending, eos: (prompt + ending + [eos], [0] * len(prompt) + [1] * (len(ending) + 1))),
    ("row", looped_row), ("padded_batch", filled_batch), ("padded_batch", added_batch),
    ("labels", looped_labels), ("labels", compared_labels),
])
def test_right_answers_are_accepted(name: str, function: Function) -> None:
    result = CHECKS[name][0](function)
    assert result.points == 2 and "correct" in str(result), result


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: Any, mistake: Function) -> None:
    result = check(mistake)
    assert result.points == 0
    assert str(result).startswith(f"{exercise.name}: {sentence(mistake)}. "), result


@pytest.mark.parametrize("name", CHECKS)
def test_no_two_mistakes_look_alike(name: str) -> None:
    exercise = CHECKS[name][1]
    functions = (exercise.right, *exercise.mistakes)
    assert len({function.__name__ for function in functions}) == len(functions) >= 5
    for one, other in itertools.combinations(functions, 2):
        if isinstance(exercise, Exercise):
            assert not agree(exercise, answers(exercise, one), answers(exercise, other))
        else:
            assert isinstance(exercise, PlainExercise)
            assert not agreeing(answers_of(exercise, one), answers_of(exercise, other))


@pytest.mark.parametrize("name", CHECKS)
def test_a_stub_is_not_attempted_yet(name: str) -> None:
    def stub(*args: Any) -> Any:
        """What it does."""
        ...
    assert str(CHECKS[name][0](stub)) == f"{CHECKS[name][1].name}: not attempted yet"


def test_lists_for_tensors_are_named() -> None:
    result = checks.check_padded_batch(lambda rows, pad_id: ([[1, 2]], [[1, 1]]))
    assert "tokens is a list of 1, expected is a tensor" in str(result)
