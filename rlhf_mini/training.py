"""Training by the methods of `methods`: with new endings in every iteration as PPO does, or on given pairs (DPO)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import kl, team
from rlhf_mini.batches import shuffled_batches
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError, naming
from rlhf_mini.forward import hidden_states, in_blocks, lm_logits
from rlhf_mini.given import text_tuples
from rlhf_mini.health import check_finite, check_loss, check_policy
from rlhf_mini.kl import live, masked_mean, masked_sum
from rlhf_mini.methods import Batch, Method, dpo_loss, group_means
from rlhf_mini.optimisers import adamw, clip_gradients, schedule, set_rate
from rlhf_mini.policy import PPOState, compare_to_reference
from rlhf_mini.ppo import PPOIteration, Score, adapt_kl_coef, anneal, choose_prompts, rollout_of
from rlhf_mini.require import require_numbers
from rlhf_mini.sft import Example, encode_demonstrations


def train_method(method: Method, state: PPOState, reference: nn.Module, score: Score,
                 prompt_ids: Sequence[Sequence[int]], config: PPOConfig, eos_id: int, pad_id: int,
                 group_size: int = 4) -> Iterator[PPOIteration]:
    """Run the iterations that the state has not done yet: `episodes` endings each, `group_size` for each prompt.

    The state is that of PPO (`start_ppo`); its value head is not used, nor are the config's gamma, lam and value
    settings. Yields what `train_ppo` does but for losses, ratios and what belongs to a critic, and `flat`: the share of
    groups in which all scores are equal.
    Raises: InputError where the endings are no whole number of groups, the policy diverges or a score is not finite.
    """
    if (type(group_size) is not int or group_size < 2 or config.episodes % group_size
            or config.episodes // group_size < config.minibatches):
        raise InputError(f"group_size is {group_size} and PPOConfig.episodes {config.episodes}: give a size of at "
                         f"least 2 that divides the episodes into {config.minibatches} groups or more")
    while state.iteration < config.iterations:
        yield iterate(method, state, reference, score, prompt_ids, config, eos_id, pad_id, group_size)


def iterate(method: Method, state: PPOState, reference: nn.Module, score: Score, prompt_ids: Sequence[Sequence[int]],
            config: PPOConfig, eos_id: int, pad_id: int, group_size: int) -> PPOIteration:
    """Sample, score, estimate advantages, update: one iteration in the order things happen."""
    started, number = time.perf_counter(), state.iteration + 1
    rate = anneal(state, config)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.iteration)
    prompts = choose_prompts(prompt_ids, config.episodes // group_size, generator)

    with naming(f"iteration {number}"):
        rollout = rollout_of(state.policy, [prompt for prompt in prompts for _ in range(group_size)], config, eos_id,
                             pad_id, generator)
        compare = partial(compare_to_reference, state.policy, reference, temperature=config.temperature)
        logp_ref, kl_exact, entropy = team.by_rows(compare, rollout)  # (B, T) each
        scores = live(team.by_rows(score, rollout).to(rollout.logp), rollout.mask.any(1), "score")  # (B,)
        group = torch.arange(len(prompts), device=scores.device).repeat_interleave(group_size)
        batch = Batch(rollout, scores, logp_ref, group, state.kl_coef, config.clip, len(scores) / config.minibatches,
                      rollout.mask.sum().item() / config.minibatches)

        grad_norm = update(method, state, batch, config, generator)
        check_policy(state.policy, rollout, config.temperature)

    state.iteration, state.episodes = number, state.episodes + len(scores)
    deviation = scores - group_means(scores, group)[0]
    stats = {
        "iteration": state.iteration, "episodes": state.episodes,
        "score": scores.mean().item(), "score_std": scores.std(correction=0).item(),
        "reward": batch.reward.mean().item(), "kl": masked_sum(kl_exact, rollout.mask).mean().item(),
        "kl_coef": state.kl_coef, "entropy": masked_mean(entropy, rollout.mask).item(),
        "length": rollout.lengths.float().mean().item(), "ended": rollout.ended.float().mean().item(),
        "flat": (group_means(deviation.abs(), group)[0] == 0).float().mean().item(),
        "learning_rate": rate, "grad_norm": grad_norm, "seconds": time.perf_counter() - started}
    if config.adaptive:
        state.kl_coef = adapt_kl_coef(state.kl_coef, stats["kl"], config.kl_target, len(scores), config.kl_horizon)
    return PPOIteration(stats, rollout)


def update(method: Method, state: PPOState, batch: Batch, config: PPOConfig, generator: torch.Generator) -> float:
    """Several epochs of updates on one batch; a group stays together. Returns the mean gradient norm before clipping.

    Raises: InputError where a log-probability or a gradient is not a finite number; the policy is then left as it was.
    """
    advantages, norms = method.advantages(batch), []
    members = torch.arange(len(batch.score), device=batch.score.device).view(-1, int((batch.group == 0).sum()))
    for _ in range(config.epochs):
        for groups in torch.randperm(len(members), generator=generator).to(members.device).chunk(config.minibatches):
            rows = members[team.share(groups)].flatten()
            part = batch.select(rows)
            logp = state.policy(part.rollout, config.temperature)[0]
            check_finite(logp, part.rollout.mask)
            state.optimizer.zero_grad()
            method.loss(logp, part, advantages[rows]).backward()
            norms.append(clip_gradients(state.policy, config.max_grad_norm, state.iteration + 1,
                                        state.optimizer.param_groups[0]["lr"]))
            state.optimizer.step()
    return sum(norms) / len(norms)


# --- DPO on given pairs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DPOConfig:
    """Direct preference optimisation: `epochs` passes over the pairs, `batch_size` pairs a step."""

    beta: float = 0.15  # what a nat costs, in units of the Bradley-Terry score that the pairs were judged by
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 3e-4
    warmup: float = 0.1
    temperature: float = 0.7  # of the policy that is meant, as in `PPOConfig`
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_numbers(self, positive=("beta", "learning_rate", "temperature", "max_grad_norm"),
                        not_negative=("warmup",), whole=("epochs", "batch_size"))


def train_dpo(model: Any, reference: Any, tokenizer: Any, pairs: Iterable[tuple[str, str, str]],
              config: DPOConfig) -> Iterator[dict[str, float]]:
    """Train the model on (prompt, chosen, rejected). The reference is another model, for instance a frozen copy.

    Yields per step: step, loss, accuracy (pairs whose implicit reward is in the right order), chosen and rejected
    (log-probability of the ending, less the reference's, in nats), learning_rate.
    Raises: InputError where there are no pairs, or one is not three texts or does not fit into the context.
    """
    read = text_tuples("pairs", pairs, "prompt", "chosen", "rejected")
    if not read:
        raise InputError("there are no pairs: give at least one (prompt, chosen, rejected)")
    team.check_share(config.batch_size, "DPOConfig.batch_size")
    sides = [encode_demonstrations(model, tokenizer, [(pair[0], pair[side]) for pair in read]) for side in (1, 2)]
    with torch.no_grad():
        known = [torch.cat([ending_logprobs(reference, side[i:i + 256], config.temperature)
                            for i in range(0, len(side), 256)]) for side in sides]  # (N,), (N,)
    batches = shuffled_batches(len(read), config.batch_size, torch.Generator().manual_seed(config.seed))
    steps, optimizer = config.epochs * -(-len(read) // config.batch_size), adamw(model, weight_decay=0.0)
    for step in range(steps):
        progress = step / steps
        rate = set_rate([optimizer], config.learning_rate * schedule(progress, config.warmup))
        batch = next(batches)
        mine = team.share(batch)
        chosen, rejected = (ending_logprobs(model, [side[i] for i in mine], config.temperature) for side in sides)
        chosen_ref, rejected_ref = (side[mine] for side in known)
        loss = dpo_loss(chosen, rejected, chosen_ref, rejected_ref, config.beta) * len(mine) / len(batch)
        gains = torch.stack([chosen - chosen_ref, rejected - rejected_ref]).detach()  # (2, n)
        sums = torch.stack([loss.detach() * len(batch), (gains[0] > gains[1]).sum(), *gains.sum(1)])
        names = ("loss", "accuracy", "chosen", "rejected")
        found = dict(zip(names, (team.total(sums) / len(batch)).tolist(), strict=True))
        check_loss(found["loss"], step + 1, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(model, config.max_grad_norm, step + 1, rate)
        optimizer.step()
        yield {"step": step + 1, **found, "learning_rate": rate}


def ending_logprobs(model: Any, examples: Sequence[Example], temperature: float = 1.0) -> Tensor:
    """Log-probability of each whole ending, the EOS included, by a fresh pass. Shapes: -> (N,). Units: nats."""
    states = hidden_states(model, [row[:-1] for row, _ in examples], [start - 1 for _, start in examples])
    tokens = torch.tensor([token for row, start in examples for token in row[start:]], device=states.device)
    logp = in_blocks(lambda some, drawn: kl.token_logprobs(lm_logits(model, some), drawn, temperature), states, tokens)
    lengths = torch.tensor([len(row) - start for row, start in examples], device=states.device)
    which = torch.arange(len(examples), device=states.device).repeat_interleave(lengths)
    return logp.new_zeros(len(examples)).index_add(0, which, logp)
