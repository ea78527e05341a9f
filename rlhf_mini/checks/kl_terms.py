"""Exercises on the KL from the reference: its estimate k3, and its place in the reward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import FULL, MASK, Exercise, Result
from rlhf_mini.ppo import shaped_rewards


def check_k3(function: Any) -> Result:
    """Check f(logp, logp_ref): the estimate k3 of the KL, one number per token."""
    return check(K3, function)


def check_shaped_rewards(function: Any) -> Result:
    """Check f(score, logp, logp_ref, mask, kl_coef): each token's KL cost, and the score on the last live token."""
    return check(SHAPED_REWARDS, function)


# --- k3 ---------------------------------------------------------------------------------------------------------


def k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """r - 1 - ln r, where r = exp(logp_ref - logp)."""
    return kl.estimate(logp, logp_ref, "k3")


def k1(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """this is k1, the log ratio itself: it is unbiased, but can be negative"""
    return logp - logp_ref


def k1_backwards(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """this is only logp_ref - logp, ln r: k3 is r - 1 - ln r"""
    return logp_ref - logp


def k2(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """this is k2, half the square of the log ratio: it is never negative, but biased"""
    return 0.5 * (logp - logp_ref) ** 2


def k3_backwards(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """the log ratio is the wrong way round: r is the reference's probability divided by the policy's"""
    return k3(logp_ref, logp)


def k3_without_one(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """the 1 is not subtracted: at equal log-probabilities k3 is 0"""
    return k3(logp, logp_ref) + 1


def k3_without_log(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """the log ratio is missing: r - 1 averages to 0, k3 is r - 1 - ln r"""
    return torch.exp(logp_ref - logp) - 1


def k3_log_added(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """the sign of the log ratio is wrong: k3 is r - 1 - ln r, with ln r = logp_ref - logp"""
    return torch.exp(logp_ref - logp) - 1 + (logp_ref - logp)


def k3_negative(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """the sign is wrong: k3 is never negative"""
    return -k3(logp, logp_ref)


def k3_of_quotient(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """the log-probabilities are divided by each other: the ratio is that of the probabilities, exp of a difference"""
    ratio = logp_ref / logp
    return ratio - 1 - ratio.log()


def k3_averaged(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """this is the mean of all tokens: keep one estimate per token"""
    return k3(logp, logp_ref).mean()


LOGP = torch.tensor([[-0.5, -1.2, -3.0, -0.1], [-2.0, -0.7, -1.5, -0.9]])
LOGP_REF = torch.tensor([[-1.0, -1.1, -0.8, -2.5], [-2.2, -0.6, -2.4, -0.8]])

K3 = Exercise(
    name="k3",
    right=k3,
    mistakes=[k1, k1_backwards, k2, k3_backwards, k3_without_one, k3_without_log, k3_log_added, k3_negative,
              k3_of_quotient, k3_averaged],
    cases={
        "with equal models": {"logp": LOGP, "logp_ref": LOGP},
        "with different models": {"logp": LOGP, "logp_ref": LOGP_REF},
    },
)


# --- shaped reward ----------------------------------------------------------------------------------------------


def place_score(score: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """The score (B,) in one column of each row, place (B,), and 0 elsewhere: (B, T)."""
    return torch.zeros(mask.shape, device=score.device).scatter(1, place[:, None], score[:, None])


def penalty(logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    return -kl_coef * (logp - logp_ref).masked_fill(~mask, 0)


def score_in_last_column(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the score stands in the last column: it belongs on the last live token of each row, before the padding"""
    place = torch.full_like(mask[:, 0], mask.shape[1] - 1, dtype=torch.long)
    return place_score(score, place, mask) + penalty(logp, logp_ref, mask, kl_coef)


def score_one_early(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """off by one: the score stands on the token before the last live one, not on the last (the EOS)"""
    return place_score(score, (mask.sum(1) - 2).clamp(min=0), mask) + penalty(logp, logp_ref, mask, kl_coef)


def score_on_first(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the score stands on the first token: it belongs on the last live one"""
    return place_score(score, torch.zeros_like(mask.sum(1)), mask) + penalty(logp, logp_ref, mask, kl_coef)


def score_on_every_token(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the score stands on every token: add it once, on the last live token"""
    return score[:, None] * mask + penalty(logp, logp_ref, mask, kl_coef)


def score_spread(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the score is spread over the tokens: add all of it on the last live token"""
    return (score / mask.sum(1))[:, None] * mask + penalty(logp, logp_ref, mask, kl_coef)


def score_missing(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the score is missing: add it on the last live token of each row"""
    return penalty(logp, logp_ref, mask, kl_coef)


def score_replaces_penalty(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the score replaces the last token's KL cost: add it to that (+= instead of =)"""
    scores = place_score(score, mask.sum(1) - 1, mask)
    return torch.where(scores != 0, scores, penalty(logp, logp_ref, mask, kl_coef))


def kl_rewarded(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the sign of the KL is wrong (or its log ratio the wrong way round): tokens that the policy prefers should cost"""
    return shaped_rewards(score, logp_ref, logp, mask, kl_coef)


def coefficient_missing(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """kl_coef is missing: the KL is multiplied by it"""
    return shaped_rewards(score, logp, logp_ref, mask, 1.0)


def coefficient_on_score(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """kl_coef multiplies the score too: only the KL is multiplied by it"""
    return shaped_rewards(kl_coef * score, logp, logp_ref, mask, kl_coef)


def penalty_missing(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the KL is missing: every live token costs kl_coef * (logp - logp_ref)"""
    return shaped_rewards(score, logp, logp, mask, kl_coef)


def penalty_at_the_end(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the whole ending's KL stands on the last token: each token should carry its own"""
    return place_score(score + penalty(logp, logp_ref, mask, kl_coef).sum(1), mask.sum(1) - 1, mask)


def penalty_k3(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """the KL is estimated by k3: the reward uses k1, logp - logp_ref"""
    return shaped_rewards(score, k3(logp, logp_ref), torch.zeros_like(logp), mask, kl_coef)


REWARDED = {"score": torch.tensor([0.7, -1.3, 2.0]),
            "logp": torch.tensor([[-0.5, -1.2, -3.0, -25.0], [-0.1, -2.0, -0.7, -1.5], [-0.9, 8.0, -30.0, 5.0]]),
            "logp_ref": torch.tensor([[-1.0, -1.1, -0.8, -9.0], [-2.5, -2.2, -0.6, -2.4], [-0.4, -30.0, 6.0, -7.0]]),
            "mask": MASK}

SHAPED_REWARDS = Exercise(
    name="shaped rewards",
    right=shaped_rewards,
    mistakes=[score_in_last_column, score_one_early, score_on_first, score_on_every_token, score_spread, score_missing,
              score_replaces_penalty, kl_rewarded, coefficient_missing, coefficient_on_score, penalty_missing,
              penalty_at_the_end, penalty_k3],
    cases={
        "without padding": {"score": torch.tensor([1.5, -0.5]), "logp": LOGP, "logp_ref": LOGP_REF, "mask": FULL,
                            "kl_coef": 0.2},
        "with padding": {**REWARDED, "kl_coef": 0.1},
        "with kl_coef 0": {**REWARDED, "kl_coef": 0.0},
    },
)
