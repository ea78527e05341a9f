"""Advantages and losses by hand; their expected gradients where every ending can be written down; what they reach.

In `tiny_world` a policy is a table here: the logits of each token after each prefix. Its expected gradient is a sum
over all endings, or pairs of them, weighted by their probability. So what a method climbs is known without any noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.methods import (
    METHODS,
    Batch,
    Method,
    batch_advantages,
    clipped_loss,
    dpo_loss,
    grpo_advantages,
    preference_loss,
    rloo_advantages,
)
from rlhf_mini.ppo import start_ppo
from rlhf_mini.sampling import Rollout
from rlhf_mini.teaching.tiny_world import LENGTH, NEVER, PROMPT, TinyWorld, tiny_world, token_log_probabilities
from rlhf_mini.training import train_method

BETA = 0.5
WORLDS = pytest.mark.parametrize("eos_id", [NEVER, 3], ids=["four_tokens", "three_and_eos"])
ADVANTAGES = pytest.mark.parametrize(
    "advantages_of", [rloo_advantages, grpo_advantages, partial(grpo_advantages, std=False)],
    ids=["rloo", "grpo", "centred"])


def a_batch(logp: Tensor, logp_ref: Tensor, mask: Tensor, score: Tensor | None = None, group: Tensor | None = None,
            kl_coef: float = BETA) -> Batch:
    """Endings with these log-probabilities, whole: a loss is a mean over their tokens or endings."""
    rows, width = mask.shape
    rollout = Rollout(((0,),) * rows, torch.zeros(rows, width, dtype=torch.long), mask, logp,
                      torch.zeros(rows, width, 1), torch.zeros_like(logp), torch.ones(rows).bool())
    score = torch.zeros(rows, dtype=logp.dtype) if score is None else score
    group = torch.zeros(rows, dtype=torch.long) if group is None else group
    return Batch(rollout, score, logp_ref, group, kl_coef, 0.2, float(rows), float(mask.sum()))


def a_random_batch(seed: int, groups: int = 4, size: int = 3, width: int = 5) -> tuple[Tensor, Batch]:
    """Fresh log-probabilities and a batch, of groups that stand next to each other, in double precision."""
    generator, rows = torch.Generator().manual_seed(seed), groups * size
    logp, old, logp_ref = (-torch.rand(rows, width, generator=generator, dtype=torch.double) * 3 for _ in range(3))
    mask = torch.arange(width) < torch.randint(1, width + 1, (rows, 1), generator=generator)
    score = torch.randn(rows, generator=generator, dtype=torch.double)
    batch = a_batch(old * mask, logp_ref * mask, mask, score, torch.arange(groups).repeat_interleave(size))
    return logp * mask, batch


def gradient(loss: Callable[[Tensor], Tensor], logp: Tensor) -> Tensor:
    """The gradient of a loss of log-probabilities, with respect to them. Shapes: (B, T) -> (B, T)."""
    leaf = logp.clone().requires_grad_(True)
    return torch.autograd.grad(loss(leaf), leaf)[0]


def close(found: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=tolerance, rtol=0)


# Advantages -------------------------------------------------------------------------------------------------------

GROUP = torch.tensor([7, -2, 7, -2, 7])  # not sorted, not next to each other, numbered at will
SCORES = torch.tensor([1.0, 3.0, 2.0, 5.0, 6.0])  # of group 7: 1, 2, 6; of group -2: 3, 5


def test_advantages_by_hand() -> None:
    close(batch_advantages(SCORES), [-2.4, -0.4, -1.4, 1.6, 2.6])
    close(rloo_advantages(SCORES, GROUP), [1 - 4, 3 - 5, 2 - 3.5, 5 - 3, 6 - 1.5])
    close(grpo_advantages(SCORES, GROUP, std=False), [-2, -1, -1, 1, 3])
    wide, narrow = math.sqrt((4 + 1 + 9) / 2) + 1e-4, math.sqrt((1 + 1) / 1) + 1e-4  # unbiased: n - 1
    close(grpo_advantages(SCORES, GROUP), [-2 / wide, -1 / narrow, -1 / wide, 1 / narrow, 3 / wide])


def test_a_nearly_flat_group_is_not_blown_up() -> None:
    """The 1e-4 stands beside the deviation, not beside the variance."""
    scores = torch.tensor([0.0, 1e-5], dtype=torch.double)
    expected = 0.5e-5 / (math.sqrt(0.5) * 1e-5 + 1e-4)
    close(grpo_advantages(scores, torch.tensor([0, 0])), [-expected, expected], 1e-12)


@ADVANTAGES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", range(2, 8))
@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-20, 123456.789])
def test_equal_scores_get_exactly_zero(advantages_of: Any, dtype: torch.dtype, size: int, value: float) -> None:
    """Not nearly: a division by the deviation would make anything of what rounding leaves."""
    scores = torch.tensor([value] * size + [0.3, 0.7], dtype=dtype)
    group = torch.tensor([4] * size + [9, 9])
    for order in (torch.arange(size + 2), torch.randperm(size + 2, generator=torch.Generator().manual_seed(0))):
        found = advantages_of(scores[order], group[order])
        assert found.dtype == dtype
        assert found[group[order] == 4].eq(0).all() and found[group[order] == 9].ne(0).all()


@ADVANTAGES
@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_advantages_sum_to_zero_in_each_group_and_know_nothing_of_the_others(advantages_of: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(0, 4, (16,), generator=generator).repeat(2) * 31 - 50  # so each has two or more
    scores = torch.randn(32, generator=generator, dtype=torch.double)
    found = advantages_of(scores, group)
    for number in group.unique():
        rows = group == number
        assert abs(found[rows].sum().item()) < 1e-9
        close(advantages_of(scores[rows], group[rows]), found[rows], 1e-12)
        close(advantages_of(scores[rows] + 5, group[rows]), found[rows], 1e-9)  # only differences count


def test_whole_numbers_and_half_precision_are_taken() -> None:
    assert rloo_advantages(torch.tensor([1, 2]), torch.tensor([0, 0])).tolist() == [-1.0, 1.0]
    half = torch.tensor([0.1, 0.1, 0.1], dtype=torch.bfloat16)
    assert grpo_advantages(half, torch.tensor([0, 0, 0])).eq(0).all()


@ADVANTAGES
@pytest.mark.parametrize("scores, group, message", [
    ([1.0, 2.0, 3.0], [5, 5, 8], "group 8 has one ending: sample at least two for each prompt"),
    ([1.0, 2.0, 3.0], [5, 5], r"scores have shape \(3,\) but group has \(2,\)"),
    ([[1.0, 2.0]], [[5, 5]], r"scores have shape \(1, 2\)"),
    (1.0, 5, r"scores have shape \(\)"),
    ([1.0, math.nan], [5, 5], "one of the scores is nan: give finite numbers"),
    ([1.0, math.inf], [5, 5], "one of the scores is inf: give finite numbers"),
])
def test_what_has_no_advantage_is_named(advantages_of: Any, scores: Any, group: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as error:
        advantages_of(torch.tensor(scores), torch.tensor(group))
    assert "\n" not in str(error.value)


# Losses -----------------------------------------------------------------------------------------------------------


def test_the_reward_charges_what_each_ending_cost() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    batch = a_batch(torch.tensor([[-1.0, -2.0], [-3.0, 9.0]]), torch.tensor([[-1.5, -1.0], [-3.5, 0.0]]), mask,
                    torch.tensor([10.0, 20.0]))
    close(batch.reward, [10 - BETA * (0.5 - 1.0), 20 - BETA * 0.5])


def test_the_clipped_loss_by_hand() -> None:
    """Ratios 1.5 and 0.5 with clip 0.2; the second ending has one token."""
    mask = torch.tensor([[True, True], [True, False]])
    logp = torch.tensor([[1.5, 0.5], [1.5, 1.0]]).log()
    batch = a_batch(torch.zeros(2, 2), torch.zeros(2, 2), mask)
    advantages = torch.tensor([2.0, -1.0])
    close(clipped_loss(logp, batch, advantages), (-2 * 1.2 - 2 * 0.5 + 1.5) / 3)
    close(clipped_loss(logp, batch, advantages, by_ending=True), ((-2 * 1.2 - 2 * 0.5) / 2 + 1.5) / 2)
    k2 = [math.log(1.5) ** 2 / 2, math.log(0.5) ** 2 / 2]
    charged = clipped_loss(logp, batch, advantages, kl_kind="k2", by_ending=True)
    close(charged, ((-2 * 1.2 - 2 * 0.5) / 2 + 1.5) / 2 + BETA * (sum(k2) / 2 + k2[0]) / 2)


@pytest.mark.parametrize("by_ending", [False, True])
def test_at_ratio_one_its_gradient_is_the_policy_gradient(by_ending: bool) -> None:
    _, batch = a_random_batch(0)
    lengths, advantages = batch.rollout.lengths, torch.linspace(-2, 3, 12, dtype=torch.double)
    each = lengths * 12 if by_ending else torch.full_like(lengths, int(lengths.sum()))
    expected = -(advantages / each)[:, None] * batch.rollout.mask
    close(gradient(lambda logp: clipped_loss(logp, batch, advantages, by_ending=by_ending), batch.rollout.logp),
          expected, 1e-12)


@pytest.mark.parametrize("by_ending", [False, True])
@pytest.mark.parametrize("kl_kind", ["k1", "k2", "k3"])
def test_the_gradient_of_the_charge_by_hand(kl_kind: Any, by_ending: bool) -> None:
    """k1: beta. k2: beta times the log-ratio. k3: beta * (1 - reference / policy)."""
    logp, batch = a_random_batch(1)
    log_ratio, lengths = logp - batch.logp_ref, batch.rollout.lengths[:, None]
    slope = {"k1": torch.ones_like(logp), "k2": log_ratio, "k3": 1 - (-log_ratio).exp()}[kl_kind]
    expected = BETA * slope * batch.rollout.mask / (lengths * 12 if by_ending else lengths.sum())
    found = gradient(lambda x: clipped_loss(x, batch, torch.zeros(12), kl_kind, by_ending), logp)
    close(found, expected, 1e-12)


def test_dpo_loss_by_hand() -> None:
    """Margins 0.5 * (1 + 1) and 0.5 * (0 - 1)."""
    chosen, rejected, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0]), torch.tensor([-2.0, -2.0])
    log_sigmoid = [-math.log(1 + math.exp(-margin)) for margin in (1.0, -0.5)]
    loss = dpo_loss(chosen, rejected, reference, reference, beta=0.5)
    assert loss.ndim == 0 and loss.item() == pytest.approx(-sum(log_sigmoid) / 2, abs=1e-6)
    slopes = gradient(lambda x: dpo_loss(x, rejected, reference, reference, 0.5), chosen)
    close(slopes, [-0.5 / (1 + math.exp(margin)) / 2 for margin in (1.0, -0.5)])


def test_dpo_at_the_reference_is_ln_2_and_far_from_it_finite() -> None:
    chosen, rejected = torch.tensor([-5.0, -80.0]), torch.tensor([-9.0, -2.0])
    assert dpo_loss(chosen, rejected, chosen, rejected, 0.1).item() == pytest.approx(math.log(2), abs=1e-6)
    zeros = torch.zeros(2)
    assert dpo_loss(zeros - 1e4, zeros, zeros, zeros, 1.0).item() == pytest.approx(1e4)
    assert dpo_loss(zeros, zeros - 1e4, zeros, zeros, 1.0).item() == 0


@pytest.mark.parametrize("shapes", [[(2, 3)] * 4, [(2,), (2,), (2, 1), (2, 1)], [(2,), (1,), (2,), (2,)], [()] * 4])
def test_dpo_takes_one_sum_for_each_ending(shapes: list[tuple[int, ...]]) -> None:
    """Log-probabilities of single tokens would be averaged without a word."""
    with pytest.raises(InputError, match=r"^log-probabilities have other shapes than \(N,\)"):
        dpo_loss(*map(torch.zeros, shapes), beta=0.1)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_the_preference_loss_is_a_mean_over_pairs(hard: bool) -> None:
    logp, batch = a_random_batch(2)
    batch.score[1] = batch.score[0]  # a tie: half a win for each, soft or hard
    implicit = BETA * ((logp - batch.logp_ref) * batch.rollout.mask).sum(1)
    losses = []
    for i, j in combinations(range(12), 2):
        if i // 3 == j // 3:
            gap, margin = (batch.score[i] - batch.score[j]).item(), (implicit[i] - implicit[j]).item()
            wins = ((gap > 0) + (gap >= 0)) / 2 if hard else 1 / (1 + math.exp(-gap))
            losses.append(wins * math.log(1 + math.exp(-margin)) + (1 - wins) * math.log(1 + math.exp(margin)))
    assert len(losses) == 4 * 3
    assert preference_loss(logp, batch, batch.score, hard).item() == pytest.approx(sum(losses) / 12, abs=1e-12)


def test_hard_labels_of_groups_of_two_are_dpo() -> None:
    logp, batch = a_random_batch(3, groups=5, size=2)
    better, worse = batch.score.view(5, 2).argmax(1), batch.score.view(5, 2).argmin(1)
    chosen, rejected, chosen_ref, rejected_ref = (
        x.sum(1).view(5, 2).gather(1, side[:, None])[:, 0] for x in (logp, batch.logp_ref) for side in (better, worse))
    close(preference_loss(logp, batch, batch.score, hard=True),
          dpo_loss(chosen, rejected, chosen_ref, rejected_ref, BETA), 1e-12)


def test_no_pair_is_no_loss() -> None:
    """As for a process whose share of a minibatch holds no group."""
    logp, batch = a_random_batch(4)
    none = torch.zeros(0, dtype=torch.long)
    for loss in (preference_loss, clipped_loss, partial(clipped_loss, kl_kind="k3", by_ending=True)):
        leaf = logp[none].requires_grad_(True)
        value = loss(leaf, batch.select(none), batch.score[none])
        value.backward()
        assert value.item() == 0


LOSSES = [clipped_loss, partial(clipped_loss, by_ending=True), partial(clipped_loss, kl_kind="k2"),
          partial(clipped_loss, kl_kind="k3", by_ending=True), preference_loss, partial(preference_loss, hard=True)]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_losses_of_minibatches_sum_to_the_batch_s(loss: Any) -> None:
    """Their lengths differ: a denominator of each minibatch's own would weigh the tokens of short ones more."""
    logp, batch = a_random_batch(5)
    whole = loss(logp, batch, batch.score)
    for parts in ([range(6), range(6, 12)], [range(3, 6), [*range(3), *range(6, 12)]]):
        rows = [torch.tensor([*part]) for part in parts]
        close(sum(loss(logp[part], batch.select(part), batch.score[part]) for part in rows), whole, 1e-12)
        halves = replace(batch, endings=batch.endings / 2, tokens=batch.tokens / 2)  # what `train_method` gives
        close(sum(loss(logp[part], halves.select(part), batch.score[part]) for part in rows) / 2, whole, 1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([math.nan, math.inf, -1e9]))
