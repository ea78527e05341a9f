"""Watch one story while a policy trains: the ending that it writes now, above the curves of its training."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.plots.style import STYLES, without_legend
from rlhf_mini.ppo import PPOIteration

WIDTH = 104  # letters in a line of the figure


def with_story(training: Iterable[PPOIteration], tell: Callable[[], str]) -> Iterator[dict[str, Any]]:
    """A row for each iteration: what PPO measured in it, and the story that the policy tells after its update."""
    for iteration in training:
        yield {"arm": "ppo", **iteration.stats, "story": tell()}


def wrapped(text: str, width: int = 100) -> str:
    """A text in lines of a page, indented; its own line breaks stay."""
    return "\n".join(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ")
                     for line in text.splitlines())


@picture
def story_above_curves(rows: Sequence[Mapping[str, Any]], iterations: int, opening: str, before: str,
                       keys: Sequence[str] = ("score", "kl")) -> NDArray[Any]:
    """The iteration and the story before and now, above the curves of a few quantities; returns the curves' Axes."""
    figure, grid = subplots(2, len(keys), figsize=(4.3 * len(keys), 4.6), height_ratios=(1, 2), layout="constrained")
    for ax in grid[0, 1:]:
        figure.delaxes(ax)
    top = grid[0, 0]
    top.set_axis_off()
    top.set_title(f"Iteration {len(rows)} of {iterations}", loc="left", fontsize=12, fontweight="bold", pad=0)
    told = {"black": f"{opening} … {before}", STYLES["ppo"].color: f"{opening} … {rows[-1]['story']}"}
    heads = ("Before training:", f"After {len(rows)} {'update' if len(rows) == 1 else 'updates'}:")
    for y, head, (colour, text) in zip((0.98, 0.42), heads, told.items(), strict=True):
        lines = textwrap.wrap(text, WIDTH, initial_indent=f"{head} ", max_lines=3, placeholder=" …")
        top.text(0, y, "\n".join(lines), fontsize=9, va="top", color=colour, parse_math=False).set_in_layout(False)
    for ax, key in zip(grid[1], keys, strict=True):
        without_legend(plots.curve(rows, key, ax)).set_xlim(0.5, iterations + 0.5)
    axes: NDArray[Any] = grid[1]
    return axes
