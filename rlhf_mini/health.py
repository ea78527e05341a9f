"""Stop a training that has diverged, with one line that says where and what to do; nothing later could repair it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.errors import InputError


def check_loss(loss: float, step: int, rate: float) -> None:
    """Raises: InputError where a loss is no finite number, which no later step could repair."""
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} at step {step} (learning rate {rate:.1e}): lower the learning rate")


def check_finite(logp: Tensor, mask: Tensor) -> None:
    """Raises: InputError naming the first sample whose log-probability is not a finite number."""
    broken = (~logp.isfinite() & mask).nonzero()
    if len(broken):
        row, place = broken[0].tolist()
        raise InputError(f"token {place + 1} of sample {row + 1} has the log-probability {logp[row, place].item()}: "
                         "the policy has diverged; lower the learning rate and start from its last good state (or "
                         "raise a temperature that is near 0)")


@torch.no_grad()
def check_policy(policy: Any, rollout: Any, temperature: float) -> None:
    """Raises: InputError where the policy gives the first ending a log-probability that is not a finite number."""
    one = rollout.select(torch.zeros(1, dtype=torch.long))
    check_finite(policy(one, temperature)[0], one.mask)