def test_masked_slots_change_neither_loss_nor_gradient(loss: Any, seed: int, junk: float) -> None:
    logp, batch = a_random_batch(seed)
    mask = batch.rollout.mask
    logp[:1], mask[:1] = 0.0, False  # an empty ending, too
    dirty_logp, dirty_old, dirty_ref = (x.masked_fill(~mask, junk) for x in (logp, batch.rollout.logp, batch.logp_ref))
    dirty = replace(batch, rollout=replace(batch.rollout, logp=dirty_old), logp_ref=dirty_ref)
    assert torch.equal(loss(dirty_logp, dirty, batch.score), loss(logp, batch, batch.score))
    slopes = gradient(lambda x: loss(x, dirty, batch.score), dirty_logp)
    assert torch.equal(slopes, gradient(lambda x: loss(x, batch, batch.score), logp)) and slopes[~mask].eq(0).all()


def test_what_each_method_calls_an_advantage() -> None:
    _, batch = a_random_batch(6)
    reward, three = batch.reward, batch.score.view(4, 3)
    close(METHODS["REINFORCE"].advantages(batch), reward - reward.mean(), 1e-12)
    others = (reward.view(4, 3).sum(1, keepdim=True) - reward.view(4, 3)) / 2
    close(METHODS["RLOO"].advantages(batch), (reward.view(4, 3) - others).flatten(), 1e-12)
    centred = three - three.mean(1, keepdim=True)
    close(METHODS["GRPO"].advantages(batch), (centred / (three.std(1, keepdim=True) + 1e-4)).flatten(), 1e-12)
    assert torch.equal(METHODS["online DPO"].advantages(batch), batch.score)


