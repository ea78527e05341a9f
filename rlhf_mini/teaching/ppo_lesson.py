"""What notebook 05 lets run: numbers rounded for reading, a made-up controller, and PPO in the world of 64 endings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_mini import ppo
from rlhf_mini.config import PPOConfig
from rlhf_mini.language_model import encode_endings
from rlhf_mini.rankings import load_rankings
from rlhf_mini.teaching import tiny_world
from rlhf_mini.teaching.tiny_world import TinyWorld


def rounded(x: Tensor, digits: int = 3) -> Any:
    """A tensor as lists of rounded numbers; + 0.0 makes 0 of -0."""
    return [rounded(row, digits) for row in x] if x.ndim else round(x.item(), digits) + 0.0


def ending_lengths(rankings: Path, tokenizer: Any, records: int = 100) -> tuple[list[int], list[str]]:
    """How many tokens the ranked endings have, the EOS included, and the opening of each."""
    chosen = load_rankings(rankings)[:records]
    endings = [ending for record in chosen for ending in record.completions]
    openings = [record.prompt for record in chosen for _ in record.completions]
    return [len(row) for row in encode_endings(tokenizer, endings)], openings


def controlled_run(kl_coef: float, target: float, iterations: int = 250) -> tuple[list[float], list[float]]:
    """KL and coefficient of a made-up run in which each iteration goes a tenth of the way to a KL of 1 / kl_coef."""
    nats, found, coefficients = 0.0, [], []
    for _ in range(iterations):
        nats += 0.1 * (1 / kl_coef - nats)
        kl_coef = ppo.adapt_kl_coef(kl_coef, nats, target, episodes=128, horizon=1280)
        found.append(nats)
        coefficients.append(kl_coef)
    return found, coefficients


def train_in_world(world: TinyWorld, beta: float, **changed: Any) -> Iterator[tuple[float, Tensor]]:
    """PPO in the small world: after each iteration beta, and the log-probabilities of all endings, (N,).

    What is `changed` replaces a setting of `PPOConfig`, for instance `lam=0.0` or `clip=10.0`.
    """
    settings: dict[str, Any] = {"iterations": 60, "episodes": 512, "max_new_tokens": tiny_world.LENGTH,
                                "temperature": 1.0, "learning_rate": 1e-3, "kl_coef": beta, "seed": 0}
    config = PPOConfig(**{**settings, **changed})
    state = ppo.start_ppo(world.reference, config)
    for _ in ppo.train_ppo(state, world.reference, world.score, [tiny_world.PROMPT], config, world.eos_id, pad_id=0):
        yield beta, world.log_probabilities(state.policy.language_model)


def share_of_best(world: TinyWorld, beta: float, logp: Tensor) -> float:
    """J of these log-probabilities as a share of J*; J of the reference is 0."""
    return world.objective(logp, beta) / world.optimum(beta)[1]


def slope_by_logp(loss_of: Callable[..., Tensor], ratio: float, advantage: float) -> tuple[float, float]:
    """A policy loss of one token at this ratio and advantage, and its gradient with respect to logp."""
    one = torch.ones(1)
    logp = torch.tensor([ratio]).log().requires_grad_()
    loss = loss_of(logp, torch.zeros(1), advantage * one, one, 0.2)
    return loss.item(), torch.autograd.grad(loss, logp)[0].item()
