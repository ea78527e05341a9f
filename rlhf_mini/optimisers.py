"""The optimisers of pretraining, fine-tuning and the reward model, and their learning rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_mini import team
from rlhf_mini.errors import InputError

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of x, x^3, x^5: steep at 0, so five steps do
NEWTON_SCHULZ_STEPS = 5
RMS_OF_ADAMW = 0.2  # the root mean square of AdamW's updates, to which Muon's are scaled


def muon_and_adamw(model: Any, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the layers, AdamW for embeddings, biases and layer norms.

    Scaled to AdamW's size of update, one learning rate serves both.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            inner = parameter.ndim == 2 and id(parameter) not in embeddings
            (matrices if inner else others).append(parameter)
    return [Muon(matrices, weight_decay=weight_decay),
            torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.95), fused=True)]


class Muon(torch.optim.Optimizer):
    """Momentum whose every update of a matrix is made equally large in all directions.

    `torch.optim.Muon` computes the same in bfloat16, which a CPU without instructions for it takes many times as
    long over; here it is done in the matrices' own precision, all matrices of one shape at once.
    Source: K. Jordan et al., "Muon" (2024); the size of the update is that of J. Liu et al., arXiv:2502.16982.
    """

    def __init__(self, matrices: Sequence[Tensor], lr: float = 1e-3, weight_decay: float = 0.0,
                 momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    direction = self._direction(matrix, matrix.grad, group["momentum"])
                    same_shape[matrix.shape].append((matrix, direction))
            for shape, pairs in same_shape.items():
                size = group["lr"] * RMS_OF_ADAMW * max(shape) ** 0.5
                updates = orthogonal(torch.stack([direction for _, direction in pairs]))
                for (matrix, _), update in zip(pairs, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=size)

    def _direction(self, matrix: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """The gradient averaged with the ones before it, looking one step ahead (Nesterov)."""
        average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Each matrix with its singular values moved close to 1, by Newton-Schulz steps. Shapes: (N, R, C) both."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (N, R, R)
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return x if wide is matrices else x.mT


def adamw(model: Any, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices but neither biases nor layer norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def clip_gradients(model: Any, max_norm: float, step: int, rate: float) -> float:
    """Add up the processes' gradients, shorten the whole to `max_norm` if it is longer, and return its norm before.

    Raises: InputError where the norm is not a finite number; the weights have not been touched then.
    """
    team.add_gradients(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm).item()
    if not math.isfinite(norm):
        raise InputError(f"the norm of the gradient is {norm} at step {step} (learning rate {rate:.1e}): lower the "
                         "learning rate; the weights of the step before are kept")
    return norm


def schedule(progress: float, warmup: float) -> float:
    """The learning rate's factor: up in a line over the warm-up, then down in a line to 0 at progress 1."""
    if progress < warmup:
        return max(progress, 0.05 * warmup) / warmup  # the first step, too, should move
    return max(0.0, (1 - progress) / (1 - warmup)) if warmup < 1 else 1.0


def set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> float:
    """Set the learning rate of every group, and return it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    return rate
