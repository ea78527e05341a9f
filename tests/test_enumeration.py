"""PPO against the exact optimum, in worlds so small that every ending can be written down.

With a penalty of beta * KL(policy || reference), the best policy is reference * exp(reward / beta), made
to sum to 1, and worth J* = beta * ln E_reference[exp(reward / beta)]. No policy may be worth more; PPO
comes close.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_mini.config import PPOConfig
from rlhf_mini.kl import token_logprobs
from rlhf_mini.language_model import frozen_copy, new_language_model
from rlhf_mini.ppo import start_ppo, train_ppo

VOCABULARY, LENGTH, PROMPT = 4, 3, [0]
NEVER = -1  # an EOS id that no token has


def all_endings(eos_id: int) -> tuple[Tensor, Tensor]:
    """Every ending there is: tokens (N, 3) and mask (N, 3)."""
    endings = {}
    for tokens in itertools.product(range(VOCABULARY), repeat=LENGTH):
        length = tokens.index(eos_id) + 1 if eos_id in tokens else LENGTH
        endings[tokens[:length]] = length
    rows = torch.tensor([list(ending) + [0] * (LENGTH - len(ending)) for ending in endings])
    return rows, torch.arange(LENGTH) < torch.tensor(list(endings.values()))[:, None]


@torch.no_grad()
def log_probabilities(model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Of each whole ending, (N,), by one plain forward pass in double precision."""
    prompt = torch.tensor([PROMPT]).expand(len(tokens), -1)
    logits = model(torch.cat([prompt, tokens], 1)).logits[:, len(PROMPT) - 1 : -1].double()
    return (token_logprobs(logits, tokens) * mask).sum(1)


def make_reference() -> Any:
    model = new_language_model(
        VOCABULARY, eos_id=0, pad_id=0, n_layer=1, n_head=2, n_embd=64, n_positions=8, seed=1
    )
    with torch.no_grad():
        model.transformer.wte.weight.mul_(4)  # away from uniform
    return frozen_copy(model)


def make_rewards(logp_ref: Tensor) -> Tensor:
    """One number per ending, with mean 0 and standard deviation 1 under the reference."""
    reward = torch.randn(len(logp_ref), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reward = reward - (logp_ref.exp() * reward).sum()
    return reward / (logp_ref.exp() * reward.square()).sum().sqrt()


def number(tokens: Tensor, mask: Tensor) -> Tensor:
    """Different endings have different numbers: (N, T) -> (N,)."""
    digits = torch.where(mask, tokens + 1, 0)
    return digits @ (VOCABULARY + 1) ** torch.arange(tokens.shape[1])


@pytest.mark.parametrize(
    "eos_id, count", [(NEVER, 64), (3, 1 + 3 + 9 * 4)], ids=["four_tokens", "three_and_eos"]
)
def test_the_worlds_are_complete(eos_id: int, count: int) -> None:
    tokens, mask = all_endings(eos_id)
    assert len(tokens) == len(number(tokens, mask).unique()) == count
    assert log_probabilities(make_reference(), tokens, mask).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("eos_id", [NEVER, 3], ids=["four_tokens", "three_and_eos"])
def test_ppo_approaches_the_optimum_and_never_passes_it(eos_id: int, beta: float) -> None:
    tokens, mask = all_endings(eos_id)
    reference = make_reference()
    logp_ref = log_probabilities(reference, tokens, mask)
    reward = make_rewards(logp_ref)
    worth_of = torch.full(((VOCABULARY + 1) ** LENGTH,), math.nan)
    worth_of[number(tokens, mask)] = reward.float()

    def worth(policy: Any) -> float:
        logp = log_probabilities(policy, tokens, mask)
        return (logp.exp() * (reward - beta * (logp - logp_ref))).sum().item()

    start, best = worth(reference), beta * (logp_ref + reward / beta).logsumexp(0).item()
    assert start == pytest.approx(0, abs=1e-6) and best > 0.1
    config = PPOConfig(
        iterations=45, episodes=1024, max_new_tokens=LENGTH, learning_rate=1.5e-3, lam=1.0, kl_coef=beta,
        temperature=1.0,
    )
    state = start_ppo(reference, config)
    for _ in train_ppo(
        state,
        reference,
        lambda rollout: worth_of[number(rollout.tokens, rollout.mask)],
        [PROMPT],
        config,
        eos_id,
        pad_id=0,
    ):
        assert worth(state.policy.language_model) <= best + 1e-6
    assert worth(state.policy.language_model) >= start + 0.95 * (best - start)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_optimum_is_the_tilted_reference(beta: float) -> None:
    """J of reference * exp(reward / beta), normalised, is J*; every policy mixed with it is worth less."""
    tokens, mask = all_endings(NEVER)
    logp_ref = log_probabilities(make_reference(), tokens, mask)
    reward = make_rewards(logp_ref)
    best = beta * (logp_ref + reward / beta).logsumexp(0)
    logp_best = logp_ref + (reward - best) / beta

    def worth(logp: Tensor) -> float:
        return (logp.exp() * (reward - beta * (logp - logp_ref))).sum().item()

    assert worth(logp_best) == pytest.approx(best.item(), abs=1e-9)
    for share in (0.01, 0.5, 1.0):
        assert worth(((1 - share) * logp_best.exp() + share * logp_ref.exp()).log()) < best.item()
