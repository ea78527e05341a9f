"""Expected gradients where all endings can be listed: which methods have the right optimum, and which have not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_mini.errors import InputError
from rlhf_mini.plots.backend import plt
from rlhf_mini.teaching import method_plots
from rlhf_mini.teaching.exact_gradients import (
    Change,
    chosen,
    come_to_rest,
    expected_loss,
    first_of_each_beginning,
    token_table,
)
from rlhf_mini.teaching.tiny_world import NEVER, TinyWorld, tiny_world

BETA = 0.5


def share(world: TinyWorld, change: Change, beta: float = BETA) -> float:
    return world.objective(come_to_rest(world, beta, change), beta) / world.optimum(beta)[1]


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return tiny_world()


@pytest.mark.parametrize("eos_id", [NEVER, 3])
def test_the_table_is_the_reference(eos_id: int) -> None:
    world = tiny_world(eos_id)
    logp = chosen(token_table(world), world, first_of_each_beginning(world))
    assert torch.allclose(logp.sum(1), world.logp_ref, atol=1e-5)
    assert (logp[~world.mask] == 0).all()
    assert logp.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_a_changed_beginning_changes_every_ending_that_has_it(world: TinyWorld) -> None:
    """Equal beginnings share their logits, so the policy stays one distribution."""
    table = token_table(world)
    table[0, 2] += torch.tensor([3.0, 0, 0, 0])
    logp = chosen(table, world, first_of_each_beginning(world)).sum(1)
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-6)
    moved = (logp - world.logp_ref).abs() > 1e-4
    assert moved.sum() == 4 and len(world.tokens[moved, :2].unique(dim=0)) == 1


def test_the_gradient_is_that_of_the_objective(world: TinyWorld) -> None:
    """With the KL in the reward, the expected loss and -J have one gradient, at any policy."""
    start, beginnings = token_table(world), first_of_each_beginning(world)
    logp_ref = chosen(start, world, beginnings)
    table = (start + torch.randn(start.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    logp = chosen(table, world, beginnings)
    ours = torch.autograd.grad(expected_loss(logp, logp_ref, world, BETA, Change()), table, retain_graph=True)[0]
    endings = logp.sum(1)
    objective = (endings.exp() * (world.reward - BETA * (endings - logp_ref.sum(1)))).sum()
    assert torch.allclose(ours, -torch.autograd.grad(objective, table)[0], atol=1e-9)


def test_in_the_reward_the_kl_is_charged_rightly_whatever_the_advantages_are_divided_by(world: TinyWorld) -> None:
    assert share(world, Change()) == pytest.approx(1, abs=1e-4)
    assert share(world, Change(std=True)) == pytest.approx(1, abs=1e-4)
    assert share(tiny_world(3), Change(by_length=True)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("change", "reached"), [
    (Change(kl_in_loss="k3"), 0.900), (Change(std=True, kl_in_loss="k3"), 0.897), (Change(kl_in_loss="k2"), 0.9345),
    (Change(kl_in_loss="k2", whole_endings=True), 1.0), (Change(kl_in_loss="k1"), 0.40),
])
def test_in_the_loss_it_is_not(change: Change, reached: float, world: TinyWorld) -> None:
    assert share(world, change) == pytest.approx(reached, abs=0.005)


def test_k3_of_whole_endings_minimises_the_other_divergence(world: TinyWorld) -> None:
    """Its optimum is policy = beta * reference / (c - reward), where c makes it sum to 1."""
    logp = come_to_rest(world, BETA, Change(kl_in_loss="k3", whole_endings=True))
    chance, reference = logp.exp(), world.logp_ref.exp()
    constant = world.reward + BETA * reference / chance
    assert constant.std() < 0.01 * constant.mean()
    assert world.objective(logp, BETA) / world.optimum(BETA)[1] == pytest.approx(0.61, abs=0.005)


def test_without_a_price_that_matters_the_mistakes_hide(world: TinyWorld) -> None:
    assert share(world, Change(kl_in_loss="k1"), beta=0.1) > 0.99


def test_plots_draw_what_they_are_given() -> None:
    figures = {"kl": 2.0, "gold_mean": 1.0, "proxy_mean": 1.2, "objective": 0.9}
    history = {"score": [0.8, 0.9], "flat": [0.6, 0.7], "chosen": [0.1] * 20, "rejected": [-0.5] * 20}
    seed = {"best_of_n": [{"n": n, "kl": 0.2 * n, "gold": 0.1 * n, "proxy": 0.2 * n} for n in (1, 2)],
            "RLOO": {"0.15": figures, "0.05": {**figures, "kl": 4.0, "gold_mean": 2.0}},
            "coherence": {size: {"history": history} for size in ("4", "16")}}
    ax = method_plots.frontier([seed, seed], ["RLOO"], "gold", "Gold over KL")
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["best of n (KL is a bound)", "RLOO"]
    assert method_plots.at_kl(seed, "RLOO", 3.0, "gold_mean") == pytest.approx(1.5)
    assert method_plots.at_kl(seed, "RLOO", 1.8, "gold_mean") == pytest.approx(0.9)
    with pytest.raises(InputError, match=r"RLOO was recorded from 2\.00 to 4\.00 nats"):
        method_plots.at_kl(seed, "RLOO", 1.0, "gold_mean")
    ax = method_plots.learning_curves({"PPO": [[0.1, 0.5], [0.2, 0.6]]}, 128)
    assert np.array_equal(ax.lines[0].get_xdata(), [128, 256])
    assert np.allclose(ax.lines[0].get_ydata(), [0.15, 0.55])
    assert len(method_plots.program_reward([seed, seed])) == 2
    drawn = method_plots.gains(history)
    assert {text.get_text() for text in drawn.texts} == {"chosen", "rejected"}
    plt.close("all")
