"""Exercises on a run: the KL of an ending, best of n, and the best score that a price allows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import FULL, MASK, Exercise, Result
from rlhf_mini.sampling import best_of_n_index


def check_kl_per_ending(function: Any) -> Result:
    """Check f(logp, logp_ref, mask), (B, T) each -> (B,): k1, summed over the live tokens of each ending."""
    return check(KL_PER_ENDING, function)


def check_best_of_n(function: Any) -> Result:
    """Check f(scores, n), (N,) -> (N / n,): the places of the best of every n candidates in a row."""
    return check(BEST_OF_N, function)


def check_best_score(function: Any) -> Result:
    """Check f(scores, kl_coef), (P, K) -> (P,): the mean score under the best policy at one price."""
    return check(BEST_SCORE, function)


# --- KL of an ending ------------------------------------------------------------------------------------------------


def kl_per_ending(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    return kl.masked_sum(kl.estimate(logp, logp_ref, "k1"), mask)


def mean_over_tokens(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """this is the mean over the live tokens: nats per ending are their sum"""
    return kl_per_ending(logp, logp_ref, mask) / mask.sum(1)


def ending_mask_ignored(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """the mask is ignored: the padding is summed too"""
    return (logp - logp_ref).sum(1)


def reference_minus_policy(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """the sign is turned: k1 is the policy's log-probability minus the reference's"""
    return -kl_per_ending(logp, logp_ref, mask)


def multiplied_by_mask(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """the padding is multiplied by 0, but infinity times 0 is nan: take torch.where(mask, ..., 0.0), then the sum"""
    return ((logp - logp_ref) * mask).sum(1)


def mean_over_endings(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """this is one number, the mean over the batch: return one number for each ending"""
    return kl_per_ending(logp, logp_ref, mask).mean()


KL_PER_ENDING = Exercise(
    name="KL per ending",
    right=kl_per_ending,
    mistakes=[mean_over_tokens, ending_mask_ignored, reference_minus_policy, mean_over_endings,
              multiplied_by_mask],
    cases={
        "without padding": {"logp": torch.tensor([[-1.0, -0.5, -2.0, -0.1], [-0.2, -3.0, -1.0, -0.4]]),
                            "logp_ref": torch.tensor([[-1.5, -0.5, -1.0, -0.6], [-0.1, -4.5, -1.0, -0.9]]),
                            "mask": FULL},
        "with padding": {"logp": torch.tensor([[-1.0, -0.5, -2.0, 50.0], [-0.2, -3.0, -1.0, -0.4],
                                               [-0.7, 9.0, -30.0, 2.0]]),
                         "logp_ref": torch.tensor([[-1.5, -0.25, -1.0, 7.0], [-0.1, -4.5, -1.0, -0.9],
                                                   [-2.2, -5.0, 40.0, 1.0]]),
                         "mask": MASK},
    },
    extremes={
        "with infinity in the padding": {
            "logp": torch.tensor([[-1.0, -0.5, -2.0, -torch.inf], [-0.2, -3.0, -1.0, -0.4],
                                  [-0.7, torch.inf, -torch.inf, 0.0]]),
            "logp_ref": torch.tensor([[-1.5, -0.25, -1.0, 0.0], [-0.1, -4.5, -1.0, -0.9],
                                      [-2.2, 0.0, -torch.inf, -torch.inf]]),
            "mask": MASK},
    },
)


# --- best of n ------------------------------------------------------------------------------------------------------


def best_of_n(scores: Tensor, n: int) -> Tensor:
    rows = scores.view(-1, n)
    return torch.arange(len(rows), device=scores.device) * n + best_of_n_index(rows)


def best_of_all(scores: Tensor, n: int) -> Tensor:
    """this is the best of all candidates: choose one of every n, n for each prompt"""
    return scores.argmax()


def worst_of_n(scores: Tensor, n: int) -> Tensor:
    """these are the candidates with the lowest scores: take argmax, not argmin"""
    return best_of_n(-scores, n)


def place_in_group(scores: Tensor, n: int) -> Tensor:
    """these are places within each group, from 0 to n - 1: add n times the group's number, for a place in the row"""
    return scores.view(-1, n).argmax(1)


