"""The exercise on one whole iteration of PPO, made of a student's own parts."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.calling import exception_line, unfilled
from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import MASK, Exercise, Result, Verdict
from rlhf_mini.checks.ppo_parts import NEW, OLD
from rlhf_mini.config import PPOConfig
from rlhf_mini.kl import masked_whiten
from rlhf_mini.ppo import gae, policy_loss, shaped_rewards, value_loss
from rlhf_mini.sampling import Rollout
from rlhf_mini.teaching.own_iteration import PACKAGE, assembled

Function = Callable[..., Any]


def check_ppo_iteration(function: Any) -> Result:
    """Check f(rollout, logp_ref, score, kl_coef, config): the loss of a minibatch, as a function, and the returns."""
    if not callable(function):
        return check(PPO_ITERATION, function)
    known = getattr(function, "__globals__", {})
    if stubs := ", ".join(name for name in called(function) if is_stub(known.get(name))):
        return Result(PPO_ITERATION.name, f"it calls {stubs}, not written yet: fill that in first", 0, function)
    return replace(check(PPO_ITERATION, Probe(function)), function=function)


# --- calling it -------------------------------------------------------------------------------------------------


class Probe:
    """Call an iteration's function on tensors: the loss of one minibatch, its slopes, and the returns."""

    def __init__(self, function: Function) -> None:
        self.function, self.__doc__ = function, function.__doc__
        self.__name__ = getattr(function, "__name__", "")

    def __call__(self, logp: Tensor, values: Tensor, logp_old: Tensor, values_old: Tensor, logp_ref: Tensor,
                 mask: Tensor, score: Tensor, rows: Tensor, kl_coef: float, lam: float, value_coef: float) -> Any:
        rollout = Rollout(tuple((0,) for _ in mask), torch.zeros_like(mask).long(), mask, logp_old,
                          torch.zeros(*mask.shape, 1), values_old, torch.ones(len(mask)).bool())
        result = self.attempt(self.function, rollout=rollout, logp_ref=logp_ref, score=score, kl_coef=kl_coef,
                              config=PPOConfig(lam=lam, value_clip=0.5))
        if unfilled(result):
            return None
        if not (isinstance(result, tuple) and len(result) == 2 and callable(result[0])):
            raise Verdict("return two things: the function loss, without calling it, and the returns")
        learnt = logp.clone().requires_grad_(), values.clone().requires_grad_()
        loss = self.attempt(result[0], rows=rows, logp=learnt[0][rows], values=learnt[1][rows], value_coef=value_coef)
        if not isinstance(loss, Tensor) or loss.shape != ():
            raise Verdict("loss(rows, logp, values, value_coef) should return a tensor that is one number")
        slopes = torch.autograd.grad(loss + 0 * (learnt[0].sum() + learnt[1].sum()), learnt)
        return loss, *slopes, result[1]

    def attempt(self, function: Function, **given: Any) -> Any:
        """What a function of the student's returns. Raises: Verdict, with the line of code, where it raises."""
        try:
            return function(*given.values())
        except NotImplementedError:
            raise Verdict("not attempted yet") from None
        except Exception as error:
            told = {name: "a Rollout" if name == "rollout" else "a PPOConfig" if name == "config" else x
                    for name, x in given.items()}
            raise Verdict(exception_line(error, function, told)) from None


def called(function: Function) -> list[str]:
    """The names of a notebook's own parts that a function uses, also inside the functions that it defines."""
    names: list[str] = []
    left = [getattr(function, "__code__", None)]
    for code in left:
        names += [name for name in getattr(code, "co_names", ()) if name.startswith("my_")]
        left += [x for x in getattr(code, "co_consts", ()) if isinstance(x, types.CodeType)]
    return list(dict.fromkeys(names))


def is_stub(part: Any) -> bool:
    """Whether a function's body is `...`: such a function uses no name, and no constant but its docstring."""
    code = getattr(part, "__code__", None)
    return code is not None and not code.co_names and {*code.co_consts} <= {None, part.__doc__}


# --- usual mistakes ---------------------------------------------------------------------------------------------


def instead(**changed: Function) -> Function:
    """The package's iteration with some parts replaced."""
    return assembled({**PACKAGE, **changed})


def raw_advantages(*given: Any) -> Any:
    """the advantages are not whitened: the size of a step should not depend on the scale of the score"""
    return instead(whiten=lambda x, mask: x)(*given)


def each_minibatch_whitened(*given: Any) -> Any:
    """each minibatch is whitened by itself: whiten the advantages of the whole rollout once, before the loss"""
    def loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
        return policy_loss(logp, logp_old, masked_whiten(advantages, mask), mask, clip)
    return instead(whiten=lambda x, mask: x, policy_loss=loss)(*given)


