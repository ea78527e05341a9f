"""What a finished run leaves, with models that know nothing: recordings start from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_mini import pipeline, tales
from rlhf_mini.language_model import save_language_model
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.rankings import save_rankings
from rlhf_mini.reward import reward_model_from
from rlhf_mini.run import tasks
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.tasks import ask_panel, make_task


def shrink_constants(patch: pytest.MonkeyPatch) -> None:
    """Make small what no setting of a recording makes small."""
    patch.setattr(tasks, "PPO_PROMPTS", 40)
    patch.setattr(pipeline, "NORMALISE_ON", 24)


def make_run(folder: Path) -> Path:
    """Fine-tuned model, reward model, the panel's rankings of ten openings and four held-out ones, and the seed, 3."""
    told = [tales.write(seed, "train") for seed in range(300)]
    tokenizer = train_tokenizer([f"{opening} {ending}" for opening, ending in told], vocab_size=400)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=1, n_head=2,
                               n_embd=32, n_positions=256, seed=0)
    save_language_model(model, tokenizer, folder / "sft")
    save_language_model(*reward_model_from(model, tokenizer, 1), folder / "reward_model")
    task = make_task(RunConfig(seed=3, demonstrations=1), [])
    items = [(opening, [tales.write(seed)[1] for seed in range(4 * i, 4 * i + 4)])
             for i, opening in enumerate([*task.to_judge[:10], *sorted(task.test_prompts)[:4]])]
    save_rankings(ask_panel(items, 0, folder / "state", 3), folder / "rankings.jsonl")
    (folder / "metrics.json").write_text(json.dumps({"seed": 3}))
    return folder
