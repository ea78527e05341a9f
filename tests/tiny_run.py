"""A whole run in a second or two, for tests that do it many times: its base, its settings, and all its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_mini import files, pipeline, rankings, tales
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.language_model import save_language_model
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.run import results, settings, tasks
from rlhf_mini.run.config import RunConfig


def shrink_constants(patch: pytest.MonkeyPatch) -> None:
    """Make small what no setting makes small."""
    patch.setattr(pipeline, "NORMALISE_ON", 16)
    patch.setattr(pipeline, "SAVE_EVERY", 2)
    patch.setattr(results, "BEST_OF_PROMPTS", 8)
    patch.setattr(tasks, "PPO_PROMPTS", 24)
    patch.setattr(settings, "REWARD_STEPS", 1)


def make_base(folder: Path) -> Path:
    """A language model with random weights, and a tokenizer of its own."""
    told = [tales.write(seed, "train") for seed in range(200)]
    tokenizer = train_tokenizer([f"{opening} {ending}" for opening, ending in told], vocab_size=400)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=1, n_head=2,
                               n_embd=16, n_positions=256, seed=0)
    save_language_model(model, tokenizer, folder)
    return folder


def tiny_config(base: Path, out: Path) -> RunConfig:
    """Two checkpoints of PPO in each arm, and a last iteration after them."""
    return RunConfig(out=out, base=str(base), foreign_sft_steps=2, demonstrations=32, openings=12, completions=2,
                     judged_by_all=2, samples=8, sft=SFTConfig(steps=2, batch_size=8),
                     reward=RewardConfig(epochs=1, batch_size=8),
                     ppo=PPOConfig(iterations=5, episodes=6, minibatches=2, epochs=2, max_new_tokens=12))


def numbers(out: Path) -> dict[str, Any]:
    """All that a run has computed: metrics and history without seconds, stories, rankings, and the bytes of weights."""
    metrics = json.loads((out / "metrics.json").read_text())
    history = [json.loads(line) | {"seconds": 0} for line in (out / "history.jsonl").read_text().splitlines()]
    records = rankings.load_rankings(out / "rankings.jsonl")
    return {"metrics": {**metrics, "seconds": 0},
            "history": sorted(history, key=lambda line: (line["arm"], line["iteration"])),
            "samples": json.loads((out / "samples.json").read_text()),
            "stories": (out / "stories.jsonl").read_bytes(),
            "rankings": sorted((record.id, record.ranking) for record in records),
            "weights": {path: digest for path, digest in files.digests(out).items()
                        if path.endswith(".safetensors") and "/state/" not in path}}
