"""Watch one story while a policy trains: the ending that it writes now, above the curves of its training."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini import evaluate, metrics, plots
from rlhf_mini.language_model import decode_endings
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.plots.style import STYLES, without_legend
from rlhf_mini.ppo import PPOIteration

COLUMNS = 3  # curves side by side
WIDTH, HEIGHT = 9.6, 4.7  # inches: at 100 dots an inch this fits a screen of 1280 x 720 with JupyterLab around it
LETTERS = 116  # in a line of the figure


def ending_of(model: Any, tokenizer: Any, opening: str, seed: int = 1) -> str:
    """One ending, the same for the same seed and model."""
    told = evaluate.sample_endings(model, tokenizer, [opening], max_new_tokens=64, temperature=0.7, seed=seed)
    return told.endings[0]


def with_story(training: Iterable[PPOIteration], tell: Callable[[], str], story: str = "", every: int = 1,
               last: int = 0) -> Iterator[dict[str, Any]]:
    """A row for each iteration: what PPO measured in it, and the story that the policy tells after its update.

    The story is told anew after every so many iterations and after the last; before, it is the one that is given.
    """
    for iteration in training:
        if iteration.stats["iteration"] % every == 0 or iteration.stats["iteration"] == last:
            story = tell()
        yield {"arm": "ppo", **iteration.stats, "story": story}


def with_tales(training: Iterable[PPOIteration], tokenizer: Any) -> Iterator[PPOIteration]:
    """The same iterations, with what the world of tales knows of their endings among the numbers."""
    for iteration in training:
        batch = iteration.rollout
        prompts = [tokenizer.decode(prompt) for prompt in batch.prompts]
        endings = decode_endings(tokenizer, batch.tokens, batch.mask)
        known: dict[str, Any] = metrics.tales_means(prompts, endings, True)
        yield replace(iteration, stats={**iteration.stats, **known})


def wrapped(text: str, width: int = 100) -> str:
    """A text in lines of a page, indented; its own line breaks stay."""
    return "\n".join(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ")
                     for line in text.splitlines())


@picture
def story_above_curves(rows: Sequence[Mapping[str, Any]], iterations: int, opening: str, before: str,
                       keys: Sequence[str] = ("score", "kl")) -> NDArray[Any]:
    """The iteration and the story before and now, above the curves of a few quantities; returns the curves' Axes."""
    columns, below = min(COLUMNS, len(keys)), -(-len(keys) // COLUMNS)
    figure, grid = subplots(1 + below, columns, squeeze=False, figsize=(WIDTH, HEIGHT), layout="constrained",
                            height_ratios=(1.8 if below > 1 else 1, *[2] * below))
    axes: NDArray[Any] = grid[1:].ravel()
    for ax in (*grid[0, 1:], *axes[len(keys):]):
        figure.delaxes(ax)
    stories_above(grid[0, 0], rows, iterations, opening, before)
    for ax, key in zip(axes, keys, strict=False):
        without_legend(plots.curve(rows, key, ax)).set_xlim(0.5, iterations + 0.5)
    for ax in grid[1:-1].ravel():
        ax.set_xlabel("")
    return np.asarray(axes[:len(keys)])


def stories_above(ax: Any, rows: Sequence[Mapping[str, Any]], iterations: int, opening: str, before: str) -> None:
    """The iteration and two stories as text, from the left edge of these Axes over the whole figure."""
    ax.set_axis_off()
    ax.set_title(f"Iteration {len(rows)} of {iterations}", loc="left", fontsize=12, fontweight="bold", pad=0)
    told = {"black": f"{opening} … {before}", STYLES["ppo"].color: f"{opening} … {rows[-1]['story']}"}
    heads = ("Before training:", f"After {len(rows)} {'update' if len(rows) == 1 else 'updates'}:")
    for y, head, (colour, text) in zip((0.98, 0.45), heads, told.items(), strict=True):
        lines = textwrap.wrap(text, LETTERS, initial_indent=f"{head} ", max_lines=3, placeholder=" …")
        ax.text(0, y, "\n".join(lines), fontsize=9, va="top", color=colour, parse_math=False).set_in_layout(False)
