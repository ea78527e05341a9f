"""The stages of the loop as recordings use them, in one place: hardly anything else here calls the core."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf_mini import pipeline, rankings, tales
from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import Samples, sample_endings
from rlhf_mini.language_model import encode_prompts, load_language_model, pad_id
from rlhf_mini.methods import Method
from rlhf_mini.ppo import PPOIteration, Score, start_ppo, train_ppo
from rlhf_mini.rankings import Ranking
from rlhf_mini.reward import (
    fit_reward,
    load_reward_model,
    pair_accuracy,
    plackett_luce_losses,
    reward_model_from,
    score_rollout,
    score_texts,
)
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.context import RunContext
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.history import ARMS
from rlhf_mini.run.json_files import read_json
from rlhf_mini.run.settings import adapt_to_model
from rlhf_mini.run.tasks import make_task, sorted_judgements, split_judgements
from rlhf_mini.training import train_method

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nobody waits
    fcntl = None  # type: ignore[assignment]

Losses = Callable[[Tensor, Tensor], Tensor]
KEPT = ("iteration", "score", "score_std", "reward", "gold", "kl", "coherent", "grammatical", "length", "ended",
        "entropy", "explained_variance", "value_loss", "clip_fraction", "grad_norm")  # of each seed's history


@dataclass(frozen=True)
class Storyteller:
    """A language model with its tokenizer."""

    model: Any
    tokenizer: Any

    def endings(self, prompts: Sequence[str], seed: int, reference: Any = None, score: Score | None = None) -> Samples:
        """One ending for each prompt, as long and at the temperature that a run has by default."""
        ppo = PPOConfig()
        return sample_endings(self.model, self.tokenizer, prompts, max_new_tokens=ppo.max_new_tokens,
                              temperature=ppo.temperature, seed=seed, reference=reference, score=score)


@dataclass(frozen=True)
class RewardModel:
    """A reward model with its tokenizer."""

    model: Any
    tokenizer: Any

    def of_rollout(self, rollout: Any) -> Tensor:
        """Scores (B,) of what a policy has just sampled."""
        return score_rollout(self.model, rollout)

    def of_samples(self, samples: Samples) -> Tensor:
        """Scores (N,) of endings, each read as its model left it, with its end or without."""
        return score_texts(self.model, self.tokenizer, samples.prompts, samples.endings, samples.ended).double()

    def margins(self, pairs: Sequence[tuple[str, str, str]]) -> Tensor:
        """The score of the chosen ending less that of the rejected one (N,), of pairs (prompt, chosen, rejected)."""
        return pair_accuracy(self.model, self.tokenizer, pairs)[1]

    def accuracy(self, pairs: Sequence[tuple[str, str, str]]) -> float:
        """The share of pairs (prompt, chosen, rejected) that it puts in the right order."""
        return float(pair_accuracy(self.model, self.tokenizer, pairs)[0])


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run leaves for recordings to start from."""

    folder: Path
    metrics: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> FinishedRun:
        """Raises: InputError where the run is not finished."""
        metrics = read_json(folder / "metrics.json", None)
        if metrics is None:
            raise InputError(f"{folder} holds no metrics.json: record the run first")
        return cls(folder, metrics)

    @property
    def seed(self) -> int:
        return int(self.metrics["seed"])

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of its history, one an iteration."""
        lines = (self.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @cached_property
    def sft(self) -> Storyteller:
        """The fine-tuned model."""
        return Storyteller(*load_language_model(self.folder / "sft"))

    @cached_property
    def reward_model(self) -> RewardModel:
        """The reward model fitted to the panel's rankings."""
        return RewardModel(*load_reward_model(self.folder / "reward_model"))

    @cached_property
    def judgements(self) -> tuple[list[Ranking], list[Ranking]]:
        """The panel's rankings: those of training openings, and those of held-out ones."""
        judged = sorted_judgements(rankings.load_rankings(self.folder / "rankings.jsonl"))
        return split_judgements(judged, {one.prompt for one in judged if tales.is_held_out(one.prompt)})


def examples_of(judged: Sequence[Ranking]) -> list[Any]:
    """Rankings as the reward model's fit takes them."""
    return [(one.prompt, one.completions, one.ranking) for one in judged]


def fit(sft: Storyteller, examples: Sequence[Any], config: RewardConfig,
        losses: Losses = plackett_luce_losses) -> tuple[RewardModel, list[dict[str, float]]]:
    """A reward model with a new head on the fine-tuned model's trunk, fitted to rankings; and every step's figures."""
    model, tokenizer = reward_model_from(sft.model, sft.tokenizer, config.seed)
    steps = list(fit_reward(model, tokenizer, examples, config, losses))
    return RewardModel(model, tokenizer), steps


def ppo(sft: Storyteller, score: Score, prompts: Sequence[str], config: PPOConfig, method: Method | None = None,
        group_size: int = 4) -> tuple[Storyteller, Iterator[PPOIteration]]:
    """A policy that starts as the fine-tuned model, and its training, which is still to be run through.

    With a `method`, it is trained by that one instead, with `group_size` endings of each prompt.
    """
    tokenizer, state = sft.tokenizer, start_ppo(sft.model, config)
    given = (state, sft.model, score, encode_prompts(tokenizer, prompts), config, tokenizer.eos_token_id,
             pad_id(tokenizer))
    training = train_method(method, *given, group_size) if method else train_ppo(*given)
    return Storyteller(state.policy.language_model, tokenizer), training


def loop_of(config: RunConfig, sft: Storyteller) -> RunContext:
    """The loop with the settings that a run has after fine-tuning; nothing is written to its folder."""
    config, task = adapt_to_model(config, sft.model, sft.tokenizer, make_task(config, []))
    return RunContext(config, task, sft.tokenizer, RunFolder(config))


def history_of(loop: RunContext, training: Iterator[PPOIteration]) -> list[dict[str, Any]]:
    """Run a training to its end; each iteration as a run's history has it."""
    return list(pipeline.history_lines(loop, "ppo", training))


def thinned(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """One seed's entry of `assets/seed_histories.json`: the lines of its history.jsonl, as columns of each arm."""
    return {arm: {key: [line[key] for line in lines if line["arm"] == arm] for key in KEPT} for arm in ARMS}


def whole_run(config: RunConfig) -> dict[str, Any]:
    """The metrics of the run in `config.out`, which is begun, continued, or finished already."""
    if not (config.out / "metrics.json").exists():
        pipeline.run(config, (config.out / "config.json").exists())
    metrics: dict[str, Any] = read_json(config.out / "metrics.json", {})
    return metrics


@contextmanager
def alone_in(lock: Path) -> Iterator[None]:
    """Other processes that come here wait until this one leaves."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="utf-8") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which `make` fills only if it is not there; stopped or raced, it leaves no half of it."""
    if not folder.exists():
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        make(scratch)
        if not folder.exists():
            scratch.rename(folder)
    return folder
