"""Every formula by hand, every mask a property, and small policies that must learn."""

import copy
import dataclasses
import json
import math
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf_mini import ppo
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import use_bf16
from rlhf_mini.language_model import frozen_copy
from rlhf_mini.ppo import (
    PolicyWithValue,
    PPOIteration,
    PPOState,
    adapt_kl_coef,
    anneal,
    choose_prompts,
    compare_to_reference,
    explained_variance,
    gae,
    policy_loss,
    ppo_iteration,
    shaped_rewards,
    start_ppo,
    step,
    train_ppo,
    update,
    value_loss,
)
from rlhf_mini.pretrain import new_language_model
from rlhf_mini.run.ppo_state import FILE, load_state, save_state
from rlhf_mini.sampling import Rollout, sample

EOS, PAD, NAN = 0, 1, float("nan")
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 5], [7, 8], [14, 15, 16], [6], [3, 4]]
SMALL = PPOConfig(iterations=4, episodes=16, max_new_tokens=8, learning_rate=3e-3)


def make_model(seed: int = 0) -> Any:
    return new_language_model(20, EOS, PAD, n_layer=1, n_head=2, n_embd=16, n_positions=48, seed=seed)


def train(state: PPOState, reference: Any, score: Any, config: PPOConfig) -> list[PPOIteration]:
    return list(train_ppo(state, reference, score, PROMPTS, config, EOS, PAD))


def roll(policy: Any, config: PPOConfig = SMALL, prompts: list[list[int]] = PROMPTS) -> Rollout:
    return sample(
        policy,
        prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        eos_id=EOS,
        pad_id=PAD,
        generator=torch.Generator().manual_seed(0),
    )


