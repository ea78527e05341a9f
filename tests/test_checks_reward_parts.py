"""The checks of notebook 04: right answers in two styles pass, and each usual mistake is called by name."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_mini import checks, reward, tales
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise
from rlhf_mini.checks.head_swap import SIZES, SWAP_MISTAKES, swap_facts, swapped
from rlhf_mini.checks.reward_parts import CEILING, SCORES, best_accuracy, scores_at_the_end
from rlhf_mini.metrics import reward_model_metrics

Function = Callable[..., Any]
CHECKS: list[tuple[Function, Exercise]] = [(checks.check_scores, SCORES), (checks.check_ceiling, CEILING)]
MISTAKES = [pytest.param(check, exercise, mistake, id=mistake.__name__)
            for check, exercise in CHECKS for mistake in exercise.mistakes]


def looped_scores(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([(row[int(length) - 1] * weight).sum() for row, length in zip(hidden, lengths, strict=True)])


def gathered_scores(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return (hidden @ weight).gather(1, (lengths - 1)[:, None]).squeeze(1)


def looped_ceiling(probabilities: Tensor) -> float:
    return sum(max(p, 1 - p) for p in probabilities.tolist()) / len(probabilities)


def folded_ceiling(probabilities: Tensor) -> Tensor:
    return 0.5 + (probabilities - 0.5).abs().mean()


@pytest.mark.parametrize(("check", "function"), [
    (checks.check_scores, scores_at_the_end), (checks.check_scores, looped_scores),
    (checks.check_scores, gathered_scores), (checks.check_ceiling, best_accuracy),
    (checks.check_ceiling, looped_ceiling), (checks.check_ceiling, folded_ceiling),
])
def test_right_answers_are_accepted(check: Function, function: Function) -> None:
    result = check(function)
    assert result.points == 2 and "correct" in str(result)


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: Exercise, mistake: Function) -> None:
    result = check(mistake)
    said = str(result)
    assert result.points == 0 and said.startswith(f"{exercise.name}: {sentence(mistake)}. ")
    assert ("found" in said and "expected" in said) or "Slot t = " in said


@pytest.mark.parametrize("exercise", [exercise for _, exercise in CHECKS], ids=lambda exercise: exercise.name)
def test_no_two_mistakes_look_alike(exercise: Exercise) -> None:
    given = {function.__name__: answers(exercise, function) for function in (exercise.right, *exercise.mistakes)}
    assert len(given) == len(exercise.mistakes) + 1
    assert [pair for pair in itertools.combinations(given, 2) if agree(exercise, *(given[x] for x in pair))] == []


def stub(*args: Any) -> Any:
    """Say what to return."""
    ...


def unwritten(*args: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("check", [checks.check_scores, checks.check_ceiling, checks.check_swap_head])
@pytest.mark.parametrize("function", [stub, unwritten])
def test_a_stub_is_not_attempted_yet(check: Function, function: Function) -> None:
    result = check(function)
    assert result.points == 0 and str(result).endswith(": not attempted yet")


def test_a_score_that_leans_on_padding_is_found() -> None:
    said = str(checks.check_scores(lambda hidden, weight, lengths: (hidden @ weight).amax(1)))
    assert "the lengths are ignored. Slot t = " in said and "is padding, yet changing hidden there" in said


def test_scores_without_a_gradient_are_found() -> None:
    result = checks.check_scores(lambda hidden, weight, lengths: torch.tensor(
        looped_scores(hidden, weight, lengths).tolist()))
    assert result.points == 1 and "the gradient with respect to hidden is lost" in str(result)


def test_the_right_score_is_the_packages() -> None:
    """`score_tokens` on the rows of a batch, with a trunk of embeddings only."""
    embeddings, head = nn.Embedding(5, 4), nn.Linear(4, 1, bias=False)

    def trunk(inputs_embeds: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=inputs_embeds)
    model: Any = SimpleNamespace(device="cpu", base_model=trunk, get_input_embeddings=lambda: embeddings, score=head)
    rows, lengths = [[1, 2, 3], [4, 2]], torch.tensor([3, 2])
    hidden = embeddings(torch.tensor([[1, 2, 3], [4, 2, 0]]))
    assert torch.allclose(scores_at_the_end(hidden, head.weight[0], lengths), reward.score_tokens(model, rows))


def test_the_right_ceiling_is_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, chances = [("p", "a", "b"), ("p", "a", "c"), ("p", "b", "c")], iter([0.9, 0.2, 0.6])
    monkeypatch.setattr(tales, "preference_probability", lambda *pair: next(chances))
    monkeypatch.setattr("rlhf_mini.metrics.pair_accuracy", lambda *args: (0.5, torch.zeros(3)))
    found = reward_model_metrics(nn.Identity(), None, pairs, scale=1.0, panel=True)["accuracy_ceiling"]
    assert found == pytest.approx(best_accuracy(torch.tensor([0.9, 0.2, 0.6])))


# --- the head ---------------------------------------------------------------------------------------------------


class Scorer(nn.Module):
    """The same as a module of one's own."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.score = trunk, nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.score(self.trunk(tokens))
        return scores


def of_ones_own(model: Any) -> nn.Module:
    return Scorer(model.trunk, model.lm_head.weight.shape[1])


def copied(model: Any) -> nn.Module:
    return swapped(copy.deepcopy(model))


@pytest.mark.parametrize("function", [swapped, of_ones_own, copied])
def test_right_swaps_are_accepted(function: Function) -> None:
    result = checks.check_swap_head(function)
    assert result.points == 2 and result.function is function
    assert str(result) == "head swap: correct. It is right for language models of 2 sizes."


@pytest.mark.parametrize("mistake", SWAP_MISTAKES, ids=lambda mistake: mistake.__name__)
def test_usual_mistakes_of_a_swap_are_called_by_name(mistake: Function) -> None:
    said = str(checks.check_swap_head(mistake))
    assert said.startswith(f"head swap: {sentence(mistake)}. ") and "found" in said and "expected" in said


def test_no_two_mistakes_of_a_swap_look_alike() -> None:
    facts = [[swap_facts(function, *sizes) for sizes in SIZES] for function in (swapped, *SWAP_MISTAKES)]
    assert all(a != b for a, b in itertools.combinations(facts, 2))


def test_the_language_model_that_is_changed_in_place_is_noticed_in_another_style() -> None:
    def in_place(model: Any) -> Any:
        model.lm_head = nn.Linear(model.lm_head.in_features, 1, bias=False)
        return model
    assert "has lost its LM head" in str(checks.check_swap_head(in_place))


@pytest.mark.parametrize(("function", "said"), [
    (lambda model: model.trunk(torch.zeros(1, 1).long()), "your function returns a tensor, expected is a module"),
    (lambda model: model.trunc, "raised AttributeError"),
    (7, "this is an int: give the function itself"),
    (lambda model: model.trunk, "not right yet, nor one of the usual mistakes. The shape of the result"),
])
def test_what_is_no_swap_is_told_so(function: Any, said: str) -> None:
    assert said in str(checks.check_swap_head(function))
