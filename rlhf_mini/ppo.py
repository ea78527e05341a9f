"""Proximal policy optimisation of a language model, with the KL from a frozen reference in the reward.

`ppo_iteration` is the whole algorithm on one page. B is prompts, T response tokens; a mask has any dtype and
is 1 on live response tokens, the EOS included. Left out on purpose, because nothing here needs them:
a warm-up, early stopping on KL, an entropy bonus.
Sources: Schulman et al. 2017 (PPO), Ziegler et al. 2019 (KL in the reward), Huang et al. 2024 (details).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf_mini import kl
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.kl import live, masked_mean, masked_sum, masked_whiten
from rlhf_mini.sampling import Rollout, response_hidden, sample, trunk_and_head

Score = Callable[[Rollout], Tensor]  # what the endings are worth: rollout -> (B,)


def shaped_rewards(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The reward of each token: what its KL costs, plus the ending's score on the last live token.

    Shapes: score (B,), logp, logp_ref, mask (B, T) -> (B, T), 0 where masked.
    """
    penalty = -kl_coef * kl.estimate(live(logp, mask, "logp"), live(logp_ref, mask, "logp_ref"), "k1")
    last = mask.bool() & (mask.bool().long().flip(1).cumsum(1).flip(1) == 1)
    return penalty + live(score[:, None].expand(mask.shape), last, "score")


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


class PolicyWithValue(nn.Module):
    """A causal language model and a value head on its last hidden states: one trunk, two readings."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model
        head: Any = trunk_and_head(language_model)[1]
        self.value_head = nn.Linear(head.weight.shape[1], 1).to(head.weight)
        nn.init.zeros_(self.value_head.weight)  # knows nothing: with λ = 1 its first advantages are the rewards to come
        nn.init.zeros_(self.value_head.bias)

    def forward(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of the live tokens, (B, T) and (B, T), 0 where masked."""
        hidden = response_hidden(self, rollout)[rollout.mask]  # (N, D): logits only where they are used
        logits = trunk_and_head(self)[1](hidden)  # (N, V)
        logp = kl.token_logprobs(logits, rollout.tokens[rollout.mask], temperature)
        return spread(logp, rollout.mask), spread(self.value_head(hidden).squeeze(-1).float(), rollout.mask)


def spread(x: Tensor, mask: Tensor) -> Tensor:
    """Put the N live numbers back in their places: (N,) -> (B, T), 0 where masked."""
    return torch.zeros(mask.shape, device=x.device, dtype=x.dtype).masked_scatter(mask, x)