def best_scores(scores: Tensor, n: int) -> Tensor:
    """these are the highest scores: return the places where they stand"""
    return scores.view(-1, n).amax(1)


def groups_by_stride(scores: Tensor, n: int) -> Tensor:
    """the groups are wrong: candidates of one prompt stand next to each other, so view(-1, n), not view(n, -1)"""
    count = len(scores) // n
    return scores.view(n, count).argmax(0) * count + torch.arange(count)


def view_turned(scores: Tensor, n: int) -> Tensor:
    """view(n, -1) makes n rows: take view(-1, n), so that each row holds the n candidates of one prompt"""
    rows = scores.view(n, -1)
    return rows.argmax(1) + n * torch.arange(len(rows))


BEST_OF_N = Exercise(
    name="best of n",
    right=best_of_n,
    mistakes=[best_of_all, worst_of_n, place_in_group, best_scores, groups_by_stride, view_turned],
    cases={
        "with n = 3 and two prompts": {"scores": torch.tensor([0.5, 2.0, 1.0, -3.0, -0.2, -1.0]), "n": 3},
        "with n = 2 and four prompts": {"scores": torch.tensor([1.0, 0.0, 4.0, 5.0, -2.0, -1.5, 3.0, 0.1]), "n": 2},
        "with n = 1": {"scores": torch.tensor([0.3, -0.3, 1.0]), "n": 1},
    },
)


# --- the best policy at a price -------------------------------------------------------------------------------------


def best_score(scores: Tensor, kl_coef: float) -> Tensor:
    from rlhf_mini.teaching.frontier import best_policy  # here, because it imports matplotlib

    return best_policy(scores, kl_coef).score


def no_weights(scores: Tensor, kl_coef: float) -> Tensor:
    """this is the plain mean, the reference's: give each ending the weight exp(score / kl_coef)"""
    return scores.mean(1)


def price_missing(scores: Tensor, kl_coef: float) -> Tensor:
    """the price of the KL is left out: divide the scores by kl_coef before the softmax"""
    return (scores.softmax(1) * scores).sum(1)


def times_the_price(scores: Tensor, kl_coef: float) -> Tensor:
    """the scores are multiplied by the price: divide, since a lower price lets the policy move further"""
    return ((scores * kl_coef).softmax(1) * scores).sum(1)


def over_openings(scores: Tensor, kl_coef: float) -> Tensor:
    """the weights sum to 1 over the openings: let those of one opening, which is a row, sum to 1"""
    return ((scores / kl_coef).softmax(0) * scores).sum(1)


def over_everything(scores: Tensor, kl_coef: float) -> Tensor:
    """the weights of all openings together sum to 1: let those of one opening, which is a row, sum to 1"""
    return ((scores / kl_coef).flatten().softmax(0).view(scores.shape) * scores).sum(1)


def highest_only(scores: Tensor, kl_coef: float) -> Tensor:
    """this is the highest score, whatever the price: take the weighted mean"""
    return scores.amax(1)


def weights_not_normalised(scores: Tensor, kl_coef: float) -> Tensor:
    """the weights do not sum to 1: divide by their sum, or use softmax"""
    return ((scores / kl_coef).exp() * scores).sum(1)


def objective_itself(scores: Tensor, kl_coef: float) -> Tensor:
    """this is J*, the score minus the price of the KL: the mean score alone is asked for"""
    return kl_coef * (scores / kl_coef).exp().mean(1).log()


OPENINGS = torch.tensor([[0.0, 1.0, 0.5], [-1.0, 2.0, 0.3]])
BEST_SCORE = Exercise(
    name="best score at a price",
    right=best_score,
    mistakes=[no_weights, price_missing, times_the_price, over_openings, over_everything, highest_only,
              weights_not_normalised, objective_itself],
    cases={"at a price of 0.5": {"scores": OPENINGS, "kl_coef": 0.5},
           "at a price of 2": {"scores": OPENINGS, "kl_coef": 2.0}},
    extremes={"at a price of 0.001 (exp gives infinity: use softmax)": {"scores": OPENINGS, "kl_coef": 0.001}},
)
