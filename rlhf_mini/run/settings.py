"""From the requested settings to those that a run uses: smaller if quick, and adapted to the model and the data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.language_model import check_prompts, context_length, encode_endings, encode_prompts
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.tasks import Task, seed_for

TUNED_WIDTH = 128  # the width of the embedded model, on which the learning rates were tuned
ENDINGS_MEASURED = 2000  # the longest of this many demonstrations sets the response limit
SFT_PASSES = 10  # at most so many passes over given demonstrations: more would memorise them
REWARD_STEPS = 50  # the reward fit takes at least so many steps, even on few rankings


def choose_sizes(config: RunConfig, seen_tales: bool) -> RunConfig:
    """Set the sizes of a run: smaller ones for a quick run, longer fine-tuning for a base that has not seen tales."""
    steps, rate = config.sft.steps, config.sft.learning_rate
    if not seen_tales:
        steps, rate = max(steps, config.foreign_sft_steps), max(rate, config.foreign_sft_rate)
    if config.quick:
        config = replace(config, openings=min(config.openings, 200), samples=min(config.samples, 512),
                         judged_by_all=min(config.judged_by_all, 20),
                         ppo=replace(config.ppo, iterations=min(config.ppo.iterations, 10)))
        steps = min(steps, 80 if seen_tales else 300)
    demonstrations = min(steps * config.sft.batch_size, 2 * config.demonstrations)
    return replace(config, sft=replace(config.sft, steps=steps, learning_rate=rate), demonstrations=demonstrations)


def adapt_to_model(config: RunConfig, model: Any, tokenizer: Any, task: Task) -> tuple[RunConfig, Task]:
    """Adapt settings and task to this model, and give each stage its seed.

    Raises: InputError for a prompt that is longer than the model's context.
    """
    prompts = list(dict.fromkeys([*task.prompts, *task.held_out, *task.to_judge]))
    prompt_ids = encode_prompts(tokenizer, prompts)
    check_prompts(model, prompt_ids, prompts, 1)
    task = _drop_too_long(model, tokenizer, task)
    endings = [ending for _, ending in task.demonstrations[:ENDINGS_MEASURED]]
    longest = max(map(len, encode_endings(tokenizer, endings)))
    requested = min(max(config.ppo.max_new_tokens, longest), context_length(model) - 1)
    limit = check_prompts(model, prompt_ids, prompts, requested)
    rate_factor = min(1.0, TUNED_WIDTH / model.config.hidden_size)  # Adam needs rates proportional to 1 / width
    sft, reward, ppo = (stage_settings(part, config.seed, name, rate_factor) for name, part in
                        (("sft", config.sft), ("reward", config.reward), ("ppo", config.ppo)))
    if task.judgements:
        passes = 1 + SFT_PASSES * len(task.demonstrations) // sft.batch_size
        sft = replace(sft, steps=min(sft.steps, passes))
    epochs = max(reward.epochs, REWARD_STEPS * reward.batch_size // (len(task.judgements) or config.openings))
    return replace(config, sft=sft, reward=replace(reward, epochs=min(epochs, 10 * reward.epochs)),
                   ppo=replace(ppo, max_new_tokens=limit)), task


def stage_settings(part: Any, seed: int, stage: str, rate_factor: float) -> Any:
    """The settings of one stage, with its own seed and the learning rate multiplied by `rate_factor`."""
    return replace(part, learning_rate=part.learning_rate * rate_factor, seed=seed_for(seed, stage))


def fits_context(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str]) -> list[bool]:
    """For each pair, whether prompt and ending together fit into the model's context.

    Sampled texts are checked too: encoded again, a text may have more tokens than were sampled.
    """
    lengths = zip(encode_prompts(tokenizer, prompts), encode_endings(tokenizer, endings), strict=True)
    return [len(prompt) + len(ending) <= context_length(model) for prompt, ending in lengths]


def _drop_too_long(model: Any, tokenizer: Any, task: Task) -> Task:
    """The task without texts that are too long for the model. Raises: InputError if most are too long."""
    pairs = task.demonstrations
    demonstrations = list(compress(pairs, fits_context(model, tokenizer, *map(list, zip(*pairs, strict=True)))))
    judgements = [judged for judged in task.judgements if all(
        fits_context(model, tokenizer, [judged.prompt] * len(judged.completions), judged.completions))]
    if not demonstrations or len(judgements) < len(task.judgements) / 2:
        raise InputError(f"of {len(pairs)} demonstrations and {len(task.judgements)} rankings only "
                         f"{len(demonstrations)} and {len(judgements)} fit into the model's context of "
                         f"{context_length(model)} tokens: give shorter texts, or a base with a longer context")
    if left_out := len(task.judgements) - len(judgements):
        warnings.warn(f"{left_out} of {len(task.judgements)} rankings are left out: prompt and completion "
                      f"are longer than the model's context of {context_length(model)} tokens", stacklevel=2)
    return replace(task, demonstrations=demonstrations, judgements=judgements)