# Expected gradients -----------------------------------------------------------------------------------------------


def states(world: TinyWorld) -> Tensor:
    """Which row of a table each token of each ending is drawn from. Shapes: -> (N, T)."""
    first, second = world.tokens[:, 0], world.tokens[:, 1]
    return torch.stack([torch.zeros_like(first), 1 + first, 5 + 4 * first + second], 1)


def token_logp(table: Tensor, world: TinyWorld) -> Tensor:
    """Log-probabilities of the endings' tokens by a table of logits. Shapes: (21, 4) -> (N, T), 0 where masked."""
    return table.log_softmax(-1)[states(world), world.tokens] * world.mask


def table_of(logp: Tensor, world: TinyWorld) -> Tensor:
    """The table of a policy that gives the endings these log-probabilities. Shapes: (N,) -> (21, 4)."""
    passing = torch.full((21, 4), 1e-300, dtype=torch.double)
    chance = logp.exp()[:, None].expand(world.mask.shape) * world.mask
    return passing.index_put((states(world), world.tokens), chance, accumulate=True).log()


def a_policy(world: TinyWorld) -> Tensor:
    """A table at some distance from the reference's."""
    noise = torch.randn(21, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return table_of(world.logp_ref, world) + noise


def objective(table: Tensor, world: TinyWorld) -> Tensor:
    """J, with its gradient."""
    logp = token_logp(table, world).sum(1)
    return (logp.exp() * (world.reward - BETA * (logp - world.logp_ref))).sum()


def divergence(table: Tensor, world: TinyWorld) -> Tensor:
    """KL(policy || reference) in nats per ending, with its gradient."""
    logp = token_logp(table, world).sum(1)
    return (logp.exp() * (logp - world.logp_ref)).sum()


def slope(value: Callable[[Tensor], Tensor], table: Tensor) -> Tensor:
    """The gradient of something of a table. Shapes: -> (21, 4)."""
    leaf = table.clone().requires_grad_(True)
    return torch.autograd.grad(value(leaf), leaf)[0]


def expected_gradient(table: Tensor, world: TinyWorld, method: Method, size: int = 1) -> Tensor:
    """Of a loss that sums over the tokens of an ending: the mean over groups of `size` endings of the policy's.

    Every group of endings is listed, and what it adds to the gradient is weighted by its probability.
    """
    leaf = table.clone().requires_grad_(True)
    logp = token_logp(leaf, world)
    pairs = torch.combinations(torch.arange(len(logp)))  # two equal endings add nothing
    rows = torch.arange(len(logp))[:, None] if size == 1 else pairs
    chance = logp.detach().sum(1).exp()[rows].prod(1) * size  # each pair comes in two orders
    flat = rows.flatten()
    logp_ref = token_logp(table_of(world.logp_ref, world), world)
    batch = a_batch(logp.detach()[flat], logp_ref[flat], world.mask[flat], world.reward[flat],
                    torch.arange(len(rows)).repeat_interleave(size))
    batch = replace(batch, endings=float(size), tokens=float(size))
    advantages = method.advantages(batch)
    each = gradient(lambda x: method.loss(x, batch, advantages), logp.detach()[flat])  # (B, T)
    return torch.autograd.grad(logp[flat], leaf, each * chance.repeat_interleave(size)[:, None])[0]


def nothing(batch: Batch) -> Tensor:
    """Advantages of 0: what is left of the loss is the charge for the KL."""
    return torch.zeros_like(batch.score)


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


@WORLDS
def test_a_table_can_be_any_policy(eos_id: int) -> None:
    world = tiny_world(eos_id)
    for logp in (world.logp_ref, world.optimum(BETA)[0]):
        close(token_logp(table_of(logp, world), world).sum(1), logp, 1e-6)
    own = token_log_probabilities(world.reference, world.tokens, world.mask)
    close(token_logp(table_of(world.logp_ref, world), world), own, 1e-6)


@WORLDS
def test_with_the_kl_in_the_reward_the_expected_gradient_is_that_of_the_objective(eos_id: int) -> None:
    world = tiny_world(eos_id)
    table = a_policy(world)
    exact = -slope(lambda x: objective(x, world), table)
    assert exact.abs().max() > 0.01
    close(expected_gradient(table, world, Method(lambda batch: batch.reward)), exact)
    close(expected_gradient(table, world, Method(lambda batch: batch.reward - 3.0)), exact)  # whatever the baseline
    close(expected_gradient(table, world, METHODS["RLOO"], size=2), exact)
    centred = Method(lambda batch: grpo_advantages(batch.reward, batch.group, std=False))
    close(expected_gradient(table, world, centred, size=2), exact / 2)  # the mean holds the ending itself: 1 - 1/2


def test_division_by_the_deviation_turns_the_gradient_but_does_not_move_the_optimum() -> None:
    """At the optimum all endings are worth the same when the KL is in the reward, whatever one divides by."""
    world = tiny_world()
    divided = Method(lambda batch: grpo_advantages(batch.reward, batch.group))
    exact = -slope(lambda x: objective(x, world), a_policy(world))
    assert 0.5 < cosine(expected_gradient(a_policy(world), world, divided, size=2), exact) < 0.99
    best = table_of(world.optimum(BETA)[0], world)
    assert expected_gradient(best, world, divided, size=2).abs().max() < 1e-6
    assert expected_gradient(best, world, METHODS["RLOO"], size=2).abs().max() < 1e-6
    assert expected_gradient(best, world, METHODS["GRPO"], size=2).abs().max() > 0.01


@pytest.mark.parametrize("eos_id, parallel", [(NEVER, True), (3, False)], ids=["four_tokens", "three_and_eos"])
def test_division_by_the_length_turns_the_gradient_where_lengths_differ(eos_id: int, parallel: bool) -> None:
    world = tiny_world(eos_id)
    table = a_policy(world)
    by_ending = Method(lambda batch: batch.reward, partial(clipped_loss, by_ending=True))
    found = cosine(expected_gradient(table, world, by_ending), -slope(lambda x: objective(x, world), table))
    assert (found > 1 - 1e-9) == parallel and found > 0.5


@WORLDS
def test_k1_in_the_loss_pulls_nowhere(eos_id: int) -> None:
    """The expected gradient of a log-probability is 0: so k1 as a loss does not hold the policy."""
    world = tiny_world(eos_id)
    charge = Method(nothing, partial(clipped_loss, kl_kind="k1"))
    assert expected_gradient(a_policy(world), world, charge).abs().max() < 1e-12
    assert slope(lambda x: divergence(x, world), a_policy(world)).abs().max() > 0.01


@WORLDS
@pytest.mark.parametrize("kl_kind", ["k2", "k3"])
def test_token_by_token_k2_and_k3_leave_out_what_follows_a_token(eos_id: int, kl_kind: Any) -> None:
    """Each charges the KL at a state (k3: the one the other way round) as if a token did not choose the next state."""
    world = tiny_world(eos_id)
    table, table_ref = a_policy(world), table_of(world.logp_ref, world)
    found = expected_gradient(table, world, Method(nothing, partial(clipped_loss, kl_kind=kl_kind))) / BETA
    exact = slope(lambda x: divergence(x, world), table)
    assert (found - exact).norm() > 0.1 * exact.norm()
    visits = table_of(token_logp(table, world).sum(1), world).exp().sum(1)  # how often an ending passes each state

    def at_states(x: Tensor) -> Tensor:
        here, there = x.log_softmax(-1), table_ref.log_softmax(-1)
        return (visits * (kl.divergence(here, there) if kl_kind == "k2" else kl.divergence(there, here))).sum()

    close(found, slope(at_states, table))


@WORLDS
def test_k3_times_the_ratio_has_the_expected_gradient_of_k2(eos_id: int) -> None:
    """What TRL calls its unbiased KL: unbiased at each state, and what follows a token is left out all the same."""
    def times_ratio(logp: Tensor, batch: Batch, _: Tensor) -> Tensor:
        ratio = (logp - batch.rollout.logp).exp()
        return kl.masked_sum(ratio * kl.estimate(logp, batch.logp_ref, "k3"), batch.rollout.mask).sum()

    world = tiny_world(eos_id)
    k2 = expected_gradient(a_policy(world), world, Method(nothing, partial(clipped_loss, kl_kind="k2"))) / BETA
    close(expected_gradient(a_policy(world), world, Method(nothing, times_ratio)), k2)


@WORLDS
def test_over_whole_endings_k2_is_exact_and_k3_is_the_kl_the_other_way_round(eos_id: int) -> None:
    world = tiny_world(eos_id)
    table = a_policy(world)
    chance = token_logp(table, world).sum(1).exp()

    def charge(x: Tensor, kind: Any) -> Tensor:
        return (chance * kl.estimate(token_logp(x, world).sum(1), world.logp_ref, kind)).sum()

    close(slope(lambda x: charge(x, "k1"), table), torch.zeros(21, 4))
    close(slope(lambda x: charge(x, "k2"), table), slope(lambda x: divergence(x, world), table))
    other_way = slope(lambda x: -(world.logp_ref.exp() * token_logp(x, world).sum(1)).sum(), table)
    close(slope(lambda x: charge(x, "k3"), table), other_way)
    assert cosine(other_way, slope(lambda x: divergence(x, world), table)) < 0.99


def test_soft_labels_have_the_optimum_where_it_is_and_hard_ones_have_not() -> None:
    world = tiny_world()
    best = table_of(world.optimum(BETA)[0], world)
    assert expected_gradient(best, world, METHODS["online DPO"], size=2).abs().max() < 1e-6
    hard = Method(lambda batch: batch.score, partial(preference_loss, hard=True))
    assert expected_gradient(best, world, hard, size=2).abs().max() > 0.01


@pytest.mark.parametrize("kl_kind, low, high", [(None, 0.999, 1), ("k1", -9, 0.5), ("k2", 0.91, 0.95),
                                                ("k3", 0.88, 0.92)])
def test_where_the_expected_gradient_leads(kl_kind: Any, low: float, high: float) -> None:
    """The KL in the reward leads to the optimum; token by token in the loss, it stops short of it (k1: far from it)."""
    world = tiny_world()
    in_loss = Method(lambda batch: batch.score, partial(clipped_loss, kl_kind=kl_kind))
    method = Method(lambda batch: batch.reward) if kl_kind is None else in_loss
    table = table_of(world.logp_ref, world)
    optimizer, best = torch.optim.Adam([table], lr=0.1), world.optimum(BETA)[1]
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        table.grad = expected_gradient(table, world, method)
        optimizer.step()
        assert objective(table, world).item() <= best + 1e-9
    assert low <= objective(table, world).item() / best <= high


# Training ---------------------------------------------------------------------------------------------------------

KL_IN_REWARD = Method(lambda batch: grpo_advantages(batch.reward, batch.group), partial(clipped_loss, by_ending=True))
TRAINING = PPOConfig(iterations=30, episodes=512, max_new_tokens=LENGTH, epochs=4, learning_rate=3e-3, kl_coef=BETA,
                     temperature=1.0)


def shares(method: Method, eos_id: int, config: PPOConfig, group_size: int) -> list[float]:
    """J / J* after every iteration."""
    world = tiny_world(eos_id)
    state, best = start_ppo(world.reference, config), world.optimum(BETA)[1]
    training = train_method(method, state, world.reference, world.score, [PROMPT], config, eos_id, 0, group_size)
    return [world.objective(world.log_probabilities(state.policy.language_model), BETA) / best for _ in training]


@pytest.mark.parametrize("eos_id, method", [
    (NEVER, METHODS["REINFORCE"]), (NEVER, METHODS["RLOO"]), (NEVER, METHODS["online DPO"]), (NEVER, KL_IN_REWARD),
    (3, METHODS["REINFORCE"]), (3, METHODS["RLOO"]), (3, METHODS["online DPO"])],
    ids=["REINFORCE", "RLOO", "online_DPO", "GRPO_kl_in_reward", "REINFORCE_eos", "RLOO_eos", "online_DPO_eos"])
def test_what_has_the_true_optimum_approaches_it_and_never_passes_it(eos_id: int, method: Method) -> None:
    """Three seeds gave .952 to .979 and, in the smaller world with EOS, more."""
    reached = shares(method, eos_id, replace(TRAINING, iterations=30 if eos_id == NEVER else 20), group_size=16)
    assert max(reached) <= 1 + 1e-6
    assert reached[-1] >= 0.95


def test_grpo_as_published_stops_short_of_it() -> None:
    reached = shares(METHODS["GRPO"], NEVER, replace(TRAINING, episodes=256, epochs=2), group_size=4)
    assert 0.5 < max(reached) < 0.9
