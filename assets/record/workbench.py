"""A finished run made ready for experiments: trainings from its fine-tuned model, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from stages import FinishedRun, RewardModel, Storyteller, loop_of, ppo
from torch import Tensor

from rlhf_mini import pipeline, tales
from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.evaluate import Samples
from rlhf_mini.methods import Method
from rlhf_mini.metrics import evaluate_samples, example_stories, judge_tales
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.context import RunContext
from rlhf_mini.run.tasks import seed_for

HISTORY = ("iteration", "score", "gold", "kl", "kl_coef", "coherent", "grammatical", "length", "ended", "entropy")
DEMONSTRATIONS = 2000  # as many tell how long an ending may be; nothing is fine-tuned here


@dataclass(frozen=True)
class BenchSizes:
    """How much a recording trains and evaluates; the rest is as in the run."""

    seeds: tuple[int, ...] = (3, 4, 5)  # each a whole run: its own fine-tuned model, rankings and reward model
    iterations: int = PPOConfig().iterations
    episodes: int = PPOConfig().episodes
    samples: int = 512  # held-out openings of every evaluation
    stories: int = 6  # of each evaluation, and of every few iterations
    every: int = 6  # iterations from one set of stories to the next
    openings: int = 256  # held-out openings where less is enough
    endings: int = 1024  # of the fine-tuned model, for the length of what the reward model likes
    labels: int = 200  # training openings of another round of labels
    epochs: int = RewardConfig().epochs


class Judge(Protocol):
    """Whatever gives scores: a reward model, or several."""

    def of_rollout(self, rollout: Any) -> Tensor:
        """Scores (B,) of what a policy has just sampled."""

    def of_samples(self, samples: Samples) -> Tensor:
        """Scores (N,) of endings."""

    def accuracy(self, pairs: Sequence[tuple[str, str, str]]) -> float:
        """The share of pairs (prompt, chosen, rejected) that it puts in the right order."""


@dataclass(frozen=True)
class Bench:
    """A finished run, the loop with its settings, and a folder for models that later parts need."""

    run: FinishedRun
    work: Path
    sizes: BenchSizes
    loop: RunContext

    @property
    def sft(self) -> Storyteller:
        return self.run.sft

    @property
    def first(self) -> RewardModel:
        """The run's own reward model."""
        return self.run.reward_model


def begin(run: FinishedRun, work: Path, sizes: BenchSizes) -> Bench:
    """What every part starts from; each seed has a folder of its own in `work`."""
    work = work / f"seed-{run.seed}"
    work.mkdir(parents=True, exist_ok=True)
    config = RunConfig(out=work, seed=run.seed, samples=sizes.samples, demonstrations=DEMONSTRATIONS)
    config = replace(config, reward=replace(config.reward, epochs=sizes.epochs),
                     ppo=replace(config.ppo, iterations=sizes.iterations, episodes=sizes.episodes))
    return Bench(run, work, sizes, loop_of(config, run.sft))


def trained(bench: Bench, judge: Judge, method: Method | None = None,
            **changes: Any) -> tuple[Storyteller, Samples, dict[str, Any]]:
    """Train by PPO, or by another method, from the fine-tuned model; the policy, its endings, and what came of it.

    The settings are the run's own, but for the changes. Where the judge is not the run's reward model, that one is
    asked, too.
    """
    config = replace(bench.loop.config.ppo, **changes)
    policy, training = ppo(bench.sft, judge.of_rollout, bench.loop.task.prompts, config, method)
    lines, told = [], {}
    for line in pipeline.history_lines(bench.loop, "ppo", training):
        lines.append(line)
        if line["iteration"] % bench.sizes.every == 0:
            told[line["iteration"]] = told_by(bench, policy, judge)
    policy.model.requires_grad_(False)
    samples, found = evaluated(bench, policy, judge)
    found["evaluation"] |= worth(samples, config.kl_coef)
    if judge is not bench.first:
        found["evaluation"]["proxy_first"] = bench.first.of_samples(samples).mean().item()
    history = {key: [line[key] for line in lines] for key in HISTORY}
    return policy, samples, {"kl_coef": config.kl_coef, **found, "history": history, "told": told}


def told_by(bench: Bench, policy: Storyteller, judge: Judge) -> list[dict[str, Any]]:
    """What a policy makes of the first few held-out openings; always with the same random numbers."""
    openings = list(dict.fromkeys(bench.loop.task.held_out))[:bench.sizes.stories]
    samples = bench.loop.sample(policy.model, openings, "told", bench.sft.model, judge.of_rollout)
    gold = judge_tales(samples.prompts, samples.endings)["gold"].tolist()
    return [{"opening": opening, "ending": ending, "proxy": proxy, "gold": true, "kl": kl}
            for opening, ending, proxy, true, kl in zip(samples.prompts, samples.endings, samples.proxy.tolist(), gold,
                                                        samples.kl_each.tolist(), strict=True)]


def evaluated(bench: Bench, policy: Storyteller, judge: Judge) -> tuple[Samples, dict[str, Any]]:
    """What a policy makes of the held-out openings: the endings, their figures, and the first few stories."""
    samples = bench.loop.sample(policy.model, bench.loop.task.held_out, "evaluation", bench.sft.model,
                                judge.of_rollout)
    first = example_stories({"policy": samples}, True, bench.sizes.stories)
    return samples, {"evaluation": {**evaluate_samples(samples), **of_readable(samples)},
                     "stories": [{"opening": story["opening"], **story["policy"]} for story in first]}


def worth(samples: Samples, kl_coef: float) -> dict[str, float]:
    """The objective, score - price * KL, with its standard error."""
    each = samples.proxy.double() - kl_coef * samples.kl_each
    return {"objective": each.mean().item(), "objective_error": (each.std() / len(each) ** 0.5).item()}


def of_readable(samples: Samples) -> dict[str, float | None]:
    """Gold of the endings that the reader can parse, mean and deviation; None where there are not two of them.

    All others have the same gold, so they alone could make its mean fall.
    """
    judged = judge_tales(samples.prompts, samples.endings)
    gold = judged["gold"][judged["grammatical"] == 1]
    enough = len(gold) > 1
    return {"gold_readable": gold.mean().item() if enough else None,
            "gold_readable_std": gold.std().item() if enough else None}


def facts(samples: Samples, proxy: Tensor) -> dict[str, Tensor]:
    """What is known of each ending, as columns. Shapes: (N,) each. Units: `length` in tokens, the EOS included."""
    return {"proxy": proxy, **judge_tales(samples.prompts, samples.endings),
            "length": torch.tensor(samples.lengths, dtype=torch.float64)}


def listed(known: dict[str, Tensor]) -> dict[str, list[float]]:
    """The columns as lists."""
    return {name: column.tolist() for name, column in known.items()}


def plain_endings(bench: Bench) -> Samples:
    """One ending of the fine-tuned model for each of many held-out openings."""
    openings = tales.openings(bench.sizes.endings, seed_for(bench.run.seed, "length"), "held_out")
    return bench.loop.sample(bench.sft.model, openings, "length")


def by_section(found: dict[str, Any]) -> dict[str, Any]:
    """Parts named A/B/C as nested sections."""
    sections: dict[str, Any] = {}
    for part, value in found.items():
        *path, last = part.split("/")
        place = sections
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return sections
