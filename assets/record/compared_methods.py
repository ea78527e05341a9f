"""One objective, six optimisers, on tales: what notebook 11 draws.

Every method samples the same number of endings from the same fine-tuned model, asks the same reward model, and pays the
same price for a nat. A seed is a whole run: its own fine-tuned model, rankings and reward model.

The first recording tunes the learning rates on one seed; the second compares the methods on fresh seeds, each at the
rate that won.

    METHOD/RATE             a method at a learning rate
    SEED/METHOD/KL_COEF     a method at a price; GRPO's variants at the first price alone
    SEED/best_of_n          the best of 1, 2, 4, ... by the reward model
    SEED/coherence/SIZE     GRPO with a program as the reward: the reader says whether an ending is coherent

    make methods
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from keeping import read, rounded, write
from stages import FinishedRun, history_of, loop_of, ppo
from sweep import picked
from torch import Tensor
from torch.nn.functional import softplus
from workbench import by_section, facts

from rlhf_mini import rankings
from rlhf_mini.config import PPOConfig
from rlhf_mini.language_model import decode_endings, encode_prompts, frozen_copy
from rlhf_mini.methods import METHODS, Method, clipped_loss, grpo_advantages
from rlhf_mini.metrics import evaluate_samples, judge_tales
from rlhf_mini.ppo import PPOIteration, Score
from rlhf_mini.reward import pair_accuracy
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.context import RunContext
from rlhf_mini.sampling import Rollout
from rlhf_mini.training import DPOConfig, train_dpo

PPO, DPO = "PPO", "DPO on rankings"  # these two have a training of their own
VARIANTS = {  # GRPO makes three changes to RLOO's advantage and price; each of these takes one back
    "GRPO, not divided by std": Method(lambda batch: grpo_advantages(batch.score, batch.group, std=False),
                                       partial(clipped_loss, kl_kind="k3", by_ending=True)),
    "GRPO, KL in the reward": Method(lambda batch: grpo_advantages(batch.reward, batch.group),
                                     partial(clipped_loss, by_ending=True)),
    "GRPO, not divided by length": Method(lambda batch: grpo_advantages(batch.score, batch.group),
                                          partial(clipped_loss, kl_kind="k3")),
}
TRAINED = {**METHODS, **VARIANTS}
TUNED = (PPO, *METHODS, DPO)  # GRPO's variants take its rate
TUNING = Path("assets/methods_tuning.json")
HISTORY = ("iteration", "score", "gold", "kl", "coherent", "length")
DPO_HISTORY = ("step", "loss", "accuracy", "chosen", "rejected")


@dataclass(frozen=True)
class Sizes:
    """How much is recorded; the rest is as in the run."""

    tuning_seed: int = 3
    seeds: tuple[int, ...] = (4, 5, 6)
    rates: tuple[float, ...] = (1e-4, 2e-4, 3e-4)
    coefficients: tuple[float, ...] = (0.15, 0.05)
    iterations: int = 30
    episodes: int = PPOConfig().episodes
    group_size: int = 4
    samples: int = 512  # held-out openings of every evaluation
    openings: int = 256  # held-out openings that best of n answers
    most: int = 16  # candidates of each; a power of two
    program_groups: tuple[int, ...] = (4, 16)  # endings to an opening where the reader gives the reward
    program_temperature: float = 1.0  # at the usual one, hardly any ending is incoherent


def settings(sizes: Sizes) -> dict[str, Any]:
    """What the recordings depend on, besides the runs."""
    return {"sizes": asdict(sizes), "ppo": asdict(PPOConfig()), "dpo": asdict(DPOConfig())}


def tuning_parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """The name of every part of the first recording; none needs another."""
    return dict.fromkeys([f"{method}/{rate:g}" for method in TUNED for rate in sizes.rates], ())


def parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """The name of every part of the second recording; none needs another."""
    names = []
    for seed in sizes.seeds:
        names += [f"{seed}/best_of_n", *(f"{seed}/coherence/{size}" for size in sizes.program_groups)]
        names += [f"{seed}/{method}/{kl_coef:g}" for kl_coef in sizes.coefficients for method in TUNED]
        names += [f"{seed}/{method}/{sizes.coefficients[0]:g}" for method in VARIANTS]
    return dict.fromkeys(names, ())


def tune(part: str, run: FinishedRun, sizes: Sizes) -> Any:
    """One part of the first recording."""
    method, rate = part.split("/")
    loop = begin(run, sizes)
    return trained(run, loop, method, float(rate), loop.config.ppo.kl_coef, sizes)


def make(part: str, run_of: Callable[[int], FinishedRun], sizes: Sizes) -> Any:
    """One part of the second recording; `run_of` opens the finished run of a seed."""
    seed, name, *rest = part.split("/")
    run = run_of(int(seed))
    loop = begin(run, sizes)
    if name == "best_of_n":
        return best_of_n(run, loop, sizes)
    if name == "coherence":
        return by_program(run, loop, int(rest[0]), sizes)
    return trained(run, loop, name, tuned_rate(name), float(rest[0]), sizes)


def begin(run: FinishedRun, sizes: Sizes) -> RunContext:
    """The loop with the settings of the run, but for the sizes."""
    config = RunConfig(out=Path("nowhere"), seed=run.seed, samples=sizes.samples, demonstrations=2000)
    config = replace(config, ppo=replace(config.ppo, iterations=sizes.iterations, episodes=sizes.episodes))
    return loop_of(config, run.sft)


def tuned_rate(method: str) -> float:
    """The rate with the best objective, score - price * KL, on held-out openings of the tuning seed."""
    found = read(TUNING)["methods"]["GRPO" if method in VARIANTS else method]
    return max(map(float, found), key=lambda rate: found[f"{rate:g}"]["objective"])


def gather(found: dict[str, Any], sizes: Sizes, out: Path) -> None:
    """All parts as one file: the sizes, and a section for each seed or method."""
    write(out, rounded({"sizes": asdict(sizes), "seeds" if out != TUNING else "methods": by_section(found)}))


# --- training ---------------------------------------------------------------------------------------------------


def trained(run: FinishedRun, loop: RunContext, method: str, rate: float, kl_coef: float, sizes: Sizes) -> Any:
    """Train by one method from the fine-tuned model, and evaluate on held-out openings."""
    if method == DPO:
        return trained_on_rankings(run, loop, rate, kl_coef)
    config = replace(loop.config.ppo, learning_rate=rate, kl_coef=kl_coef)
    policy, training = ppo(run.sft, run.reward_model.of_rollout, loop.task.prompts, config, TRAINED.get(method),
                           sizes.group_size)
    history, seconds = columns(loop, training, HISTORY)
    return {**evaluated(run, loop, policy.model, kl_coef), "rate": rate, "history": history, "seconds": seconds}


def columns(loop: RunContext, training: Iterator[PPOIteration], names: Sequence[str]) -> tuple[dict[str, Any], float]:
    """The history as columns, and the seconds that the iterations took."""
    lines = history_of(loop, training)
    return {name: [line[name] for line in lines] for name in names}, sum(line["seconds"] for line in lines)


def trained_on_rankings(run: FinishedRun, loop: RunContext, rate: float, kl_coef: float) -> Any:
    """DPO on the panel's rankings: no reward model, and no ending but those that were ranked.

    The rankings follow Bradley-Terry in scores of a scale of their own; a nat costs as much as elsewhere only where the
    price is multiplied by that scale.
    """
    scale = bradley_terry_scale(run)
    config = DPOConfig(beta=kl_coef * scale, learning_rate=rate, temperature=loop.config.ppo.temperature,
                       seed=loop.config.ppo.seed)
    policy = frozen_copy(run.sft.model).requires_grad_(True)
    pairs = rankings.to_pairs(run.judgements[0])
    steps = list(train_dpo(policy, run.sft.model, run.sft.tokenizer, pairs, config))
    history = {name: [step[name] for step in steps] for name in DPO_HISTORY}
    return {**evaluated(run, loop, policy, kl_coef), "rate": rate, "history": history, "scale": scale,
            "pairs": len(pairs)}


def bradley_terry_scale(run: FinishedRun) -> float:
    """By what the normalised scores are multiplied to predict the panel's held-out pairs best (Guo et al. 2017)."""
    margins = pair_accuracy(run.reward_model.model, run.reward_model.tokenizer,
                            rankings.to_pairs(run.judgements[1]))[1].double()
    scales = torch.linspace(0.2, 5.0, 481, dtype=torch.double)
    return float(scales[softplus(-scales[:, None] * margins).mean(1).argmin()])


