"""The exercises of 05 that are not in test_checks.py: policy gradient, value loss, and one whole iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_checks import plain_gae, plain_policy_loss, plain_rewards, plain_whiten
from torch import Tensor

from rlhf_mini import checks, kl, ppo
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise
from rlhf_mini.checks.ppo_parts import LOGITS, POLICY_GRADIENT, REWARD, VALUE_LOSS
from rlhf_mini.checks.whole_iteration import PPO_ITERATION, Probe
from rlhf_mini.teaching.policy_gradient import estimates, exact_gradient, policy_gradient, variance

Function = Callable[..., Any]
CHECKS: dict[str, tuple[Function, Exercise]] = {
    "policy_gradient": (checks.check_policy_gradient, POLICY_GRADIENT),
    "value_loss": (checks.check_value_loss, VALUE_LOSS),
    "ppo_iteration": (checks.check_ppo_iteration, PPO_ITERATION)}
MISTAKES = [pytest.param(check, exercise, mistake, id=f"{name}-{mistake.__name__}")
            for name, (check, exercise) in CHECKS.items() for mistake in exercise.mistakes]


def as_students_write(function: Any) -> Function:
    return function.whole if isinstance(function, Probe) else function


# --- right answers ----------------------------------------------------------------------------------------------


def with_a_loop(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    total, chance = torch.zeros(len(logits)), logits.softmax(0)
    for a in samples.tolist():
        slope = -chance.clone()
        slope[a] += 1
        total += (reward[a] - baseline) * slope
    return total / len(samples)


def with_autograd(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    logits = logits.clone().requires_grad_()
    surrogate = ((reward[samples] - baseline) * logits.log_softmax(0)[samples]).mean()
    return torch.autograd.grad(surrogate, logits)[0]


def plain_value_loss(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    clipped = torch.max(torch.min(values, values_old + clip), values_old - clip)
    losses = torch.max((values - returns) ** 2, (clipped - returns) ** 2) / 2
    return (losses * mask).sum() / mask.sum()


def indexed_value_loss(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    v, old, target = values[mask], values_old[mask], returns[mask]
    return 0.5 * torch.maximum((v - target).square(), ((old + (v - old).clamp(-clip, clip)) - target).square()).mean()


def of_plain_parts(rollout: Any, logp_ref: Tensor, score: Tensor, kl_coef: float, config: Any) -> Any:
    rewards = plain_rewards(score, rollout.logp, logp_ref, rollout.mask, kl_coef)
    advantages, returns = plain_gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)
    whitened = plain_whiten(advantages, rollout.mask)

    def loss(rows: Tensor, logp: Tensor, values: Tensor, value_coef: float) -> Tensor:
        part = rollout.select(rows)
        return plain_policy_loss(logp, part.logp, whitened[rows], part.mask, config.clip) + value_coef * (
            plain_value_loss(values, part.values, returns[rows], part.mask, config.value_clip))
    return loss, returns


def of_the_package(rollout: Any, logp_ref: Tensor, score: Tensor, kl_coef: float, config: Any) -> Any:
    rewards = ppo.shaped_rewards(score, rollout.logp, logp_ref, rollout.mask, kl_coef)
    advantages, returns = ppo.gae(rewards, rollout.values, rollout.mask, lam=config.lam)

    def loss(rows: Tensor, logp: Tensor, values: Tensor, value_coef: float) -> Tensor:
        white = kl.masked_whiten(advantages, rollout.mask)[rows]
        one = ppo.policy_loss(logp, rollout.logp[rows], white, rollout.mask[rows], config.clip)
        return one + value_coef * ppo.value_loss(values, rollout.values[rows], returns[rows], rollout.mask[rows],
                                                 config.value_clip)
    return loss, returns


@pytest.mark.parametrize(("name", "function"), [
    ("policy_gradient", with_a_loop), ("policy_gradient", with_autograd), ("policy_gradient", policy_gradient),
    ("value_loss", plain_value_loss), ("value_loss", indexed_value_loss), ("value_loss", ppo.value_loss),
    ("ppo_iteration", of_plain_parts), ("ppo_iteration", of_the_package)])
def test_right_answers_are_accepted(name: str, function: Function) -> None:
    result = CHECKS[name][0](function)
    assert result.points == 2, result
    assert result.function is function


# --- wrong and missing answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: Exercise, mistake: Function) -> None:
    result = check(as_students_write(mistake))
    assert result.points == 0
    assert str(result).startswith(f"{exercise.name}: {sentence(mistake)}. "), result


@pytest.mark.parametrize("name", CHECKS)
def test_no_two_mistakes_look_alike(name: str) -> None:
    exercise = CHECKS[name][1]
    found = [answers(exercise, mistake) for mistake in exercise.mistakes]
    assert len(found) >= 8
    for i, one in enumerate(found):
        assert not any(agree(exercise, one, other) for other in found[:i])


def stub(*args: Any) -> Any:
    """Shapes."""
    ...


@pytest.mark.parametrize("name", CHECKS)
def test_a_stub_is_not_attempted_and_what_is_no_function_is_told(name: str) -> None:
    check, exercise = CHECKS[name]
    assert str(check(stub)) == f"{exercise.name}: not attempted yet"
    assert "give the function itself" in str(check(3))


def test_the_value_loss_needs_its_gradient() -> None:
    result = checks.check_value_loss(lambda values, *others: ppo.value_loss(values.detach(), *others))
    assert result.points == 1 and "gradient with respect to values is lost" in str(result)


# --- one whole iteration ----------------------------------------------------------------------------------------


def typed(body: str, **names: Any) -> Function:
    exec(f"def my_ppo_iteration(rollout, logp_ref, score, kl_coef, config):\n{body}", names)
    return names["my_ppo_iteration"]


@pytest.mark.parametrize(("body", "said"), [
    ("    return 1", "return two things: the function loss, without calling it, and the returns"),
    ("    return (lambda *given: 1.5), logp_ref", "should return a tensor that is one number"),
    ("    return (lambda rows, logp, values, value_coef: logp), logp_ref", "should return a tensor that is one number"),
    ("    return rollout.rewards, logp_ref", "raised AttributeError ('Rollout' object has no attribute 'rewards')"),
    ("    return (lambda rows, logp, values, value_coef: values[7]), logp_ref", "raised IndexError"),
    ("    return my_gae(logp_ref)", "it calls my_gae, not written yet: fill that in first"),
    ("    def loss(*given):\n        return my_gae(*given)\n    return loss, 0", "it calls my_gae, not written yet"),
    ("    raise NotImplementedError", "not attempted yet"),
])
def test_what_cannot_be_an_iteration_is_told_in_a_line(body: str, said: str) -> None:
    result = checks.check_ppo_iteration(typed(body, my_gae=stub))
    assert result.points == 0 and said in str(result) and "\n" not in str(result)


def test_the_wrong_number_of_parameters_is_told_with_the_student_s_own_names() -> None:
    said = str(checks.check_ppo_iteration(lambda rollout: rollout))
    assert "calling your function with (rollout, logp_ref, score, kl_coef, config) raised TypeError" in said


def test_a_loss_without_gradient_is_wrong() -> None:
    def detached(*given: Any) -> Any:
        loss, returns = of_the_package(*given)
        return lambda rows, logp, values, coef: loss(rows, logp.detach(), values, coef), returns
    assert "its slope by logp" in str(checks.check_ppo_iteration(detached))


# --- the gradient itself ----------------------------------------------------------------------------------------


def test_the_exact_gradient_by_hand_and_by_autograd() -> None:
    assert exact_gradient(LOGITS, REWARD).tolist() == pytest.approx([-1.5, 0.25, 1.25])
    logits = LOGITS.clone().requires_grad_()
    (logits.softmax(0) * REWARD).sum().backward()
    assert logits.grad is not None and torch.allclose(logits.grad, exact_gradient(LOGITS, REWARD), atol=1e-6)


@pytest.mark.parametrize("baseline", [0.0, 13.0, -40.0])
def test_no_baseline_moves_the_mean_and_the_variance_is_that_of_many_samples(baseline: float) -> None:
    chance, tokens = LOGITS.softmax(0), torch.arange(3)
    each = torch.stack([policy_gradient(LOGITS, REWARD, a[None], baseline) for a in tokens])
    assert torch.allclose(chance @ each, exact_gradient(LOGITS, REWARD), atol=1e-5)
    found = estimates(LOGITS, REWARD, baseline, 20_000, 1)
    assert torch.allclose(found.var(0), variance(LOGITS, REWARD, baseline), rtol=0.05)


def test_the_baseline_of_the_notebook_divides_the_variance_by_37() -> None:
    assert variance(LOGITS, REWARD).sum().item() == pytest.approx(128.625, rel=1e-5)
    assert variance(LOGITS, REWARD, 13.0).sum().item() == pytest.approx(3.5, rel=1e-5)
