"""A PPO run while it trains: its numbers, what the world of tales knows of its endings, and a story as it changes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from rlhf_mini import evaluate, metrics, plots
from rlhf_mini.language_model import decode_endings
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.ppo import PPOIteration

SIZE = (9.6, 4.7)  # inches: at 100 dots an inch this fits a screen of 1280 x 720 with JupyterLab around it
LINE, LINES = 130, 3  # characters of a story in a line, and lines that are kept free for it


def ending_of(model: Any, tokenizer: Any, opening: str, seed: int = 1) -> str:
    """One ending, the same for the same seed and model."""
    told = evaluate.sample_endings(model, tokenizer, [opening], max_new_tokens=64, temperature=0.7, seed=seed)
    return told.endings[0]


def with_stories(training: Iterable[PPOIteration], tokenizer: Any, tell: Callable[[], str], last: int,
                 every: int = 3) -> Iterator[dict[str, Any]]:
    """The numbers of each iteration, with the tales' own and a story, told anew after every third and the last one."""
    story = tell()
    for iteration in training:
        batch, number = iteration.rollout, iteration.stats["iteration"]
        prompts = [tokenizer.decode(prompt) for prompt in batch.prompts]
        endings = decode_endings(tokenizer, batch.tokens, batch.mask)
        if number % every == 0 or number == last:
            story = tell()
        yield {"arm": "ppo", **iteration.stats, **metrics.tales_means(prompts, endings, True), "story": story}


@picture
def live_picture(rows: Sequence[Mapping[str, Any]], iterations: int, opening: str,
                 keys: Sequence[str] = plots.OVERVIEW) -> NDArray[Any]:
    """Six curves of a run so far, below the story of the moment; the axes are as long as the whole run."""
    figure, axes = subplots(2, 3, figsize=SIZE, layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(wspace=0.05, hspace=0.05)
    story = textwrap.wrap(f"{opening} {rows[-1]['story']}", LINE)
    told = "\n".join([f"iteration {rows[-1]['iteration']} of {iterations}", *story, *[" "] * (LINES - len(story))])
    figure.suptitle(told, x=0.01, ha="left", fontsize=9.5, parse_math=False)
    style = plots.STYLES["ppo"]
    for ax, key in zip(axes.flat, keys, strict=True):
        title, unit = plots.QUANTITIES[key]
        plots.labelled_axes(ax, title, "iteration", unit)
        ax.plot([row["iteration"] for row in rows], [plots.number(row.get(key)) for row in rows], color=style.color,
                marker=style.marker, markersize=4, linewidth=1.5)
        ax.set_xlim(0.5, iterations + 0.5)
        ax.title.set_fontsize(10)
    for ax in axes[0]:
        ax.set_xlabel("")
    return axes
