"""A world so small that all endings can be listed, so that the best possible policy is known.

Four tokens, endings of at most three, one prompt. A policy is worth J = E[reward] - beta * KL(policy || reference).
The best one is reference * exp(reward / beta), made to sum to 1, and is worth J* = beta * ln E_reference[exp(reward /
beta)]. N is endings, T tokens. Sources: Ziegler et al. 2019, equation 2; Korbak et al. 2022 for the optimum.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.kl import token_logprobs
from rlhf_mini.language_model import frozen_copy
from rlhf_mini.pretrain import new_language_model
from rlhf_mini.sampling import Rollout

VOCABULARY, LENGTH, PROMPT = 4, 3, [0]
NEVER = -1  # an EOS id that no token has: every ending has three tokens


@dataclass(frozen=True)
class TinyWorld:
    """All endings, with their log-probabilities under the reference and their rewards."""

    reference: Any  # a frozen language model
    tokens: Tensor  # (N, T), 0 where masked
    mask: Tensor  # (N, T) bool, the EOS included
    logp_ref: Tensor  # (N,) nats per ending
    reward: Tensor  # (N,) mean 0 and standard deviation 1 under the reference
    eos_id: int = NEVER

    def log_probabilities(self, model: Any) -> Tensor:
        """Log-probability of each whole ending, without a gradient. Shapes: -> (N,). Units: nats per ending."""
        with torch.no_grad():
            return token_log_probabilities(model, self.tokens, self.mask).sum(1)

    def objective(self, logp: Tensor, beta: float) -> float:
        """J of the policy that gives the endings these log-probabilities. Shapes: (N,) -> a number."""
        return (logp.exp() * (self.reward - beta * (logp - self.logp_ref))).sum().item()

    def optimum(self, beta: float) -> tuple[Tensor, float]:
        """Log-probabilities (N,) of the best policy, and its J: no policy has a higher one."""
        best = beta * (self.logp_ref + self.reward / beta).logsumexp(0)
        return self.logp_ref + (self.reward - best) / beta, best.item()

    def score(self, rollout: Rollout) -> Tensor:
        """The rewards of sampled endings, looked up in the table: a perfect reward model. Shapes: -> (B,)."""
        reward_of = torch.full(((VOCABULARY + 1) ** LENGTH,), torch.nan, dtype=self.reward.dtype)
        reward_of[number(self.tokens, self.mask)] = self.reward
        return reward_of[number(rollout.tokens.cpu(), rollout.mask.cpu())]


def tiny_world(eos_id: int = NEVER) -> TinyWorld:
    """The world whose endings stop after the token `eos_id`; without one it has 4 * 4 * 4 = 64 endings."""
    tokens, mask = all_endings(eos_id)
    reference = make_reference()
    logp_ref = token_log_probabilities(reference, tokens, mask).sum(1)
    return TinyWorld(reference, tokens, mask, logp_ref, make_rewards(logp_ref), eos_id)


def all_endings(eos_id: int = NEVER) -> tuple[Tensor, Tensor]:
    """All endings: tokens (N, T) and mask (N, T)."""
    endings = {}
    for tokens in itertools.product(range(VOCABULARY), repeat=LENGTH):
        length = tokens.index(eos_id) + 1 if eos_id in tokens else LENGTH
        endings[tokens[:length]] = length
    rows = torch.tensor([list(ending) + [0] * (LENGTH - len(ending)) for ending in endings])
    return rows, torch.arange(LENGTH) < torch.tensor(list(endings.values()))[:, None]


def token_log_probabilities(model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each token, by one forward pass, in double precision and with the model's gradient.

    Shapes: (N, T), (N, T) -> (N, T), 0 where masked.
    """
    rows = torch.cat([torch.tensor([PROMPT]).expand(len(tokens), -1), tokens], 1).to(model.device)
    logits = model(rows, attention_mask=torch.ones_like(rows)).logits[:, len(PROMPT) - 1:-1]  # (N, T, V)
    return token_logprobs(logits.cpu().double(), tokens) * mask


def make_reference() -> Any:
    """A one-layer GPT-2 with random weights, scaled up so that its distribution is not nearly uniform."""
    model = new_language_model(VOCABULARY, eos_id=0, pad_id=0, n_layer=1, n_head=2, n_embd=64, n_positions=8, seed=1)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(2)
    return frozen_copy(model)


def make_rewards(logp_ref: Tensor) -> Tensor:
    """One number per ending, with mean 0 and standard deviation 1 under the reference. Shapes: (N,) -> (N,)."""
    reward = torch.randn(len(logp_ref), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reward = reward - (logp_ref.exp() * reward).sum()
    return reward / (logp_ref.exp() * reward.square()).sum().sqrt()


def number(tokens: Tensor, mask: Tensor) -> Tensor:
    """A different number for each ending. Shapes: (N, T) -> (N,)."""
    digits = torch.where(mask, tokens + 1, 0)
    return digits @ (VOCABULARY + 1) ** torch.arange(tokens.shape[1])
