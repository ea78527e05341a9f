"""The exercise of notebook 00: the reward of a whole ending."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.exercise import Result
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.ppo import shaped_rewards


def check_ending_reward(function: Any) -> Result:
    """Check f(score, logp, logp_ref, kl_coef): one number, the score less the price of the KL."""
    return check_plain(ENDING_REWARD, function)


def ending_reward(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """score - kl_coef * the sum of logp - logp_ref over the tokens. Shapes: (T,), (T,) -> ()."""
    everywhere = torch.ones(1, len(logp)).bool()
    return shaped_rewards(torch.tensor([score]), logp[None], logp_ref[None], everywhere, kl_coef).sum()


def kl_added(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """the sign of the KL is wrong: a token that the policy finds likelier than the reference does should cost"""
    return score + kl_coef * (logp - logp_ref).sum()


def coefficient_missing(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """kl_coef is missing: multiply the sum of the differences by it"""
    return score - (logp - logp_ref).sum()


def coefficient_on_all(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """kl_coef multiplies the score too: only the sum of the differences is multiplied by it"""
    return kl_coef * (score - (logp - logp_ref).sum())


def averaged(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """the differences are averaged: an ending pays for each of its tokens, so take their sum"""
    return score - kl_coef * (logp - logp_ref).mean()


def not_summed(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """this is a number for each token: an ending has one reward, so sum the differences first"""
    return score - kl_coef * (logp - logp_ref)


def never_below_zero(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    """a sum below 0 is cut to 0: only the mean over many endings cannot be negative, so keep it"""
    return score - kl_coef * (logp - logp_ref).sum().clamp(min=0)


ENDING_REWARD = PlainExercise(
    name="the reward of an ending",
    right=ending_reward,
    mistakes=[kl_added, coefficient_missing, coefficient_on_all, averaged, not_summed, never_below_zero],
    cases={
        "where the policy likes its tokens more": {
            "score": 2.0, "logp": torch.tensor([-1.0, -1.0]), "logp_ref": torch.tensor([-2.0, -1.5]), "kl_coef": 0.2},
        "where it likes one less": {
            "score": -0.5, "logp": torch.tensor([-0.25, -3.0, -0.5]), "logp_ref": torch.tensor([-1.0, -1.25, -4.0]),
            "kl_coef": 0.15},
        "where it likes all less": {
            "score": 1.0, "logp": torch.tensor([-2.0, -1.5]), "logp_ref": torch.tensor([-1.0, -1.0]), "kl_coef": 0.2},
        "with kl_coef 0": {
            "score": 1.5, "logp": torch.tensor([-0.5, -2.0]), "logp_ref": torch.tensor([-1.0, -6.0]), "kl_coef": 0.0},
        "where policy and reference agree": {
            "score": 0.75, "logp": torch.tensor([-0.5, -2.0]), "logp_ref": torch.tensor([-0.5, -2.0]),
            "kl_coef": 0.2}},
)
