"""The command line at a size that a test can afford, for `test_team_run` to start in one process or in several.

    python tests/team_run.py FOLDER            # prepares a run in FOLDER
    python tests/team_run.py --resume --out FOLDER
    torchrun --nproc_per_node 2 tests/team_run.py --resume --out FOLDER

STOP_AFTER=3 presses Ctrl-C in every process after so many iterations of PPO; FAIL_IN=1 fails in that process alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_mini import pipeline, tales, team
from rlhf_mini.cli import main
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import save_language_model
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.run import results, tasks
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.json_files import write_json
from rlhf_mini.run.saved_config import config_to_json

pipeline.NORMALISE_ON, pipeline.SAVE_EVERY, results.BEST_OF_PROMPTS, tasks.PPO_PROMPTS = 40, 2, 8, 40


def prepare(folder: Path) -> None:
    """A tiny base, and the settings of a run that `--resume` starts from the beginning."""
    told = [tales.write(seed, "train") for seed in range(300)]
    tokenizer = train_tokenizer([f"{opening} {ending}" for opening, ending in told], vocab_size=400)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=1, n_head=2,
                               n_embd=32, n_positions=192, seed=0)
    save_language_model(model, tokenizer, folder.parent / "base")
    config = RunConfig(base=str(folder.parent / "base"), foreign_sft_steps=4, demonstrations=60, openings=18,
                       judged_by_all=3, samples=15, sft=SFTConfig(steps=4, batch_size=9),
                       reward=RewardConfig(epochs=1), ppo=PPOConfig(iterations=4, episodes=9, max_new_tokens=24))
    folder.mkdir()
    write_json(folder / "config.json", config_to_json(config))


def disturb(training: Any) -> Any:
    """`train_ppo` that stops, or fails, after some iterations, where the environment asks for it."""
    def disturbed(*arguments: Any) -> Iterator[Any]:
        for done in training(*arguments):
            yield done
            if os.environ.get("FAIL_IN") == str(team.rank()):
                raise InputError("this process fails: look at its line")
            if os.environ.get("STOP_AFTER") == str(done.stats["iteration"]):
                raise KeyboardInterrupt
    return disturbed


if __name__ == "__main__":
    if len(sys.argv) == 2:
        prepare(Path(sys.argv[1]))
    else:
        pipeline.train_ppo = disturb(pipeline.train_ppo)
        sys.exit(main())
