"""Four ways to treat ties: by hand, by enumeration, and what only the sum over orders has."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from rlhf_mini.errors import InputError
from rlhf_mini.reward import plackett_luce_loss
from rlhf_mini.teaching.ties import tie_likelihoods

WAYS = ("ours", "sum over orders", "Breslow", "Efron")
SCORES = torch.tensor([0.3, -1.2, 0.9, 0.0], dtype=torch.float64)


def strict(scores: Tensor, order: tuple[int, ...]) -> float:
    return math.exp(-plackett_luce_loss(scores, [[i] for i in order]).item())


@pytest.mark.parametrize(("way", "likelihood", "together"), [
    ("ours", 1 / 4, 3 / 4), ("sum over orders", 1 / 3, 1), ("Breslow", 1 / 9, 1 / 3), ("Efron", 1 / 6, 1 / 2)])
def test_two_tied_on_top_of_three_equals(way: str, likelihood: float, together: float) -> None:
    equal = torch.zeros(3, dtype=torch.float64)
    assert tie_likelihoods(equal, [[0, 1], [2]])[way].item() == pytest.approx(likelihood)
    found = [tie_likelihoods(equal, [[i for i in range(3) if i != last], [last]])[way] for last in range(3)]
    assert sum(found).item() == pytest.approx(together)  # type: ignore[union-attr]


@pytest.mark.parametrize("ranking", [[[0, 1], [2, 3]], [[2], [0, 1, 3]], [[3, 1, 0], [2]], [[0], [1, 2], [3]]])
def test_against_an_enumeration_of_the_orders(ranking: list[list[int]]) -> None:
    found = {way: likelihood.item() for way, likelihood in tie_likelihoods(SCORES, ranking).items()}
    orders = [sum(of_groups, ()) for of_groups in product(*(permutations(group) for group in ranking))]
    assert found["sum over orders"] == pytest.approx(sum(strict(SCORES, order) for order in orders))
    assert found["ours"] == pytest.approx(math.exp(-plackett_luce_loss(SCORES, ranking).item()))
    weights, breslow, efron = SCORES.exp().tolist(), 1.0, 1.0
    for depth, group in enumerate(ranking):
        left, tied = sum(weights[i] for rest in ranking[depth:] for i in rest), sum(weights[i] for i in group)
        for number, i in enumerate(group):
            breslow *= weights[i] / left
            efron *= weights[i] / (left - number / len(group) * tied)
    assert (found["Breslow"], found["Efron"]) == pytest.approx((breslow, efron))


def test_without_ties_all_are_the_probability_of_the_order() -> None:
    for order in permutations(range(4)):
        found = tie_likelihoods(SCORES, [[i] for i in order])
        assert tuple(found) == WAYS
        assert [likelihood.item() for likelihood in found.values()] == pytest.approx([strict(SCORES, order)] * 4)


def test_only_the_sum_over_orders_adds_up_to_one() -> None:
    """Over all rankings with the same sizes of tie groups, at any scores: the others are no probabilities."""
    rankings = [[list(order[:2]), list(order[2:])] for order in permutations(range(4))
                if order[0] < order[1] and order[2] < order[3]]
    together = {way: sum(tie_likelihoods(SCORES, ranking)[way].item() for ranking in rankings) for way in WAYS}
    assert together["sum over orders"] == pytest.approx(1)
    assert all(total < 0.95 for way, total in together.items() if way != "sum over orders")


def test_a_gradient_flows_and_a_wrong_ranking_is_refused() -> None:
    pulls = {}
    for way in WAYS:
        scores = torch.zeros(3, requires_grad=True)
        (-tie_likelihoods(scores, [[0, 1], [2]])[way].log()).backward()
        assert scores.grad is not None
        pulls[way] = scores.grad[2].item()
    assert list(pulls.values()) == pytest.approx([1, 5 / 6, 2 / 3, 5 / 6])
    with pytest.raises(InputError):
        tie_likelihoods(torch.zeros(3), [[0, 1]])
