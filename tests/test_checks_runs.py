"""The checks of 06: right answers in several styles pass, usual mistakes are called by name, stubs are told apart."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.checks.plain import agreeing, answers_of
from rlhf_mini.checks.prompts import CHOOSE_BATCH
from rlhf_mini.checks.runs import BEST_OF_N, BEST_SCORE, KL_PER_ENDING

Function = Callable[..., Any]
CHECKS: dict[Function, Exercise] = {checks.check_kl_per_ending: KL_PER_ENDING, checks.check_best_of_n: BEST_OF_N,
                                    checks.check_best_score: BEST_SCORE}
MISTAKES = [pytest.param(check, exercise, mistake, id=mistake.__name__)
            for check, exercise in CHECKS.items() for mistake in exercise.mistakes]


def looped_kl(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([(p - q)[live].sum() for p, q, live in zip(logp, logp_ref, mask.bool(), strict=True)])


def looped_best(scores: Tensor, n: int) -> Tensor:
    return torch.tensor([start + int(scores[start:start + n].argmax()) for start in range(0, len(scores), n)])


def weighted_by_hand(scores: Tensor, kl_coef: float) -> Tensor:
    weights = torch.exp((scores - scores.max(1, keepdim=True).values) / kl_coef)
    return (weights * scores).sum(1) / weights.sum(1)


def shuffled(prompt_count: int, episodes: int, generator: torch.Generator) -> list[int]:
    """One weight for each prompt, and no prompt twice."""
    found: list[int] = torch.ones(prompt_count).multinomial(episodes, generator=generator).tolist()
    return found


@pytest.mark.parametrize(("check", "function"), [
    (checks.check_kl_per_ending, looped_kl),
    (checks.check_kl_per_ending, lambda logp, logp_ref, mask: torch.where(mask, logp - logp_ref, 0.0).sum(1)),
    (checks.check_best_of_n, looped_best),
    (checks.check_best_of_n,
     lambda scores, n: scores.view(-1, n).argmax(1) + n * torch.arange(len(scores) // n)),
    (checks.check_best_score, weighted_by_hand),
    (checks.check_best_score, lambda scores, kl_coef: ((scores / kl_coef).softmax(1) * scores).sum(1)),
    (checks.check_choose_batch, shuffled),
    (checks.check_choose_batch, lambda count, size, generator: torch.randperm(count, generator=generator)[:size]),
])
def test_right_answers_are_accepted(check: Function, function: Function) -> None:
    result: Result = check(function)
    assert result.points == 2 and "correct" in str(result)
    assert result.function is function


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: Exercise, mistake: Function) -> None:
    assert str(check(mistake)).startswith(f"{exercise.name}: {sentence(mistake)}. ")


@pytest.mark.parametrize("mistake", [one.function for one in CHOOSE_BATCH.mistakes],  # type: ignore[attr-defined]
                         ids=lambda one: one.__name__)
def test_mistakes_of_a_batch_are_called_by_name(mistake: Function) -> None:
    assert str(checks.check_choose_batch(mistake)).startswith(f"a batch of prompts: {sentence(mistake)}. ")


@pytest.mark.parametrize("exercise", CHECKS.values(), ids=lambda exercise: exercise.name)
def test_no_two_mistakes_look_alike(exercise: Exercise) -> None:
    exercise = replace(exercise, cases={**exercise.cases, **exercise.extremes})
    given = [answers(exercise, function) for function in (exercise.right, *exercise.mistakes)]
    assert not any(agree(exercise, one, other) for one, other in itertools.combinations(given, 2))


def test_no_two_mistakes_of_a_batch_look_alike() -> None:
    given = [answers_of(CHOOSE_BATCH, function) for function in (CHOOSE_BATCH.right, *CHOOSE_BATCH.mistakes)]
    assert not any(agreeing(one, other) for one, other in itertools.combinations(given, 2))


@pytest.mark.parametrize("check", [*CHECKS, checks.check_choose_batch])
def test_a_stub_is_not_attempted_yet(check: Function) -> None:
    def stub(*arguments: Any) -> None:
        ...
    assert str(check(stub)).endswith(": not attempted yet")
    assert "give the function itself" in str(check(3))


def test_a_batch_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    checks.check_choose_batch(shuffled)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("function", "words"), [
    (lambda count, episodes, generator: random.sample(range(count), episodes), "not repeatable"),
    (lambda count, episodes, generator: 7, "found 7, expected"),
    (lambda count, episodes, generator: torch.rand(episodes), "found [0."),
    (lambda count, episodes, generator: missing, "your code raised NameError"),  # type: ignore[name-defined] # noqa: F821
])
def test_other_answers_of_a_batch_are_described(function: Function, words: str) -> None:
    result: Result = checks.check_choose_batch(function)
    assert words in str(result) and result.points == 0