def returns_from_whitened(*given: Any) -> Any:
    """the returns are made from whitened advantages: take them as my_gae gives them, with the scale of the score"""
    def both(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
        advantages, _ = gae(rewards, values, mask, gamma, lam)
        return advantages, (masked_whiten(advantages, mask) + values) * mask
    return instead(gae=both)(*given)


def advantages_as_targets(rollout: Rollout, *given: Any) -> Any:
    """the value loss gets the advantages: its targets are the returns"""
    loss_of, returns = instead()(rollout, *given)
    rewards = shaped_rewards(given[1], rollout.logp, given[0], rollout.mask, given[2])
    targets = masked_whiten(gae(rewards, rollout.values, rollout.mask, given[3].gamma, given[3].lam)[0], rollout.mask)

    def loss(rows: Tensor, logp: Tensor, values: Tensor, value_coef: float) -> Any:
        return loss_of(rows, logp, values, 0.0) + value_coef * value_loss(
            values, rollout.values[rows], targets[rows], rollout.mask[rows], given[3].value_clip)
    return loss, returns


def ratio_to_the_reference(rollout: Rollout, logp_ref: Tensor, *given: Any) -> Any:
    """the ratio is taken to the reference: its old log-probabilities are those of the rollout, rollout.logp[rows]"""
    _, returns = instead()(rollout, logp_ref, *given)
    rewards = shaped_rewards(given[0], rollout.logp, logp_ref, rollout.mask, given[1])
    fixed = lambda *_: gae(rewards, rollout.values, rollout.mask, given[2].gamma, given[2].lam)  # noqa: E731
    return instead(gae=fixed)(replace(rollout, logp=logp_ref), logp_ref, *given)[0], returns


def one_clip_for_both(rollout: Rollout, logp_ref: Tensor, score: Tensor, kl_coef: float, config: PPOConfig) -> Any:
    """the value loss gets config.clip: it has its own, config.value_clip, in units of the score"""
    return instead()(rollout, logp_ref, score, kl_coef, replace(config, value_clip=config.clip))


def first_coefficient(rollout: Rollout, logp_ref: Tensor, score: Tensor, kl_coef: float, config: PPOConfig) -> Any:
    """the KL coefficient is config.kl_coef, the one of the start: take kl_coef, which may have changed since"""
    return instead()(rollout, logp_ref, score, config.kl_coef, config)


def with_coefficient(change: Callable[[float], float], given: tuple[Any, ...]) -> Any:
    loss, returns = instead()(*given)
    return lambda rows, logp, values, value_coef: loss(rows, logp, values, change(value_coef)), returns


def value_coef_missing(*given: Any) -> Any:
    """value_coef is missing: multiply the value loss by it"""
    return with_coefficient(lambda value_coef: 1.0, given)


def value_loss_missing(*given: Any) -> Any:
    """the value loss is missing: add value_coef times it to the policy loss"""
    return with_coefficient(lambda value_coef: 0.0, given)


def value_loss_subtracted(*given: Any) -> Any:
    """the value loss is subtracted: both losses should fall, so add them"""
    return with_coefficient(lambda value_coef: -value_coef, given)


LOGP = torch.tensor([[-0.5, -1.2, -3.0, 0.0], [-0.4, -2.0, -0.7, -1.5], [-0.9, 0.0, 0.0, 0.0]])
SHIFT = torch.tensor([[0.3, -0.4, 0.1, 0.0], [-0.05, 0.5, -0.4, 0.15], [-0.35, 0.0, 0.0, 0.0]])
BATCH = {"logp": LOGP + SHIFT, "values": NEW * MASK, "logp_old": LOGP, "values_old": OLD * MASK,
         "logp_ref": LOGP - 2 * SHIFT.flip(0) * MASK, "mask": MASK, "score": torch.tensor([2.0, -1.0, 0.5])}

PPO_ITERATION = Exercise(
    name="one PPO iteration",
    right=Probe(instead()),
    mistakes=[Probe(one) for one in (
        raw_advantages, each_minibatch_whitened, returns_from_whitened, advantages_as_targets, ratio_to_the_reference,
        one_clip_for_both, first_coefficient, value_coef_missing, value_loss_missing, value_loss_subtracted)],
    cases={
        "with all rows": {**BATCH, "rows": torch.tensor([0, 1, 2]), "kl_coef": 0.5, "lam": 1.0, "value_coef": 0.5},
        "with rows 2 and 0": {**BATCH, "rows": torch.tensor([2, 0]), "kl_coef": 0.3, "lam": 0.9, "value_coef": 0.1},
    },
    parts=("the loss", "its slope by logp", "its slope by values", "the returns"),
)
