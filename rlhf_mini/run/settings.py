"""From the requested settings to those that a run uses: smaller if quick, and adapted to the model and the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.given import text_lists
from rlhf_mini.language_model import check_prompts, context_length, encode_endings, encode_prompts
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.tasks import Task, leaving_out, rankings_task, seed_for, without

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

    Odd texts are left out first (see `leave_out`), so that none of them decides for the others: the limits of the run
    follow from what is kept.
    Raises: InputError if too little is kept.
    """
    task = leave_out(config, model, tokenizer, task)
    prompts = _prompts_of(task)
    requested = min(max(config.ppo.max_new_tokens, longest_ending(tokenizer, task)), context_length(model) - 1)
    limit = check_prompts(model, encode_prompts(tokenizer, prompts), prompts, requested)
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
    prompts, endings = text_lists(prompts=prompts, endings=endings)
    lengths = zip(encode_prompts(tokenizer, prompts), encode_endings(tokenizer, endings), strict=True)
    return [len(prompt) + len(ending) <= context_length(model) for prompt, ending in lengths]


def longest_ending(tokenizer: Any, task: Task) -> int:
    """The length of the longest demonstration, in tokens; one more than twice as long as nine in ten does not count."""
    endings = [ending for _, ending in task.demonstrations[:ENDINGS_MEASURED]]
    lengths = sorted(map(len, encode_endings(tokenizer, endings)))
    usual = lengths[len(lengths) * 9 // 10]
    return max(length for length in lengths if length <= 2 * usual)


# --- texts that are left out ------------------------------------------------------------------------------------


def leave_out(config: RunConfig, model: Any, tokenizer: Any, task: Task) -> Task:
    """The task without texts that this model cannot use; a note counts them and names the first.

    A demonstration or a ranking is left out if a prompt with its completion is longer than the context. A prompt is
    left out if it is empty, or so long that it would cut the responses to all others (see `odd_prompts`): from
    training and evaluation alike, because a response that has no room tells nothing. Evaluations keep their number of
    samples: the other prompts come more often. Given rankings are divided into training and test after that, so
    everything that a task needs is checked again, and a resumed run divides its copy of them in the same way.
    Raises: InputError if too little is kept.
    """
    if not task.judgements:
        return _leave_out_prompts(config, model, tokenizer, task)
    judged = task.judgements
    owners = [number for number, one in enumerate(judged) for _ in one.completions]
    fits = fits_context(model, tokenizer, [judged[number].prompt for number in owners],
                        [text for one in judged for text in one.completions])
    long = {number: f"it is longer with a completion than the model's context of {context_length(model)} tokens"
            for number, fitting in zip(owners, fits, strict=True) if not fitting}
    odd = odd_prompts(config, model, tokenizer, [one.prompt for one in without(long, judged)])
    left_out = {number: long.get(number) or odd[one.prompt] for number, one in enumerate(judged)
                if number in long or one.prompt in odd}
    if not left_out:
        return task
    with leaving_out(left_out, judged):
        if len(left_out) > len(judged) / 2:
            raise InputError("give shorter texts, or a base with a longer context")
        return rankings_task(config, without(left_out, judged))


def _leave_out_prompts(config: RunConfig, model: Any, tokenizer: Any, task: Task) -> Task:
    """The same where there are no rankings yet."""
    pairs, prompts = task.demonstrations, _prompts_of(task)
    fits = fits_context(model, tokenizer, *map(list, zip(*pairs, strict=True)))
    long = {number: f"it is longer with its ending than the model's context of {context_length(model)} tokens"
            for number, fitting in enumerate(fits) if not fitting}
    odd = odd_prompts(config, model, tokenizer, prompts)
    with (leaving_out(long, pairs, "demonstrations"),
          leaving_out({prompts.index(prompt): why for prompt, why in odd.items()}, prompts, "prompts")):
        train, held_out, to_judge = ([prompt for prompt in each if prompt not in odd]
                                     for each in (task.prompts, task.held_out, task.to_judge))
        if not (train and held_out and set(to_judge) - task.test_prompts and len(long) < len(pairs)):
            raise InputError("too few texts are left: give a base with a longer context")
        return replace(task, demonstrations=without(long, pairs), prompts=train, to_judge=to_judge,
                       held_out=list(islice(cycle(held_out), len(task.held_out))))


def odd_prompts(config: RunConfig, model: Any, tokenizer: Any, prompts: Sequence[str]) -> dict[str, str]:
    """Why a prompt is left out, for each that is: it is empty, or so long that it costs more than it is worth.

    The longest prompt limits the responses to all. So the longest ones are left out where that makes the responses
    long enough: to leave out 1 % must make them about 3 % longer, to leave out half eight times as long (it is share
    kept³ x room that is made largest). Room beyond half of the requested limit does not count, so prompts that leave
    that much are all kept. The same rule leaves out nothing of what it has kept.
    """
    context, enough = context_length(model), max(1, config.ppo.max_new_tokens // 2)
    distinct = list(dict.fromkeys(prompts))
    lengths = dict(zip(distinct, map(len, encode_prompts(tokenizer, distinct)), strict=True))
    usable = sorted(n for n in lengths.values() if 0 < n < context)
    worth = {n: kept**3 * min(context - n, enough) for kept, n in enumerate(usable, start=1)}  # by the longest kept
    longest = max(worth, key=lambda n: (worth[n], n), default=0)
    return {prompt: f"its {n} tokens leave {max(0, context - n)} of the model's {context} for a response"
            if n else "it is empty" for prompt, n in lengths.items() if not 0 < n <= longest}


def _prompts_of(task: Task) -> list[str]:
    """Every prompt of a task, once."""
    return list(dict.fromkeys([*task.prompts, *task.held_out, *task.to_judge]))