def gradient(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def how_often_five(rollout: Rollout) -> Tensor:
    """A rigged reward: the share of an ending's tokens that are token 5."""
    return ((rollout.tokens == 5) & rollout.mask).sum(1) / rollout.lengths


def random_batch(seed: int, rows: int = 4, width: int = 6) -> tuple[list[Tensor], Tensor]:
    """Log-probabilities, values and the like of random endings with random lengths, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    numbers = [torch.randn(rows, width, generator=generator) for _ in range(4)]
    lengths = torch.randint(0, width + 1, (rows,), generator=generator)
    return numbers, torch.arange(width) < lengths[:, None]


# Rewards ------------------------------------------------------------------------------------------


def test_shaped_rewards_by_hand() -> None:
    logp, logp_ref = torch.tensor([[-1.0, -2.0, -3.0]] * 2), torch.tensor([[-1.5, -1.0, -3.0]] * 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    rewards = shaped_rewards(torch.tensor([10.0, 20.0]), logp, logp_ref, mask, kl_coef=0.1)
    assert torch.allclose(rewards, torch.tensor([[-0.05, 10.1, 0.0], [-0.05, 0.1, 20.0]]))


def test_the_penalty_is_subtracted() -> None:
    """Likelier under the policy than under the reference costs."""
    rewards = shaped_rewards(
        torch.zeros(1), torch.tensor([[-1.0]]), torch.tensor([[-2.0]]), torch.ones(1, 1), 10.0
    )
    assert rewards.item() == -10.0


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_rewards_of_an_ending_sum_to_score_minus_penalty_however_it_is_padded(seed: int, extra: int) -> None:
    (logp, logp_ref, _, _), mask = random_batch(seed)
    score = torch.arange(1.0, 5.0)
    rewards = shaped_rewards(score, logp, logp_ref, mask, 0.3)
    expected = torch.where(mask.any(1), score, 0.0) - 0.3 * ((logp - logp_ref) * mask).sum(1)
    assert torch.allclose(rewards.sum(1), expected, atol=1e-5)
    pad = (0, extra)
    wider_logp, wider_ref = (nn.functional.pad(x, pad, value=NAN) for x in (logp, logp_ref))
    wider = shaped_rewards(score, wider_logp, wider_ref, nn.functional.pad(mask, pad), 0.3)
    assert torch.equal(wider[:, :6], rewards) and wider[:, 6:].eq(0).all()


def test_a_broken_score_is_an_error_unless_nobody_lives_there() -> None:
    zeros, mask = torch.zeros(2, 2), torch.tensor([[1, 0], [0, 0]])
    assert shaped_rewards(torch.tensor([1.0, NAN]), zeros, zeros, mask, 0.1).tolist() == [
        [1.0, 0.0],
        [0.0, 0.0],
    ]
    with pytest.raises(InputError, match="score"):
        shaped_rewards(torch.tensor([NAN, 1.0]), zeros, zeros, mask, 0.1)


# Advantages ---------------------------------------------------------------------------------------


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), gamma=0.9, lam=0.8)
    third = 2 - 1.5  # terminal: nothing follows
    second = (0 + 0.9 * 1.5 - 1.0) + 0.72 * third
    first = (1 + 0.9 * 1.0 - 0.5) + 0.72 * second
    assert torch.allclose(advantages, torch.tensor([[first, second, third]]))
    assert torch.allclose(returns, advantages + values)


def test_gae_of_monte_carlo_and_of_one_step() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    _, returns = gae(rewards, values, torch.ones(1, 3), gamma=1.0, lam=1.0)
    assert returns.tolist() == [[7.0, 6.0, 4.0]]
    advantages, _ = gae(rewards, values, torch.ones(1, 3), gamma=1.0, lam=0.0)
    assert advantages.tolist() == [[1.5, 2.5, 2.5]]


def test_the_last_live_token_is_terminal_whatever_stands_behind_it() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, NAN]]), torch.tensor([[0.5, 1.0, 1e9]])
    advantages, returns = gae(rewards, values, torch.tensor([[1, 1, 0]]), gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[2.5, 1.0, 0.0]] and returns.tolist() == [[3.0, 2.0, 0.0]]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_gae_of_a_batch_is_gae_of_each_row_alone(seed: int) -> None:
    (rewards, values, _, _), mask = random_batch(seed)
    batch = gae(rewards, values, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        if length:
            alone = gae(
                rewards[row : row + 1, :length], values[row : row + 1, :length], torch.ones(1, length)
            )
            for together, single in zip(batch, alone, strict=True):
                assert torch.equal(together[row, :length], single[0])
        for together in batch:
            assert together[row, length:].eq(0).all()


# Losses -------------------------------------------------------------------------------------------


def test_policy_loss_by_hand() -> None:
    logp_old = torch.zeros(1, 4)
    logp = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    # up and good: clipped at 1.2; up and bad: 1.5 in full; down and good: 0.5; down and bad: 0.8
    expected = (-1.2 + 1.5 - 0.5 + 0.8) / 4
    assert policy_loss(logp, logp_old, advantages, torch.ones(1, 4)).item() == pytest.approx(
        expected, abs=1e-6
    )
    half = policy_loss(logp, logp_old, advantages, torch.tensor([[1, 1, 0, 0]]))
    assert half.item() == pytest.approx((-1.2 + 1.5) / 2, abs=1e-6)


def test_value_loss_by_hand() -> None:
    values, values_old = torch.tensor([[1.0, 0.1, 3.0]]), torch.zeros(1, 3)
    returns = torch.tensor([[1.0, 1.0, NAN]])
    # 1.0 moved too far: it counts as 0.2, error 0.8; 0.1 is within the clip: error 0.9
    expected = 0.5 * (0.8**2 + 0.9**2) / 2
    loss = value_loss(values, values_old, returns, torch.tensor([[1, 1, 0]]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_first_policy_gradient_is_minus_the_advantage() -> None:
    logp = torch.zeros(1, 2, requires_grad=True)
    policy_loss(logp, torch.zeros(1, 2), torch.tensor([[2.0, -3.0]]), torch.ones(1, 2)).backward()
    assert gradient(logp).tolist() == [[-1.0, 1.5]]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([NAN, torch.inf, -torch.inf, 1e30, -200.0]))
def test_masked_slots_change_neither_loss_nor_gradient_by_a_bit(seed: int, junk: float) -> None:
    numbers, mask = random_batch(seed)
    for loss_of in (policy_loss, value_loss):
        results = []
        for fill in (0.0, junk):
            logp, old, target, _ = (torch.where(mask, x, fill) for x in numbers)
            logp.requires_grad_()
            loss = loss_of(logp, old, target, mask)
            loss.backward()
            results.append((loss.detach(), gradient(logp)))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
        assert results[1][1][~mask].eq(0).all()


@pytest.mark.parametrize("wrong", [
    {"kl_coef": "0.1"}, {"kl_coef": math.nan}, {"lam": None}, {"iterations": True}, {"episodes": 2.5}, {"seed": -1},
    {"seed": 2**32}, {"adaptive": "no"}, {"temperature": False}])
def test_a_setting_of_the_wrong_kind_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"PPOConfig.{next(iter(wrong))} is"):
        PPOConfig(**wrong)


@pytest.mark.parametrize("loss_of", [policy_loss, value_loss])
def test_nothing_live_is_zero_and_nan_on_a_live_token_is_an_error(loss_of: Any) -> None:
    broken = torch.full((1, 2), NAN)
    assert loss_of(broken, broken, broken, torch.zeros(1, 2)).item() == 0.0
    for position in range(3):
        arguments = [torch.zeros(1, 2) for _ in range(3)]
        arguments[position] = broken
        with pytest.raises(InputError, match="nan"):
            loss_of(*arguments, torch.ones(1, 2))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_one_batch_of_eight_is_eight_of_one(seed: int) -> None:
    """Rows of different lengths: with a constant denominator the parts' gradients add up to the whole's."""
    numbers, mask = random_batch(seed, rows=8)
    for loss_of in (policy_loss, value_loss):
        logp, old, target, _ = (x.clone().requires_grad_() for x in numbers)
        loss_of(logp, old, target, mask).backward()
        whole, logp.grad = gradient(logp), None
        for row in range(8):
            part = slice(row, row + 1)
            loss_of(
                logp[part], old[part], target[part], mask[part], denominator=max(1, mask.sum().item())
            ).backward()
        assert torch.allclose(whole, gradient(logp), atol=1e-6)


def test_minibatches_of_different_lengths_do_not_bias_the_gradient() -> None:
    """With the learning rate at 0 the minibatches' gradients average to that of the whole batch."""
    state = start_ppo(make_model(), SMALL)
    rollout = roll(state.policy, prompts=PROMPTS * 2)
    assert len(set(rollout.lengths.tolist())) > 1
    advantages, returns = torch.randn(2, *rollout.mask.shape, generator=torch.Generator().manual_seed(0))
    config = dataclasses.replace(SMALL, max_grad_norm=1e9)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0

    def gradient_of(rows: Tensor, denominator: float) -> Tensor:
        step(state, rollout.select(rows), advantages[rows], returns[rows], config, config.value_coef,
             denominator)
        return torch.cat([gradient(p).flatten() for p in state.policy.parameters()])

    live = rollout.mask.sum().item()
    whole = gradient_of(torch.arange(16), live)
    parts = [gradient_of(rows, live / 4) for rows in torch.arange(16).split(4)]
    assert torch.allclose(torch.stack(parts).mean(0), whole, atol=1e-5)


# The controller -----------------------------------------------------------------------------------


def test_adaptive_coefficient_by_hand() -> None:
    assert adapt_kl_coef(0.1, kl=6.6, target=6.0, episodes=128, horizon=1280) == pytest.approx(0.1 * 1.01)
    assert adapt_kl_coef(0.1, kl=60.0, target=6.0, episodes=128, horizon=1280) == pytest.approx(0.1 * 1.02)
    assert adapt_kl_coef(0.1, kl=0.0, target=6.0, episodes=128, horizon=1280) == pytest.approx(0.1 * 0.98)
    assert adapt_kl_coef(0.1, kl=6.0, target=6.0, episodes=128, horizon=1280) == 0.1


def nats_per_ending(policy: Any, reference: Any, rollout: Rollout, temperature: float) -> float:
    """KL(policy || reference), exact at every token of an ending, summed over it and averaged over endings."""
    total = 0.0
    for tokens, prompt in zip(rollout.rows, rollout.prompts, strict=True):
        ids, start = torch.tensor([tokens]), len(prompt)
        with torch.no_grad():
            new, old = (model(ids).logits[0, start - 1 : -1].div(temperature).log_softmax(-1)
                        for model in (policy, reference))
        total += (new.exp() * (new - old)).sum().item()
    return total / len(rollout.tokens)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_the_controller_is_fed_nats_per_ending(share: float) -> None:
    """With a target at nine tenths of the KL, or eleven, no rounding of the error hides what an iteration feeds it."""
    config = dataclasses.replace(SMALL, temperature=0.7, adaptive=True)
    reference, policy = make_model(0), make_model(1)
    rollout = ppo_iteration(start_ppo(policy, config), reference, how_often_five, PROMPTS, config, EOS, PAD).rollout
    assert rollout.lengths.float().mean() > 2
    kl = nats_per_ending(policy, reference, rollout, 0.7)
    config = dataclasses.replace(config, kl_target=share * kl)
    state = start_ppo(policy, config)
    ppo_iteration(state, reference, how_often_five, PROMPTS, config, EOS, PAD)
    assert state.kl_coef == pytest.approx(config.kl_coef * (1 + (1 / share - 1) * 16 / 160), rel=1e-5)


# One iteration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_iteration_starts_from_nothing(temperature: float) -> None:
    config = dataclasses.replace(SMALL, temperature=temperature, epochs=1, minibatches=1)
    model = make_model()
    stats = ppo_iteration(
        start_ppo(model, config), frozen_copy(model), how_often_five, PROMPTS, config, EOS, PAD
    ).stats
    assert stats["ratio_first"] == pytest.approx(1, abs=1e-4)
    assert stats["clip_fraction"] == 0 and stats["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert stats["kl"] == pytest.approx(0, abs=1e-5) and stats["kl_k1"] == pytest.approx(0, abs=1e-4)
    assert stats["reward"] == pytest.approx(stats["score"], abs=1e-5)
    assert 0 < stats["entropy"] <= math.log(20) + 1e-4
    assert set(stats) == {
        "iteration",
        "episodes",
        "score",
        "score_std",
        "reward",
        "kl",
        "kl_k1",
        "kl_coef",
        "learning_rate",
        "clip_fraction",
        "approx_kl",
        "ratio_first",
        "entropy",
        "length",
        "ended",
        "policy_loss",
        "value_loss",
        "explained_variance",
        "grad_norm",
        "seconds",
    }


def test_the_learning_rate_falls_in_a_line_to_zero() -> None:
    config = dataclasses.replace(SMALL, iterations=4, learning_rate=0.4)
    state = start_ppo(make_model(), config)
    rates = []
    for state.iteration in range(6):  # two more than planned: the rate stays at zero
        rates.append(anneal(state, config))
        assert [group["lr"] for group in state.optimizer.param_groups] == [rates[-1], 10 * rates[-1]]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])


