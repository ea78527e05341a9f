"""Exercises on keeping the scale: whitened advantages, and the coefficient that follows the KL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import FULL, MASK, Exercise, Result
from rlhf_mini.kl import masked_whiten
from rlhf_mini.ppo import adapt_kl_coef


def check_whiten(function: Any) -> Result:
    """Check f(x, mask): live tokens to mean 0 and (unbiased) variance 1, masked slots 0."""
    return check(WHITEN, function)


def check_adapt_kl_coef(function: Any) -> Result:
    """Check f(kl_coef, kl, target, episodes, horizon): the coefficient after one step of the controller."""
    return check(ADAPT_KL_COEF, function)


# --- whitening --------------------------------------------------------------------------------------------------


def whitened(x: Tensor, mask: Tensor, correction: int = 1, shift: float = 1.0, power: float = 0.5) -> Tensor:
    """Live tokens minus `shift` times their mean, divided by a power of their variance."""
    return (x - shift * x[mask].mean()) / (x[mask].var(correction=correction) + 1e-8) ** power


def biased_variance(x: Tensor, mask: Tensor) -> Tensor:
    """the variance is the biased one, divided by n: divide by n - 1 (correction=1)"""
    return whitened(x, mask, correction=0)


def mean_kept(x: Tensor, mask: Tensor) -> Tensor:
    """the mean is not subtracted: the live tokens should have mean 0"""
    return whitened(x, mask, shift=0.0)


def mean_added_back(x: Tensor, mask: Tensor) -> Tensor:
    """the mean is added again after scaling: the live tokens should have mean 0"""
    return masked_whiten(x, mask, shift_mean=False)


def only_centred(x: Tensor, mask: Tensor) -> Tensor:
    """only the mean is subtracted: divide by the standard deviation as well"""
    return whitened(x, mask, power=0.0)


def divided_by_variance(x: Tensor, mask: Tensor) -> Tensor:
    """it is divided by the variance: divide by its square root, the standard deviation"""
    return whitened(x, mask, power=1.0)


def whiten_mask_ignored(x: Tensor, mask: Tensor) -> Tensor:
    """the mask is ignored: mean and variance are taken over the padding too"""
    return whitened(x, torch.ones_like(mask))


def padding_counted(x: Tensor, mask: Tensor) -> Tensor:
    """the padding is set to 0 but still counted in mean and variance: divide by the number of live tokens"""
    return whitened(x.masked_fill(~mask, 0), torch.ones_like(mask))


def each_row(x: Tensor, mask: Tensor) -> Tensor:
    """each row is whitened by itself: take one mean and one variance over all live tokens of the batch"""
    return torch.cat([masked_whiten(x[i:i + 1], mask[i:i + 1]) for i in range(len(x))])


WHITEN = Exercise(
    name="whitening",
    right=masked_whiten,
    mistakes=[biased_variance, mean_kept, mean_added_back, only_centred, divided_by_variance, whiten_mask_ignored,
              padding_counted, each_row],
    cases={
        "without padding": {"x": torch.tensor([[1.0, 4.0, 2.0, 7.0], [0.5, 3.0, -2.0, 1.5]]), "mask": FULL},
        "with padding": {"x": torch.tensor([[2.0, -1.0, 0.5, 99.0], [3.0, 1.0, 4.0, 2.5], [-2.0, 60.0, -80.0, 7.0]]),
                         "mask": MASK},
    },
    extremes={
        "with equal numbers everywhere (0 / 0: add 1e-8 to the variance)": {"x": torch.full((2, 4), 3.0), "mask": FULL},
    },
)


# --- adaptive coefficient ---------------------------------------------------------------------------------------


def clipped(error: float, low: float = -0.2, high: float = 0.2) -> float:
    return min(max(error, low), high)


def unclipped(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the error is not clipped: clip it to [-0.2, 0.2], so that one unusual batch changes the coefficient little"""
    return kl_coef * (1 + (kl / target - 1) * episodes / horizon)


def clipped_above_only(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the error is clipped above only: it should not go below -0.2 either"""
    return kl_coef * (1 + min(kl / target - 1, 0.2) * episodes / horizon)


def clipped_below_only(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the error is clipped below only: it should not go above 0.2 either"""
    return kl_coef * (1 + max(kl / target - 1, -0.2) * episodes / horizon)


def clipped_too_late(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the clip comes too late: clip the error alone, then multiply it by episodes / horizon"""
    return kl_coef * (1 + clipped((kl / target - 1) * episodes / horizon))


def subtracted(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the direction is wrong: a KL above the target should raise the coefficient"""
    return kl_coef * (1 - clipped(kl / target - 1) * episodes / horizon)


def target_over_kl(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the ratio is upside down: the error is kl / target - 1"""
    return kl_coef * (1 + clipped(target / kl - 1) * episodes / horizon)


def one_missing(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the error lacks its - 1: on target, kl / target is 1 and the error 0"""
    return kl_coef * (1 + clipped(kl / target) * episodes / horizon)


def not_relative(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the error is not divided by the target: it is kl / target - 1, a share, not nats"""
    return kl_coef * (1 + clipped(kl - target) * episodes / horizon)


def horizon_forgotten(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """episodes / horizon is missing: multiply the error by the share of the horizon that has passed"""
    return kl_coef * (1 + clipped(kl / target - 1))


def episodes_forgotten(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the episodes are missing: the error is multiplied by episodes / horizon, not by 1 / horizon"""
    return kl_coef * (1 + clipped(kl / target - 1) / horizon)


def horizon_over_episodes(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """horizon / episodes is upside down: a batch is a small share of the horizon"""
    return kl_coef * (1 + clipped(kl / target - 1) * horizon / episodes)


def added(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """the change is added to the coefficient: multiply, kl_coef * (1 + change), so that it never gets negative"""
    return kl_coef + clipped(kl / target - 1) * episodes / horizon


def factor_only(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """this is the factor alone: multiply kl_coef by it"""
    return 1 + clipped(kl / target - 1) * episodes / horizon


ADAPT_KL_COEF = Exercise(
    name="adaptive KL coefficient",
    right=adapt_kl_coef,
    mistakes=[unclipped, clipped_above_only, clipped_below_only, clipped_too_late, subtracted, target_over_kl,
              one_missing, not_relative, horizon_forgotten, episodes_forgotten, horizon_over_episodes, added,
              factor_only],
    cases={
        "on target": {"kl_coef": 0.3, "kl": 6.0, "target": 6.0, "episodes": 64, "horizon": 256},
        "a little above the target": {"kl_coef": 0.3, "kl": 6.6, "target": 6.0, "episodes": 64, "horizon": 256},
        "a little below the target": {"kl_coef": 0.3, "kl": 5.4, "target": 6.0, "episodes": 64, "horizon": 256},
        "far above the target": {"kl_coef": 0.3, "kl": 30.0, "target": 6.0, "episodes": 64, "horizon": 256},
        "far below the target": {"kl_coef": 0.3, "kl": 0.5, "target": 6.0, "episodes": 64, "horizon": 256},
    },
)
