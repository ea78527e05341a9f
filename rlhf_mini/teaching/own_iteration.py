"""PPO made of parts: a student's own functions where they are kept, the package's where they are not.

The package samples, runs the models, draws minibatches and takes the steps, as `rlhf_mini.ppo` does. What stands
between is a part: `ppo_iteration(rollout, logp_ref, score, kl_coef, config)` returns `loss, returns`, where
`loss(rows, logp, values, value_coef)` is the loss of some rows of the rollout. One process only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import kl, ppo
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import naming
from rlhf_mini.forward import in_blocks, lm_logits
from rlhf_mini.health import check_policy
from rlhf_mini.kl import live, masked_mean
from rlhf_mini.optimisers import clip_gradients
from rlhf_mini.policy import PPOState, compare_to_reference, response_states, unpack
from rlhf_mini.sampling import Rollout

Function = Callable[..., Any]
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # rows (R,), logp (R, T), values (R, T), value_coef -> scalar

PACKAGE: dict[str, Function] = {  # a student's part has the same name with `my_` before it
    "token_logprobs": kl.token_logprobs, "shaped_rewards": ppo.shaped_rewards, "gae": ppo.gae,
    "whiten": kl.masked_whiten, "policy_loss": ppo.policy_loss, "value_loss": ppo.value_loss,
    "adapt_kl_coef": ppo.adapt_kl_coef}
WHOLE = "ppo_iteration"
YOU, THE_PACKAGE = "you", "the package"


@dataclass(frozen=True)
class OwnParts:
    """The functions by name, and who made each: 'you' or 'the package'."""

    functions: dict[str, Function]
    made_by: dict[str, str]

    def __getitem__(self, name: str) -> Function:
        return self.functions[name]


def parts(kept: Mapping[str, Function]) -> OwnParts:
    """The student's functions (`checks.kept()`), and the package's for those that are not there."""
    functions = {name: kept.get(f"my_{name}", default) for name, default in PACKAGE.items()}
    whole = kept.get(f"my_{WHOLE}")
    for name, function in functions.items() if whole else ():
        whole.__globals__.setdefault(f"my_{name}", function)  # type: ignore[union-attr]  # a part may have been removed
    functions[WHOLE] = whole or assembled(functions)
    return OwnParts(functions, {name: YOU if f"my_{name}" in kept else THE_PACKAGE for name in functions})


def assembled(functions: Mapping[str, Function]) -> Function:
    """What stands between sampling and the steps, made of these parts."""
    shaped_rewards, gae, whiten, policy_loss, value_loss = (
        functions[name] for name in ("shaped_rewards", "gae", "whiten", "policy_loss", "value_loss"))

    def whole(rollout: Rollout, logp_ref: Tensor, score: Tensor, kl_coef: float,
              config: PPOConfig) -> tuple[Loss, Tensor]:
        mask = rollout.mask
        rewards = shaped_rewards(score, rollout.logp, logp_ref, mask, kl_coef)
        advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
        whitened = whiten(advantages, mask)

        def loss(rows: Tensor, logp: Tensor, values: Tensor, value_coef: float) -> Tensor:
            policy: Tensor = policy_loss(logp, rollout.logp[rows], whitened[rows], mask[rows], config.clip)
            value: Tensor = value_loss(values, rollout.values[rows], returns[rows], mask[rows], config.value_clip)
            return policy + value_coef * value

        return loss, returns

    return whole


def own_ppo_iterations(own: OwnParts, state: PPOState, reference: nn.Module, score: ppo.Score,
                       prompt_ids: Sequence[Sequence[int]], config: PPOConfig, eos_id: int,
                       pad_id: int) -> Iterator[ppo.PPOIteration]:
    """As `ppo.train_ppo`, with these parts: run the iterations that the state has not done yet, and yield each."""
    while state.iteration < config.iterations:
        yield own_ppo_iteration(own, state, reference, score, prompt_ids, config, eos_id, pad_id)


def own_ppo_iteration(own: OwnParts, state: PPOState, reference: nn.Module, score: ppo.Score,
                      prompt_ids: Sequence[Sequence[int]], config: PPOConfig, eos_id: int,
                      pad_id: int) -> ppo.PPOIteration:
    """As `ppo.ppo_iteration`, line by line, with these parts. Raises: as that does."""
    started, number = time.perf_counter(), state.iteration + 1
    rate = ppo.anneal(state, config)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.iteration)
    prompts = ppo.choose_prompts(prompt_ids, config.episodes, generator)
    with naming(f"iteration {number}"):
        rollout = ppo.rollout_of(state.policy, prompts, config, eos_id, pad_id, generator)
        logp_ref, kl_exact, entropy = compare_to_reference(state.policy, reference, rollout, config.temperature)
        scores = live(score(rollout).to(rollout.logp), rollout.mask.any(1), "score")  # (B,)
        loss, returns = own[WHOLE](rollout, logp_ref, scores, state.kl_coef, config)
        updates = own_update(own, state, rollout, loss, returns, config, generator)
        check_policy(state.policy, rollout, config.temperature)

    stats = ppo.statistics(rollout, scores, logp_ref, kl_exact, entropy, returns, state.kl_coef)
    state.iteration, state.episodes = number, state.episodes + len(scores)
    line = {"iteration": number, "episodes": state.episodes, **stats, "learning_rate": rate, **updates,
            "seconds": time.perf_counter() - started}
    if config.adaptive:
        state.kl_coef = float(own["adapt_kl_coef"](state.kl_coef, stats["kl"], config.kl_target, len(scores),
                                                   config.kl_horizon))
    return ppo.PPOIteration(line, rollout)


def own_update(own: OwnParts, state: PPOState, rollout: Rollout, loss: Loss, returns: Tensor, config: PPOConfig,
               generator: torch.Generator) -> dict[str, float]:
    """As `ppo.update`: several epochs of minibatches; returns their mean statistics."""
    value_coef = config.value_coef / max(1.0, returns[rollout.mask].var().item())
    tokens_each = rollout.mask.sum().item() / config.minibatches
    records: list[dict[str, float]] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.mask), generator=generator).to(returns.device)
        records += [own_step(own, state, rollout, rows, loss, config, value_coef, tokens_each)
                    for rows in order.chunk(config.minibatches)]
    return ppo.mean_of_steps(records)


def own_step(own: OwnParts, state: PPOState, rollout: Rollout, rows: Tensor, loss: Loss, config: PPOConfig,
             value_coef: float, tokens_each: float) -> dict[str, float]:
    """As `ppo.step`: one gradient step. A loss here is a mean; weighed by its tokens, every token counts the same."""
    minibatch = rollout.select(rows)
    mask, logp_old = minibatch.mask, minibatch.logp
    weight = mask.sum().item() / tokens_each
    logp, values = own_forward(own, state.policy, minibatch, config.temperature)
    state.optimizer.zero_grad()
    (weight * loss(rows, logp, values, value_coef)).backward()
    grad_norm = clip_gradients(state.policy, config.max_grad_norm, state.iteration + 1,
                               state.optimizer.param_groups[0]["lr"])
    state.optimizer.step()

    with torch.no_grad():
        ratio = (logp - logp_old).exp()
        loss_policy = loss(rows, logp, values, 0.0)  # the value loss is what the coefficient multiplies
        measured = {
            "ratio": masked_mean(ratio, mask),
            "clip_fraction": masked_mean(((ratio - 1).abs() > config.clip).float(), mask),
            "approx_kl": masked_mean(kl.estimate(logp_old, logp, "k3"), mask),
            "policy_loss": weight * loss_policy,
            "value_loss": weight * (loss(rows, logp, values, 1.0) - loss_policy)}
        return {name: x.item() for name, x in measured.items()} | {"grad_norm": grad_norm}


def own_forward(own: OwnParts, policy: Any, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
    """As the policy's own pass, with the part that makes log-probabilities. Shapes: -> (R, T), (R, T)."""
    def logprobs(states: Tensor, tokens: Tensor) -> Tensor:
        found: Tensor = own["token_logprobs"](lm_logits(policy, states)[None], tokens[None], temperature)  # (1, n)
        return found[0]

    hidden = response_states(policy, rollout)  # (N, D)
    logp = in_blocks(logprobs, hidden, rollout.tokens[rollout.mask])  # (N,)
    values = kl.full_precision(policy.value_head(hidden).squeeze(-1))
    return unpack(logp, rollout.mask), unpack(values, rollout.mask)