def test_ratio_leaves_one_when_there_are_several_epochs() -> None:
    config = dataclasses.replace(SMALL, epochs=4, learning_rate=3e-2)
    model = make_model()
    stats = ppo_iteration(
        start_ppo(model, config), frozen_copy(model), how_often_five, PROMPTS, config, EOS, PAD
    ).stats
    assert stats["ratio_first"] == pytest.approx(1, abs=1e-4)
    assert stats["approx_kl"] > 1e-3 and stats["clip_fraction"] > 0


def test_the_updates_get_whitened_advantages_and_returns_of_the_old_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `ppo_iteration` hands on is made of the sampler's own values, and weighs every token the same."""
    given: list[Any] = []
    denominators = []

    def spy_update(*arguments: Any) -> Any:
        given.append(arguments)
        return update(*arguments)

    def spy_step(*arguments: Any) -> Any:
        denominators.append(arguments[-1])
        return step(*arguments)

    monkeypatch.setattr(ppo, "update", spy_update)
    monkeypatch.setattr(ppo, "step", spy_step)
    model = make_model()
    state = start_ppo(model, SMALL)
    nn.init.constant_(state.policy.value_head.bias, 0.5)
    reference = make_model(1)
    ppo_iteration(state, reference, how_often_five, PROMPTS, SMALL, EOS, PAD)

    _, rollout, advantages, returns, *_ = given[0]
    logp_ref, _, _ = compare_to_reference(state.policy, reference, rollout, SMALL.temperature)
    rewards = shaped_rewards(how_often_five(rollout), rollout.logp, logp_ref, rollout.mask, SMALL.kl_coef)
    raw, expected = gae(rewards, rollout.values, rollout.mask, SMALL.gamma, SMALL.lam)
    assert torch.allclose(returns, expected, atol=1e-5)
    live = advantages[rollout.mask]
    assert live.mean().abs() < 1e-5 and live.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(
        live, (raw[rollout.mask] - raw[rollout.mask].mean()) / raw[rollout.mask].std(), atol=1e-3
    )
    assert denominators == [rollout.mask.sum().item() / SMALL.minibatches] * (
        SMALL.epochs * SMALL.minibatches
    )


