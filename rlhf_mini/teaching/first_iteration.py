"""One iteration of PPO, made now: a line of the log for notebook 09."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from transformers import PreTrainedModel

from rlhf_mini import pipeline, ppo, reward
from rlhf_mini.config import PPOConfig
from rlhf_mini.language_model import encode_prompts, pad_id


def first_iteration(sft: PreTrainedModel, tokenizer: Any, reward_model: PreTrainedModel, openings: Sequence[str],
                    **settings: Any) -> dict[str, Any]:
    """The line that the pipeline would write of a first iteration with one ending for each opening.

    `settings` are those of PPOConfig, such as learning_rate.
    """
    config = PPOConfig(iterations=1, episodes=len(openings), seed=0, **settings)
    training = ppo.train_ppo(ppo.start_ppo(sft, config), sft,
                             lambda rollout: reward.score_rollout(reward_model, rollout),
                             encode_prompts(tokenizer, openings), config, tokenizer.eos_token_id, pad_id(tokenizer))
    context: Any = SimpleNamespace(tokenizer=tokenizer, task=SimpleNamespace(prompts=list(openings), tales_world=True))
    return next(iter(pipeline.history_lines(context, "ppo", training)))
