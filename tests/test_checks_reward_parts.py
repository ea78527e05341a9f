"""The exercises of notebook 04: the right answers are the package's, and what is no score and no swap."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from right_answers import looped_scores
from torch import Tensor, nn

from rlhf_mini import checks, reward, tales
from rlhf_mini.checks.reward_parts import best_accuracy, scores_at_the_end
from rlhf_mini.metrics import reward_model_metrics


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