def test_compare_is_exact_and_uses_the_temperature() -> None:
    reference, policy = make_model(0), PolicyWithValue(make_model(1))
    rollout = roll(policy, dataclasses.replace(SMALL, temperature=0.5))
    logp_ref, kl_exact, entropy = compare_to_reference(policy, reference, rollout, 0.5)
    with torch.no_grad():
        for row, length in enumerate(rollout.lengths.tolist()):
            start, ids = len(rollout.prompts[row]), torch.tensor([rollout.rows[row]])
            new, old = (
                model(ids).logits[0, start - 1 : -1].div(0.5).log_softmax(-1)
                for model in (policy.language_model, reference)
            )
            assert torch.allclose(
                logp_ref[row, :length], old.gather(1, ids[0, start:, None])[:, 0], atol=1e-4
            )
            assert torch.allclose(kl_exact[row, :length], (new.exp() * (new - old)).sum(-1), atol=1e-5)
            assert torch.allclose(entropy[row, :length], -(new.exp() * new).sum(-1), atol=1e-4)
            assert kl_exact[row, length:].eq(0).all()


def test_sampled_kl_agrees_with_the_exact_one_and_is_positive() -> None:
    reference, policy = make_model(0), PolicyWithValue(make_model(1))
    rollout = roll(policy, prompts=PROMPTS * 100)
    logp_ref, kl_exact, _ = compare_to_reference(policy, reference, rollout, 1.0)
    exact, sampled = kl_exact.sum(1).mean(), (rollout.logp - logp_ref).sum(1)
    assert exact > 0.01
    assert (sampled.mean() - exact).abs() < 4 * sampled.std() / math.sqrt(800)