@dataclass
class PPOState:
    """All that one iteration hands to the next; saved and loaded to the last bit."""

    policy: PolicyWithValue
    optimizer: torch.optim.Adam
    kl_coef: float
    iteration: int = 0  # iterations done; also the seed of the next, so no random state is kept
    episodes: int = 0  # endings sampled so far

    FILE = "ppo_state.safetensors"

    def tensors(self) -> dict[str, Tensor]:
        """Every number that training changes, by name: parameters and Adam's moments, not copies."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.policy.named_parameters():
            named[f"policy.{name}"] = parameter.data
            named |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return named

    def save(self, folder: Path | str) -> None:
        """Write one file into the folder; a crash while writing leaves the old one whole."""
        path = Path(folder) / self.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        counters = {"kl_coef": self.kl_coef, "iteration": self.iteration, "episodes": self.episodes}
        unfinished = path.with_suffix(".tmp")
        save_file({name: tensor.contiguous() for name, tensor in self.tensors().items()}, unfinished,
                  metadata={"counters": json.dumps(counters)})
        unfinished.replace(path)

    def load(self, folder: Path | str) -> None:
        """Take over the state saved in the folder, for the same language model.

        Raises: InputError if there is none, or if it belongs to another model.
        """
        path = Path(folder) / self.FILE
        here = self.tensors()
        try:
            with safe_open(path, "pt") as file:
                metadata, names = file.metadata(), list(file.keys())
                saved = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read ({error}): give a folder PPOState.save wrote") from error
        if {name: x.shape for name, x in here.items()} != {name: x.shape for name, x in saved.items()}:
            raise InputError(f"{path} holds another model's state: give the language model it was saved with")
        for name, tensor in here.items():
            tensor.copy_(saved[name])
        for name, value in json.loads(metadata["counters"]).items():
            setattr(self, name, value)


@dataclass(frozen=True)
class PPOIteration:
    """What one iteration did: the numbers to log, and the endings they came from."""

    stats: dict[str, float]
    rollout: Rollout


def start_ppo(language_model: nn.Module, config: PPOConfig) -> PPOState:
    """A state at iteration 0; the language model is copied, so the one given can serve as the reference."""
    policy = PolicyWithValue(copy.deepcopy(language_model)).requires_grad_(True).eval()  # eval: dropout off
    groups = [{"params": list(policy.language_model.parameters()), "times": 1.0},
              {"params": list(policy.value_head.parameters()), "times": config.value_head_rate}]
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, eps=config.adam_eps)
    for parameter in policy.parameters():  # so that a new state has all the tensors of a saved one
        optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(parameter),
                                      "exp_avg_sq": torch.zeros_like(parameter)}
    return PPOState(policy, optimizer, config.kl_coef)


def train_ppo(state: PPOState, reference: nn.Module, score: Score, prompt_ids: Sequence[Sequence[int]],
              config: PPOConfig, eos_id: int, pad_id: int) -> Iterator[PPOIteration]:
    """Run the iterations that the state has not done yet; each changes the state and yields its record."""
    while state.iteration < config.iterations:
        yield ppo_iteration(state, reference, score, prompt_ids, config, eos_id, pad_id)


def ppo_iteration(state: PPOState, reference: nn.Module, score: Score, prompt_ids: Sequence[Sequence[int]],
                  config: PPOConfig, eos_id: int, pad_id: int) -> PPOIteration:
    """Sample, score, shape, estimate advantages, update: one iteration in the order things happen."""
    started = time.perf_counter()
    rate = anneal(state, config)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.iteration)
    prompts = choose(prompt_ids, config.episodes, generator)

    rollout = sample(state.policy, prompts, max_new_tokens=config.max_new_tokens,
                     temperature=config.temperature, eos_id=eos_id, pad_id=pad_id, generator=generator)
    logp_ref, kl_exact, entropy = compare(state.policy, reference, rollout, config.temperature)
    scores = score(rollout).to(rollout.logp)  # (B,)

    assert rollout.values is not None  # a PolicyWithValue always gives them
    rewards = shaped_rewards(scores, rollout.logp, logp_ref, rollout.mask, state.kl_coef)
    advantages, returns = gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)
    whitened = masked_whiten(advantages, rollout.mask)  # after the returns are taken: they keep their scale

    updates = update(state, rollout, whitened, returns, config, generator)

    kl_k1 = masked_sum(kl.estimate(rollout.logp, logp_ref, "k1"), rollout.mask)  # (B,) nats per ending
    kl_mean = masked_sum(kl_exact, rollout.mask).mean().item()
    state.iteration += 1
    state.episodes += len(scores)
    stats = {
        "iteration": state.iteration, "episodes": state.episodes,
        "score": scores.mean().item(), "score_std": scores.std(correction=0).item(),
        "reward": (scores - state.kl_coef * kl_k1).mean().item(),
        "kl": kl_mean, "kl_k1": kl_k1.mean().item(), "kl_coef": state.kl_coef,
        "entropy": masked_mean(entropy, rollout.mask).item(),
        "length": rollout.lengths.float().mean().item(), "ended": rollout.ended.float().mean().item(),
        "explained_variance": explained_variance(rollout.values, returns, rollout.mask),
        "learning_rate": rate, **updates, "seconds": time.perf_counter() - started,
    }
    if config.adaptive:
        state.kl_coef = adapt_kl_coef(state.kl_coef, kl_mean, config.kl_target, len(scores),
                                      config.kl_horizon)
    return PPOIteration(stats, rollout)


def anneal(state: PPOState, config: PPOConfig) -> float:
    """Set the learning rate, which falls in a line and would be 0 after the last iteration, and return it.

    The value head starts from nothing and may learn faster than the trunk. Source: Huang et al. 2024.
    """
    rate = config.learning_rate * max(0.0, 1 - state.iteration / config.iterations)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["times"]
    return rate


def choose(prompt_ids: Sequence[Sequence[int]], episodes: int,
           generator: torch.Generator) -> list[Sequence[int]]:
    """Prompts in random order; none comes again before all others have come."""
    if not prompt_ids:
        raise InputError("there is no prompt to practise on: give at least one")
    rounds = -(-episodes // len(prompt_ids))
    order = torch.cat([torch.randperm(len(prompt_ids), generator=generator) for _ in range(rounds)])
    return [prompt_ids[i] for i in order[:episodes].tolist()]


@torch.no_grad()
def compare(policy: nn.Module, reference: nn.Module, rollout: Rollout,
            temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The reference's log-probabilities of the policy's endings, the exact KL, and the policy's entropy.

    Shapes: -> (B, T) each, 0 where masked. Units: nats per token.
    """
    mask = rollout.mask
    logits = trunk_and_head(policy)[1](rollout.hidden[mask]) / temperature  # (N, V)
    logits_ref = trunk_and_head(reference)[1](response_hidden(reference, rollout)[mask]) / temperature
    logp_ref = kl.token_logprobs(logits_ref, rollout.tokens[mask])
    kl_exact, entropy = kl.exact(logits, logits_ref), kl.entropy(logits)
    return spread(logp_ref, mask), spread(kl_exact, mask), spread(entropy, mask)


