"""The command line with stages so small that a test can afford a whole run: `python tests/small_run.py --out DIR`."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from rlhf_mini import cli, pipeline
from rlhf_mini.run import results, settings, tasks
from rlhf_mini.run.config import RunConfig


def shrink(patch: pytest.MonkeyPatch, iterations: int = 1) -> None:
    """Let every run from now on be small, whatever its options say."""
    choose_sizes = pipeline.choose_sizes

    def smaller(config: RunConfig, seen_tales: bool) -> RunConfig:
        config = choose_sizes(config, seen_tales)
        return replace(config, samples=16, demonstrations=64, openings=24, judged_by_all=3,
                       sft=replace(config.sft, steps=2), reward=replace(config.reward, epochs=1),
                       ppo=replace(config.ppo, iterations=iterations, episodes=8))

    patch.setattr(pipeline, "choose_sizes", smaller)
    patch.setattr(pipeline, "NORMALISE_ON", 16)
    patch.setattr(results, "BEST_OF_PROMPTS", 8)
    patch.setattr(tasks, "PPO_PROMPTS", 40)
    patch.setattr(settings, "REWARD_STEPS", 1)


if __name__ == "__main__":
    shrink(pytest.MonkeyPatch(), iterations=12)
    sys.exit(cli.main())