def test_in_bfloat16_the_first_ratio_is_one_and_weights_and_moments_stay_in_float32() -> None:
    """The old log-probabilities come from the update's own forward pass: sampling rounds otherwise."""
    model = make_model()
    use_bf16(model)
    config = dataclasses.replace(SMALL, epochs=1, minibatches=1)
    state = start_ppo(model, config)
    stats = ppo_iteration(state, frozen_copy(model), how_often_five, PROMPTS, config, EOS, PAD).stats
    assert stats["ratio_first"] == pytest.approx(1, abs=1e-5)
    assert {x.dtype for x in state.tensors().values()} == {torch.float32}


def test_a_policy_that_diverges_says_where_and_what_to_do() -> None:
    model = make_model()
    config = dataclasses.replace(SMALL, learning_rate=1e30, epochs=1, minibatches=1)
    state = start_ppo(model, config)
    with pytest.raises(InputError, match=r"^iteration 1: .*the policy has diverged; lower the learning rate"):
        ppo_iteration(state, frozen_copy(model), how_often_five, PROMPTS, config, EOS, PAD)
    assert state.iteration == 0  # not counted as done, so nothing of it is saved


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_score_that_is_not_finite_is_named_before_the_policy_is_touched(bad: float) -> None:
    model = make_model()
    state = start_ppo(model, SMALL)
    before = copy.deepcopy(state.policy.state_dict())

    def score(rollout: Rollout) -> Tensor:
        return torch.tensor([0.0, bad, *[0.0] * (len(rollout.mask) - 2)])

    with pytest.raises(InputError, match=rf"^iteration 1: score\[1\] is {bad}"):
        ppo_iteration(state, frozen_copy(model), score, PROMPTS, SMALL, EOS, PAD)
    assert all(torch.equal(x, before[name]) for name, x in state.policy.state_dict().items())


