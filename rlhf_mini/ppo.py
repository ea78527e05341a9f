"""Proximal policy optimisation of a language model, with the KL from a frozen reference in the reward.

`ppo_iteration` is the whole algorithm on one page. B is prompts, T response tokens; a mask has any dtype and
is 1 on live response tokens, the EOS included. Left out on purpose, because nothing here needs them:
a warm-up, early stopping on KL, an entropy bonus.
Sources: Schulman et al. 2017 (PPO), Ziegler et al. 2019 (KL in the reward), Huang et al. 2024 (details).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from rlhf_mini import kl, team
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError, naming
from rlhf_mini.forward import uses_bf16
from rlhf_mini.health import check_policy
from rlhf_mini.kl import live, masked_mean, masked_sum, masked_whiten
from rlhf_mini.optimisers import clip_gradients
from rlhf_mini.policy import PolicyWithValue, PPOState, compare_to_reference, start_ppo
from rlhf_mini.sampling import Rollout, sample

__all__ = ["PPOState", "PolicyWithValue", "compare_to_reference", "gae", "policy_loss", "ppo_iteration",
           "shaped_rewards", "start_ppo", "train_ppo", "value_loss"]

Score = Callable[[Rollout], Tensor]  # what the endings are worth: rollout -> (B,)


def shaped_rewards(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The reward of each token: what its KL costs, plus the ending's score on the last live token.

    Shapes: score (B,), logp, logp_ref, mask (B, T) -> (B, T), 0 where masked.
    """
    penalty = -kl_coef * kl.estimate(live(logp, mask, "logp"), live(logp_ref, mask, "logp_ref"), "k1")
    last = mask.bool().sum(1, keepdim=True) - 1  # (B, 1): live tokens come first in a row
    is_last = mask.bool() & (torch.arange(mask.shape[1], device=mask.device) == last)
    return penalty + live(score[:, None].expand(mask.shape), is_last, "score")


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0,
        lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; nothing follows the last live token, and nothing is whitened.

    The customary `lam` is 0.95; runs of this package use 1 (`PPOConfig`).
    Shapes: (B, T) each -> advantages (B, T), returns (B, T), both 0 where masked.
    Source: Schulman et al. 2016, equation 16.
    """
    rewards, values = live(rewards, mask, "rewards"), live(values, mask, "values")
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # (B,)
    columns = []
    for t in reversed(range(mask.shape[1])):
        surprise = rewards[:, t] + gamma * next_value - values[:, t]
        here = mask[:, t].bool()
        next_advantage = torch.where(here, surprise + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
        columns.append(next_advantage)
    advantages = live(torch.stack(columns[::-1], 1), mask)
    return advantages, live(advantages + values, mask)


def policy_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2, *,
                denominator: float | None = None) -> Tensor:
    """The clipped surrogate loss, averaged over live tokens (or summed and divided by `denominator`).

    Shapes: (B, T) each -> scalar. Source: Schulman et al. 2017, equation 7, with the sign of a loss.
    """
    ratio = (live(logp, mask, "logp") - live(logp_old, mask, "logp_old")).exp()
    advantages = live(advantages, mask, "advantages")
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return masked_mean(losses, mask, denominator)


def value_loss(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2, *,
               denominator: float | None = None) -> Tensor:
    """Half the squared error of the values; moving more than `clip` from the old ones stops paying.

    Shapes: (B, T) each -> scalar, averaged like `policy_loss`.
    """
    values, values_old = live(values, mask, "values"), live(values_old, mask, "values_old")
    returns = live(returns, mask, "returns")
    clipped = values_old + (values - values_old).clamp(-clip, clip)
    losses = 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
    return masked_mean(losses, mask, denominator)


def adapt_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Raise the coefficient while the KL (nats per ending) is above the target, lower it while it is below.

    Source: Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


@dataclass(frozen=True)
class PPOIteration:
    """What one iteration did: the numbers to log, and the endings they came from."""

    stats: dict[str, float]
    rollout: Rollout


def train_ppo(state: PPOState, reference: nn.Module, score: Score, prompt_ids: Sequence[Sequence[int]],
              config: PPOConfig, eos_id: int, pad_id: int) -> Iterator[PPOIteration]:
    """Run the iterations that the state has not done yet; each changes the state and yields its record."""
    while state.iteration < config.iterations:
        yield ppo_iteration(state, reference, score, prompt_ids, config, eos_id, pad_id)


def ppo_iteration(state: PPOState, reference: nn.Module, score: Score, prompt_ids: Sequence[Sequence[int]],
                  config: PPOConfig, eos_id: int, pad_id: int) -> PPOIteration:
    """Sample, score, shape, estimate advantages, update: one iteration in the order things happen.

    Raises: InputError, with the iteration's number, where the policy diverges or a score is not a finite number.
    """
    started, number = time.perf_counter(), state.iteration + 1
    rate = anneal(state, config)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.iteration)
    prompts = choose_prompts(prompt_ids, config.episodes, generator)

    with naming(f"iteration {number}"):
        rollout = rollout_of(state.policy, prompts, config, eos_id, pad_id, generator)
        compare = partial(compare_to_reference, state.policy, reference, temperature=config.temperature)
        logp_ref, kl_exact, entropy = team.by_rows(compare, rollout)  # (B, T) each
        scores = live(team.by_rows(score, rollout).to(rollout.logp), rollout.mask.any(1), "score")  # (B,)

        rewards = shaped_rewards(scores, rollout.logp, logp_ref, rollout.mask, state.kl_coef)
        advantages, returns = gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)
        whitened = masked_whiten(advantages, rollout.mask)  # the returns, taken before, keep their scale

        updates = update(state, rollout, whitened, returns, config, generator)
        check_policy(state.policy, rollout, config.temperature)

    stats = statistics(rollout, scores, logp_ref, kl_exact, entropy, returns, state.kl_coef)
    state.iteration, state.episodes = number, state.episodes + len(scores)
    line = {"iteration": state.iteration, "episodes": state.episodes, **stats, "learning_rate": rate, **updates,
            "seconds": time.perf_counter() - started}
    if config.adaptive:
        state.kl_coef = adapt_kl_coef(state.kl_coef, stats["kl"], config.kl_target, len(scores), config.kl_horizon)
    return PPOIteration(line, rollout)


def statistics(rollout: Rollout, scores: Tensor, logp_ref: Tensor, kl_exact: Tensor, entropy: Tensor, returns: Tensor,
               kl_coef: float) -> dict[str, float]:
    """What the history says of a batch before it is learned from. Units: KLs in nats per ending, entropy per token."""
    kl_k1 = masked_sum(kl.estimate(rollout.logp, logp_ref, "k1"), rollout.mask)  # (B,) nats per ending
    return {
        "score": scores.mean().item(), "score_std": scores.std(correction=0).item(),
        "reward": (scores - kl_coef * kl_k1).mean().item(),
        "kl": masked_sum(kl_exact, rollout.mask).mean().item(), "kl_k1": kl_k1.mean().item(), "kl_coef": kl_coef,
        "entropy": masked_mean(entropy, rollout.mask).item(),
        "length": rollout.lengths.float().mean().item(), "ended": rollout.ended.float().mean().item(),
        "explained_variance": explained_variance(rollout.values, returns, rollout.mask)}


def rollout_of(policy: PolicyWithValue, prompts: Sequence[Sequence[int]], config: PPOConfig, eos_id: int, pad_id: int,
               generator: torch.Generator) -> Rollout:
    """One sampled ending per prompt, with the policy's log-probabilities and values.

    In bfloat16, sampling and updating round differently, so the old log-probabilities are computed as an update does.
    """
    rollout = sample(policy, prompts, max_new_tokens=config.max_new_tokens, temperature=config.temperature,
                     eos_id=eos_id, pad_id=pad_id, generator=generator)
    if not uses_bf16(policy):
        return rollout
    with torch.no_grad():
        logp, values = team.by_rows(partial(policy, temperature=config.temperature), rollout)
    return replace(rollout, logp=logp, values=values)


def anneal(state: PPOState, config: PPOConfig) -> float:
    """Set the learning rate, which falls in a line and would be 0 after the last iteration, and return it.

    The value head starts from nothing and may learn faster than the trunk. Source: Huang et al. 2024.
    """
    rate = config.learning_rate * max(0.0, 1 - state.iteration / config.iterations)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["times"]
    return rate


def choose_prompts(prompt_ids: Sequence[Sequence[int]], episodes: int,
                   generator: torch.Generator) -> list[Sequence[int]]:
    """Prompts in random order; none comes again before all others have come."""
    if not prompt_ids:
        raise InputError("there is no prompt to practise on: give at least one")
    rounds = -(-episodes // len(prompt_ids))
    order = torch.cat([torch.randperm(len(prompt_ids), generator=generator) for _ in range(rounds)])
    return [prompt_ids[i] for i in order[:episodes].tolist()]


def update(state: PPOState, rollout: Rollout, advantages: Tensor, returns: Tensor, config: PPOConfig,
           generator: torch.Generator) -> dict[str, float]:
    """Several epochs of clipped updates on one batch; returns the minibatches' mean statistics.

    Where the returns vary by more than a standard deviation of the score, as when a few endings pay for hundreds of
    nats, the value loss is divided by their variance: else its gradient drowns the policy's in the trunk they share.
    Source: van Hasselt et al. 2016, who scale the targets.
    """
    value_coef = config.value_coef / max(1.0, returns[rollout.mask].var().item())
    tokens_each = rollout.mask.sum().item() / config.minibatches  # one constant: every token weighs the same
    records: list[dict[str, float]] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.mask), generator=generator).to(returns.device)
        for rows in order.chunk(config.minibatches):
            records.append(step(state, rollout.select(rows), advantages[rows], returns[rows], config, value_coef,
                                tokens_each))
    return mean_of_steps(records)


def mean_of_steps(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """The means of what the steps measured; of the ratio only its first value, before any step."""
    stats = {name: sum(record[name] for record in records) / len(records) for name in records[0]}
    return {"ratio_first": records[0]["ratio"]} | {name: stats[name] for name in stats if name != "ratio"}


def step(state: PPOState, minibatch: Rollout, advantages: Tensor, returns: Tensor, config: PPOConfig,
         value_coef: float, denominator: float) -> dict[str, float]:
    """One gradient step on one minibatch, of which each process computes its share.

    Raises: InputError where the gradient is not a finite number; the policy is then left as it was.
    """
    tokens = minibatch.mask.sum().item()
    mine = team.share(torch.arange(len(minibatch.mask), device=returns.device))
    part, advantages, returns = minibatch.select(mine), advantages[mine], returns[mine]
    mask, logp_old, values_old = part.mask, part.logp, part.values
    logp, values = state.policy(part, config.temperature)
    loss_policy = policy_loss(logp, logp_old, advantages, mask, config.clip, denominator=denominator)
    loss_value = value_loss(values, values_old, returns, mask, config.value_clip, denominator=denominator)
    state.optimizer.zero_grad()
    (loss_policy + value_coef * loss_value).backward()
    grad_norm = clip_gradients(state.policy, config.max_grad_norm, state.iteration + 1,
                               state.optimizer.param_groups[0]["lr"])
    state.optimizer.step()

    with torch.no_grad():
        ratio = (logp - logp_old).exp()
        outside = ((ratio - 1).abs() > config.clip).float()
        approx_kl = kl.estimate(logp_old, logp, "k3")  # KL(old || new) on the old policy's samples
        measured = {
            "ratio": masked_mean(ratio, mask, tokens), "clip_fraction": masked_mean(outside, mask, tokens),
            "approx_kl": masked_mean(approx_kl, mask, tokens), "policy_loss": loss_policy, "value_loss": loss_value}
        summed = team.total(torch.stack(list(measured.values()))).tolist()
        return dict(zip(measured, summed, strict=True)) | {"grad_norm": grad_norm}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """The share of the returns' variance that the values predict: 1 is all, 0 no better than a constant."""
    left = (returns[mask] - values[mask]).var(correction=0)
    return (1 - left / returns[mask].var(correction=0).clamp(min=1e-8)).item()
