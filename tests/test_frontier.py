"""The best policy by reweighting, against the enumerated optimum of the tiny world; its bias; the picture."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from rlhf_mini.errors import InputError
from rlhf_mini.teaching.frontier import LEAST, best_policy, frontier, score_over_kl
from rlhf_mini.teaching.tiny_world import TinyWorld, tiny_world

PRICES = [0.3, 0.5, 2.0]


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return tiny_world()


def drawn(world: TinyWorld, openings: int, each: int) -> Tensor:
    """Scores of endings that the reference writes, as if there were many openings."""
    picked = torch.multinomial(world.logp_ref.exp().expand(openings, -1), each, replacement=True,
                               generator=torch.Generator().manual_seed(0))
    return world.reward[picked]


@pytest.mark.parametrize("beta", PRICES)
def test_with_many_endings_it_is_the_enumerated_optimum(world: TinyWorld, beta: float) -> None:
    logp, objective = world.optimum(beta)
    kl = (logp.exp() * (logp - world.logp_ref)).sum()
    score = (logp.exp() * world.reward).sum()
    found = best_policy(drawn(world, 8, 40_000), beta)
    assert found.objective.mean() == pytest.approx(objective, abs=0.01)
    assert found.kl.mean() == pytest.approx(kl.item(), abs=0.02)
    assert found.score.mean() == pytest.approx(score.item(), abs=0.01)
    effective = 1 / (2 * logp - world.logp_ref).logsumexp(0).exp()  # the expected share, 1 / E_reference[(p / q)²]
    assert found.effective.mean() / 40_000 == pytest.approx(effective.item(), rel=0.05)


def test_two_endings_by_hand() -> None:
    found = best_policy(torch.tensor([[0.0, math.log(3)]]), 1.0)  # weights 1 and 3
    assert found.score.item() == pytest.approx(0.75 * math.log(3))
    assert found.objective.item() == pytest.approx(math.log(2))
    assert found.kl.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found.effective.item() == pytest.approx(1.6)


def test_fewer_endings_give_too_little_and_pooled_openings_too_much(world: TinyWorld) -> None:
    scores = drawn(world, 512, 64) + torch.linspace(-1, 1, 512)[:, None]  # openings differ in their mean, 0
    by_count = [best_policy(scores.reshape(-1, count), 0.3).objective.mean().item() for count in (8, 16, 32, 64)]
    truth = world.optimum(0.3)[1]
    assert by_count == sorted(by_count) and by_count[0] < truth - 0.1 and by_count[-1] < truth
    assert best_policy(scores.reshape(1, -1), 0.3).objective.item() > truth + 0.1


@pytest.mark.parametrize(("scores", "beta", "words"), [
    (torch.zeros(4), 1.0, "shape"), (torch.zeros(2, 0), 1.0, "shape"), (torch.zeros(2, 3), 0.0, "more than 0")])
def test_what_has_no_best_policy_is_refused(scores: Tensor, beta: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        best_policy(scores, beta)


def test_the_frontier_rises_and_stops_where_too_few_endings_count(world: TinyWorld) -> None:
    scores = drawn(world, 40, 64)
    kl, score = frontier(scores)
    assert kl == sorted(kl) and score == sorted(score) and kl[0] < 0.01
    assert kl[-1] < math.log(64 / LEAST) + 0.5


def test_the_picture_names_everything_on_it(world: TinyWorld) -> None:
    path = {"kl": [0.0, 0.1, 0.2, 0.3, 0.4, 1.0], "score": [0.0, 0.1, 0.2, 0.3, 0.4, 0.9]}
    ax = score_over_kl(drawn(world, 40, 64), 0.3, path, {"best of 4": (0.64, 0.9)})
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    assert list(lines) == ["best policies, by reweighting", "the best one at 0.3 a nat",
                           "the run at 0.3, means of 5 iterations", "best of 4"]
    assert lines["the run at 0.3, means of 5 iterations"].get_xdata() == pytest.approx([0.2, 1.0])
    assert "nats" in ax.get_xlabel() and "s.d." in ax.get_ylabel()
    plt.close("all")
