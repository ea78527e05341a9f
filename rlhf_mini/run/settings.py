"""From the settings a user gives to those a run uses: rough if asked, gentle if wide, fit for the data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from rlhf_mini.config import RunConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import check_prompts, context_length, encode_endings, encode_prompts
from rlhf_mini.run.tasks import Task, seed_for

TUNED_WIDTH = 128  # of the embedded model, for which the learning rates were chosen
LOOK_AT = 2000  # demonstrations, to learn how long an ending may be
SFT_PASSES = 10  # over demonstrations, at most: few of them are soon known by heart
REWARD_STEPS = 50  # at least, however few the rankings


def sized(config: RunConfig) -> RunConfig:
    """The sizes of this run: small if it is to be quick, longer fine-tuning if the base never saw a tale."""
    steps, rate = config.sft.steps, config.sft.learning_rate
    if config.base is not None:
        steps, rate = max(steps, config.foreign_sft_steps), max(rate, config.foreign_sft_rate)
    if config.quick:
        config = replace(config, openings=min(config.openings, 200), samples=min(config.samples, 512),
                         judged_by_all=min(config.judged_by_all, 20),
                         ppo=replace(config.ppo, iterations=min(config.ppo.iterations, 10)))
        steps = min(steps, 80 if config.base is None else 300)
    demonstrations = min(steps * config.sft.batch_size, 2 * config.demonstrations)
    return replace(config, sft=replace(config.sft, steps=steps, learning_rate=rate), demonstrations=demonstrations)


def fitted(config: RunConfig, model: Any, tokenizer: Any, task: Task) -> tuple[RunConfig, Task]:
    """Settings and task as this model can use them, with a seed for each stage.

    Raises: InputError for a prompt that is longer than the model's context.
    """
    prompts = list(dict.fromkeys([*task.prompts, *task.held_out, *task.to_judge]))
    prompt_ids = encode_prompts(tokenizer, prompts)
    check_prompts(model, prompt_ids, prompts, 1)
    task = _readable(model, tokenizer, task)
    endings = [ending for _, ending in task.demonstrations[:LOOK_AT]]
    longest = max(map(len, encode_endings(tokenizer, endings)))
    wanted = min(max(config.ppo.max_new_tokens, longest), context_length(model) - 1)
    limit = check_prompts(model, prompt_ids, prompts, wanted)
    gentler = min(1.0, TUNED_WIDTH / model.config.hidden_size)  # Adam's steps should shrink as 1 / width
    sft, reward, ppo = (own(part, config.seed, name, gentler) for name, part in
                        (("sft", config.sft), ("reward", config.reward), ("ppo", config.ppo)))
    if task.judgements:
        passes = 1 + SFT_PASSES * len(task.demonstrations) // sft.batch_size
        sft = replace(sft, steps=min(sft.steps, passes))
    epochs = max(reward.epochs, REWARD_STEPS * reward.batch_size // (len(task.judgements) or config.openings))
    return replace(config, sft=sft, reward=replace(reward, epochs=min(epochs, 10 * reward.epochs)),
                   ppo=replace(ppo, max_new_tokens=limit)), task


def own(part: Any, seed: int, stage: str, gentler: float) -> Any:
    """A stage's settings with a seed of their own and the learning rate for this width."""
    return replace(part, learning_rate=part.learning_rate * gentler, seed=seed_for(seed, stage))


def fits(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str]) -> list[bool]:
    """Whether the model sees prompt and ending whole; read again, a sampled text may have more tokens."""
    lengths = zip(encode_prompts(tokenizer, prompts), encode_endings(tokenizer, endings), strict=True)
    return [len(prompt) + len(ending) <= context_length(model) for prompt, ending in lengths]


def _readable(model: Any, tokenizer: Any, task: Task) -> Task:
    """The task without what is too long for the model. Raises: InputError if hardly anything is left."""
    pairs = task.demonstrations
    demonstrations = list(compress(pairs, fits(model, tokenizer, *map(list, zip(*pairs, strict=True)))))
    judgements = [judged for judged in task.judgements if all(
        fits(model, tokenizer, [judged.prompt] * len(judged.completions), judged.completions))]
    if not demonstrations or len(judgements) < len(task.judgements) / 2:
        raise InputError(f"of {len(pairs)} demonstrations and {len(task.judgements)} rankings only "
                         f"{len(demonstrations)} and {len(judgements)} fit into the model's context of "
                         f"{context_length(model)} tokens: give shorter texts or a base that sees more")
    if left_out := len(task.judgements) - len(judgements):
        warnings.warn(f"{left_out} of {len(task.judgements)} rankings are left out: prompt and completion "
                      f"are longer than the {context_length(model)} tokens that the model sees", stacklevel=2)
    return replace(task, demonstrations=demonstrations, judgements=judgements)