def update(state: PPOState, rollout: Rollout, advantages: Tensor, returns: Tensor, config: PPOConfig,
           generator: torch.Generator) -> dict[str, float]:
    """Several epochs of clipped updates on one batch; returns the minibatches' mean statistics.

    Where the returns vary by more than a standard deviation of the score, as when a few endings pay for hundreds of
    nats, the value loss is divided by their variance: else its gradient drowns the policy's in the trunk they share.
    Source: van Hasselt et al. 2016, who scale the targets.
    """
    config = replace(config, value_coef=config.value_coef / max(1.0, returns[rollout.mask].var().item()))
    tokens_each = rollout.mask.sum().item() / config.minibatches  # one constant: every token weighs the same
    records: list[dict[str, float]] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.mask), generator=generator).to(returns.device)
        for rows in order.chunk(config.minibatches):
            part = rollout.rows(rows)
            records.append(step(state, part, advantages[rows], returns[rows], config, tokens_each))
    stats = {name: sum(record[name] for record in records) / len(records) for name in records[0]}
    return {"ratio_first": records[0]["ratio"]} | {name: stats[name] for name in stats if name != "ratio"}


def step(state: PPOState, rollout: Rollout, advantages: Tensor, returns: Tensor, config: PPOConfig,
         denominator: float) -> dict[str, float]:
    """One gradient step on one minibatch."""
    mask, logp_old = rollout.mask, rollout.logp
    assert rollout.values is not None
    logp, values = state.policy(rollout, config.temperature)
    loss_policy = policy_loss(logp, logp_old, advantages, mask, config.clip, denominator=denominator)
    loss_value = value_loss(values, rollout.values, returns, mask, config.value_clip, denominator=denominator)
    state.optimizer.zero_grad()
    (loss_policy + config.value_coef * loss_value).backward()
    grad_norm = nn.utils.clip_grad_norm_(state.policy.parameters(), config.max_grad_norm)
    state.optimizer.step()

    with torch.no_grad():
        ratio = (logp - logp_old).exp()
        outside = ((ratio - 1).abs() > config.clip).float()
        approx_kl = kl.estimate(logp_old, logp, "k3")  # KL(old || new) on the old policy's samples
        measured: dict[str, Any] = {
            "ratio": masked_mean(ratio, mask), "clip_fraction": masked_mean(outside, mask),
            "approx_kl": masked_mean(approx_kl, mask), "policy_loss": loss_policy, "value_loss": loss_value,
            "grad_norm": grad_norm}
        return {name: value.item() for name, value in measured.items()}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """The share of the returns' variance that the values foresaw: 1 is all, 0 no better than a constant."""
    live_returns = returns[mask]
    spread_of_returns = live_returns.var(correction=0)
    return (1 - (live_returns - values[mask]).var(correction=0) / spread_of_returns.clamp(min=1e-8)).item()
