"""What a finished run was made from and what it has learnt, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_mini.assets import asset
from rlhf_mini.errors import InputError, naming
from rlhf_mini.language_model import load_language_model
from rlhf_mini.rankings import Ranking, load_rankings
from rlhf_mini.reward_model import load_reward_model
from rlhf_mini.run.base import has_seen_tales
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.json_files import read_json
from rlhf_mini.run.saved_config import load_config
from rlhf_mini.run.settings import adapt_to_model, choose_sizes
from rlhf_mini.run.tasks import Task, given_rankings, make_task, sorted_judgements, split_judgements

RANKINGS = "rankings.jsonl"
PARTS = ("metrics.json", RANKINGS, "sft", "reward_model")  # what a finished run has, and an export needs

Model = tuple[Any, Any]  # with its tokenizer


@dataclass(frozen=True)
class RunData:
    """A finished run: its settings, its texts, its judgements, and its models."""

    config: RunConfig  # adapted to model and data, as the run itself used it
    task: Task
    train: list[Ranking]  # the judgements on which the reward model was fitted,
    test: list[Ranking]  # and those that tested it
    models: dict[str, Model]  # base, sft, reward_model


def read_run(run: Path) -> RunData:
    """Read a finished run. Its texts are made again from its settings, as a resumed run makes them.

    Raises: InputError where the folder holds no finished run, or the run's base is gone.
    """
    check_finished(run)
    seed = read_json(run / "metrics.json", {}).get("seed")
    config = load_config(run) if (run / "config.json").exists() else RunConfig(out=run, seed=seed)
    with naming(f"the base of the run in {run}"):
        base = load_language_model(config.base or asset("tiny-tales-gpt2"))
    models = {"base": base, "sft": load_language_model(run / "sft"), "reward_model": load_reward_model(
        run / "reward_model")}
    config = choose_sizes(config, has_seen_tales(*base))
    config, task = adapt_to_model(config, *base, make_task(config, given_rankings(config, run / RANKINGS)))
    judgements = task.judgements or sorted_judgements(load_rankings(run / RANKINGS))
    return RunData(config, task, *split_judgements(judgements, task.test_prompts), models)


def check_finished(run: Path) -> None:
    """Raises: InputError where the folder is not that of a finished run."""
    if not run.is_dir():
        raise InputError(f"there is no folder {run}: give the folder of a finished run, such as runs/001")
    missing = [name for name in PARTS if not (run / name).exists()]
    if missing:
        how = (f"finish it with python -m rlhf_mini --resume --out {run}" if (run / "config.json").exists()
               else "give the folder of a finished run, such as runs/001")
        raise InputError(f"{run} holds no finished run, {missing[0]} is missing: {how}")
