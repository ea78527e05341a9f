"""The exercises of notebook 01: right answers in several styles pass, and usual mistakes are called by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.decoding import TEMPERATURE, TOP_K
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise
from rlhf_mini.checks.mean_loss import MEAN_NLL

Function = Callable[..., Any]

CHECKS: dict[str, tuple[Function, Exercise]] = {
    "temperature": (checks.check_temperature, TEMPERATURE), "top_k": (checks.check_top_k, TOP_K),
    "mean_nll": (checks.check_mean_nll, MEAN_NLL),
}
MISTAKES = [pytest.param(check, exercise, mistake, id=f"{name}-{mistake.__name__}")
            for name, (check, exercise) in CHECKS.items() for mistake in exercise.mistakes]


def sorted_top_k(logits: Tensor, k: int) -> Tensor:
    least = logits.sort(-1, descending=True).values[..., k - 1:k]
    return torch.where(logits >= least, logits, torch.tensor(float("-inf")))


def looped_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    return torch.stack([-logp[b, t - 1, tokens[b, t]] for b in range(len(tokens)) for t in range(1, tokens.shape[1])
                        if mask[b, t]]).mean()


def multiplied_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    costs = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return (costs * mask[:, 1:]).sum() / mask[:, 1:].sum()


def shifted_softmax(logits: Tensor, temperature: float) -> Tensor:
    weights = ((logits - logits.max(-1, keepdim=True).values) / temperature).exp()
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize(("name", "function"), [
    ("temperature", lambda logits, temperature: torch.softmax(logits / temperature, dim=-1)),
    ("temperature", shifted_softmax),
    ("top_k", lambda logits, k: logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)),
    ("top_k", sorted_top_k), ("mean_nll", looped_nll), ("mean_nll", multiplied_nll),
])
def test_right_answers_are_accepted(name: str, function: Function) -> None:
    result = CHECKS[name][0](function)
    assert result.points == 2 and "correct" in str(result), result


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: Exercise, mistake: Function) -> None:
    result = check(mistake)
    assert result.points == 0
    assert str(result).startswith(f"{exercise.name}: {sentence(mistake)}. "), result


@pytest.mark.parametrize("name", CHECKS)
def test_no_two_mistakes_look_alike(name: str) -> None:
    exercise = CHECKS[name][1]
    given = {function.__name__: answers(exercise, function) for function in (exercise.right, *exercise.mistakes)}
    assert len(given) == len(exercise.mistakes) + 1 >= 5
    assert [pair for pair in itertools.combinations(given, 2) if agree(exercise, *(given[x] for x in pair))] == []


@pytest.mark.parametrize("name", CHECKS)
def test_a_stub_is_not_attempted_yet(name: str) -> None:
    def stub(*args: Any) -> Any:
        """What it does."""
        ...
    assert str(CHECKS[name][0](stub)) == f"{CHECKS[name][1].name}: not attempted yet"


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