def test_a_gradient_that_is_not_finite_leaves_the_policy_as_it_was() -> None:
    state = start_ppo(make_model(), SMALL)
    rollout = roll(state.policy)
    before = copy.deepcopy(state.policy.state_dict())
    advantages = torch.full(rollout.mask.shape, 3e38)  # finite, but the gradient's norm is not
    with pytest.raises(InputError, match=r"the norm of the gradient is (inf|nan) at step 1"):
        step(state, rollout, advantages, torch.zeros_like(advantages), SMALL, 0.5, 1e-3)
    assert all(torch.equal(x, before[name]) for name, x in state.policy.state_dict().items())


def test_the_model_that_was_given_stays_as_it_was() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    train(start_ppo(model, SMALL), model, how_often_five, SMALL)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off() -> None:
    model = make_model()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    policy = start_ppo(model.train(), SMALL).policy
    assert not any(module.training for module in policy.modules())


def test_prompts_come_in_random_order_and_equally_often() -> None:
    prompts: list[Sequence[int]] = [[i] for i in range(5)]
    chosen = choose_prompts(prompts, 12, torch.Generator().manual_seed(0))
    counts = [chosen.count(prompt) for prompt in prompts]
    assert len(chosen) == 12 and min(counts) >= 2 and max(counts) <= 3
    assert sorted(chosen[:5], key=list) == prompts and chosen[:5] != prompts
    with pytest.raises(InputError, match="no prompt"):
        choose_prompts([], 12, torch.Generator())


def test_explained_variance_by_hand() -> None:
    returns, mask = torch.tensor([[1.0, 3.0, NAN]]), torch.tensor([[True, True, False]])
    assert explained_variance(torch.tensor([[1.0, 3.0, 0.0]]), returns, mask) == 1.0
    assert explained_variance(torch.tensor([[2.0, 2.0, 0.0]]), returns, mask) == 0.0


def practice() -> tuple[Rollout, Tensor, Tensor]:
    """Endings with made-up advantages and returns, (B, T) each."""
    rollout = roll(start_ppo(make_model(), SMALL).policy)
    advantages, returns = torch.randn(2, *rollout.mask.shape, generator=torch.Generator().manual_seed(0))
    return rollout, advantages, returns