def evaluated(run: FinishedRun, loop: RunContext, policy: Any, kl_coef: float) -> dict[str, Any]:
    """The figures of the policy's endings for held-out openings, and the objective: score - price * KL."""
    samples = loop.sample(policy.requires_grad_(False), loop.task.held_out, "evaluation", run.sft.model,
                          run.reward_model.of_rollout)
    worth = samples.proxy.double() - kl_coef * samples.kl_each
    return {"objective": worth.mean().item(), "objective_error": (worth.std() / len(worth) ** 0.5).item(),
            **evaluate_samples(samples)}


def best_of_n(run: FinishedRun, loop: RunContext, sizes: Sizes) -> list[dict[str, float]]:
    """Means over what the reward model picks, for n = 1, 2, 4, ..."""
    openings = [opening for opening in loop.task.held_out[:sizes.openings] for _ in range(sizes.most)]
    samples = loop.sample(run.sft.model, openings, "best of n", score=run.reward_model.of_rollout)
    known = facts(samples, samples.proxy.double())
    return [picked(known, "proxy", 2 ** k) for k in range(sizes.most.bit_length())]


# --- a program as the reward --------------------------------------------------------------------------------------


def by_program(run: FinishedRun, loop: RunContext, group_size: int, sizes: Sizes) -> Any:
    """GRPO where the reader says 1 for a coherent ending and 0 for any other; nothing else is judged."""
    config = replace(loop.config.ppo, learning_rate=tuned_rate("GRPO"), temperature=sizes.program_temperature)
    score = coherence(run.sft.tokenizer, loop.task.prompts)
    _, training = ppo(run.sft, score, loop.task.prompts, config, METHODS["GRPO"], group_size)
    return {"history": columns(loop, training, (*HISTORY, "flat"))[0]}


def coherence(tokenizer: Any, prompts: Sequence[str]) -> Score:
    """A score for rollouts of these prompts: whether the reader finds the ending coherent. Shapes: -> (B,)."""
    prompt_of = dict(zip(map(tuple, encode_prompts(tokenizer, prompts)), prompts, strict=True))

    def score(rollout: Rollout) -> Tensor:
        endings = decode_endings(tokenizer, rollout.tokens, rollout.mask)
        return judge_tales([prompt_of[prompt] for prompt in rollout.prompts], endings)["coherent"]

    return score
