"""The exercises of notebook 05: the gradient itself, and what cannot be an iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from right_answers import of_the_package

from rlhf_mini import checks, ppo
from rlhf_mini.checks.ppo_parts import LOGITS, REWARD
from rlhf_mini.teaching.policy_gradient import estimates, exact_gradient, policy_gradient, variance

Function = Callable[..., Any]


def stub(*args: Any) -> Any:
    """Shapes."""
    ...


def test_the_value_loss_needs_its_gradient() -> None:
    result = checks.check_value_loss(lambda values, *others: ppo.value_loss(values.detach(), *others))
    assert result.points == 1 and "gradient with respect to values is lost" in str(result)


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