def test_update_weighs_all_epochs() -> None:
    """Three epochs at once are three times one epoch: the same weights, and the mean of what the three measured."""
    rollout, advantages, returns = practice()
    config = dataclasses.replace(SMALL, epochs=3, minibatches=2)
    once, thrice = start_ppo(make_model(), config), start_ppo(make_model(), config)
    whole = update(once, rollout, advantages, returns, config, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    parts = [update(thrice, rollout, advantages, returns, dataclasses.replace(config, epochs=1), generator)
             for _ in range(3)]
    assert all(torch.equal(tensor, thrice.tensors()[name]) for name, tensor in once.tensors().items())
    assert whole.pop("ratio_first") == parts[0].pop("ratio_first") == pytest.approx(1, abs=1e-4)
    for name, value in whole.items():
        assert value == pytest.approx(sum(part[name] for part in parts) / 3, rel=1e-5), name
    assert len({part["policy_loss"] for part in parts}) == 3


def test_update_weighs_every_token_of_all_minibatches_the_same() -> None:
    """Before anything has moved, the mean over minibatches is the loss of the whole batch."""
    rollout, advantages, returns = practice()
    config = dataclasses.replace(SMALL, epochs=1)
    found = []
    for minibatches in (1, 4):
        state = start_ppo(make_model(), config)
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0
        found.append(update(state, rollout, advantages, returns, dataclasses.replace(config, minibatches=minibatches),
                            torch.Generator().manual_seed(0)))
    for name in ("policy_loss", "value_loss"):
        assert found[1][name] == pytest.approx(found[0][name], abs=1e-5), name


@pytest.mark.parametrize("spread", [0.5, 10.0])
def test_the_value_loss_is_divided_by_the_variance_of_wide_returns_only(spread: float) -> None:
    """With no advantage anywhere the gradient is the value loss's, so its norm shows the weight of that loss."""
    rollout, advantages, _ = practice()
    nothing, returns = torch.zeros_like(advantages), torch.full_like(advantages, NAN)
    line = torch.linspace(-1, 1, int(rollout.mask.sum()))
    returns[rollout.mask] = line / line.std() * spread
    config = dataclasses.replace(SMALL, epochs=1, minibatches=1, value_coef=0.4)
    state = start_ppo(make_model(), config)
    _, values = state.policy(rollout, config.temperature)
    value_loss(values, rollout.values, returns, rollout.mask, config.value_clip).backward()
    norm = torch.cat([p.grad.flatten() for p in state.policy.parameters() if p.grad is not None]).norm().item()
    stats = update(state, rollout, nothing, returns, config, torch.Generator().manual_seed(0))
    assert stats["grad_norm"] == pytest.approx(norm * 0.4 / max(1.0, spread**2), rel=1e-4)


# Save and resume ----------------------------------------------------------------------------------


def test_resume_is_exact_to_the_bit(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, adaptive=True, kl_target=0.01)
    model = make_model()
    straight = start_ppo(model, config)
    history = train(straight, model, how_often_five, config)

    stopped = start_ppo(model, config)
    first = list(islice(train_ppo(stopped, model, how_often_five, PROMPTS, config, EOS, PAD), 2))
    save_state(stopped, tmp_path)
    resumed = start_ppo(make_model(seed=9), config)  # other weights, all to be replaced
    load_state(resumed, tmp_path)
    second = train(resumed, model, how_often_five, config)

    assert (resumed.iteration, resumed.episodes, resumed.kl_coef) == (4, 64, straight.kl_coef)
    assert straight.kl_coef != config.kl_coef
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    for ours, theirs in zip(history, first + second, strict=True):
        assert {**ours.stats, "seconds": 0} == {**theirs.stats, "seconds": 0}


def test_a_finished_state_does_nothing_more() -> None:
    model = make_model()
    state = start_ppo(model, SMALL)
    assert len(train(state, model, how_often_five, SMALL)) == 4
    assert train(state, model, how_often_five, SMALL) == []


def test_states_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = start_ppo(make_model(), SMALL)
    with pytest.raises(InputError, match="ppo_state"):
        load_state(state, tmp_path)
    save_state(state, tmp_path)
    other = new_language_model(20, EOS, PAD, n_layer=2, n_head=2, n_embd=16, n_positions=48, seed=0)
    with pytest.raises(InputError, match="another model"):
        load_state(start_ppo(other, SMALL), tmp_path)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    for harm, why in ((torch.nan, "not finite"), (torch.inf, "not finite")):
        broken = start_ppo(make_model(seed=3), SMALL)
        broken.policy.value_head.bias.data[0] = harm
        save_state(broken, tmp_path)
        with pytest.raises(InputError, match=why):
            load_state(state, tmp_path)
    wrong: list[Any] = [{"iteration": "__class__"}, {"kl_coef": float("nan")}, {"episodes": -1}, [], None]
    for counters in wrong:
        good: dict[str, Any] = {"kl_coef": 0.1, "iteration": 2, "episodes": 64}
        found = {**good, **counters} if isinstance(counters, dict) else counters
        save_file(before, tmp_path / FILE, {"counters": json.dumps(found)})
        with pytest.raises(InputError, match=r"cannot be read .*counters"):
            load_state(state, tmp_path)
    save_file(before, tmp_path / FILE)
    with pytest.raises(InputError, match="cannot be read"):
        load_state(state, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        load_state(state, tmp_path)


# Learning -----------------------------------------------------------------------------------------

LEARN = PPOConfig(iterations=25, episodes=64, max_new_tokens=6, learning_rate=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_rigged_reward_rises(temperature: float) -> None:
    config = dataclasses.replace(LEARN, kl_coef=0.0, temperature=temperature)
    model = make_model()
    history = train(start_ppo(model, config), model, how_often_five, config)
    assert history[0].stats["score"] < 0.15 and history[-1].stats["score"] > 0.6


def test_kl_falls_as_the_coefficient_rises() -> None:
    model, last = make_model(), []
    for kl_coef in (0.0, 0.1, 1.0):
        config = dataclasses.replace(LEARN, kl_coef=kl_coef)
        last.append(train(start_ppo(model, config), model, how_often_five, config)[-1].stats["kl"])
    assert last[0] > 1.5 * last[1] > 3 * last[2]


def test_without_reward_the_penalty_pulls_a_stray_policy_back() -> None:
    """The sign of the KL: with reward 0 and a large coefficient the policy returns to the reference."""
    reference, stray = make_model(0), make_model(0)
    with torch.no_grad():
        stray.transformer.wte.weight.add_(
            0.3 * torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
        )
    config = dataclasses.replace(LEARN, kl_coef=10.0)
    history = train(
        start_ppo(stray, config), reference, lambda rollout: torch.zeros(len(rollout.mask)), config
    )
    assert history[0].stats["kl"] > 0.5 and history[-1].stats["kl"] < 0.3 * history[0].stats["kl"]


def test_a_reward_of_hundreds_leaves_the_policy_alive() -> None:
    """Returns that vary widely do not drown the policy's gradient in the trunk that it shares with the values."""
    config = dataclasses.replace(LEARN, kl_coef=0.0, iterations=8)
    model = make_model()
    history = train(start_ppo(model, config), model, lambda rollout: 300 * how_often_five(rollout), config)
    assert history[0].stats["score"] < 0.15 * 300 and history[-1].stats["score"] > 0.5 * 300


@pytest.mark.parametrize(("kl_coef", "kl_target"), [(0.05, 0.3), (0.15, 3.0)], ids=["too_low", "too_high"])
def test_the_adaptive_coefficient_moves_the_kl_towards_its_target(kl_coef: float, kl_target: float) -> None:
    """It rises after every iteration above the target and falls after every one below, and so the KL comes nearer."""
    def ends(adaptive: bool) -> list[dict[str, float]]:
        config = dataclasses.replace(LEARN, adaptive=adaptive, kl_coef=kl_coef, kl_target=kl_target, iterations=40)
        model = make_model()
        return [iteration.stats for iteration in train(start_ppo(model, config), model, how_often_five, config)]

    fixed, adapted = ends(False), ends(True)
    for now, then in pairwise(adapted):
        assert (then["kl_coef"] > now["kl_coef"]) == (now["kl"] > kl_target), now
    assert {then["kl_coef"] for then in fixed} == {kl_coef}
    away, still = (abs(math.log(stats[-1]["kl"] / kl_target)) for stats in (fixed, adapted))
    assert still < away - math.log(2)
