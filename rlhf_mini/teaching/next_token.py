"""Pictures of the distribution of the next token: at some temperatures, and behind a slider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets
import torch
from torch import Tensor

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, plt, subplots

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

LIKELY, OTHERS = "#0072B2", "#8C8C8C"
REST = "all others"


@picture
def next_token_bars(logits: Tensor, tokenizer: Any, temperatures: Sequence[float], shown: int = 8) -> Any:
    """The probabilities of the likeliest tokens at each temperature, and of all others together. Shapes: (V,)."""
    count = len(temperatures)
    _, axes = subplots(1, count, figsize=(3.1 * count + 0.9, 3.5), sharex=True, sharey=True, layout="constrained")
    names = words_of(tokenizer, logits.topk(shown).indices)
    for ax, temperature in zip(axes, temperatures, strict=True):
        chances = (logits / temperature).softmax(-1)
        _draw(ax, names, chances[logits.topk(shown).indices], f"temperature {temperature:g}")
    longest = max(bar.get_width() for ax in axes for bar in ax.patches)
    axes[0].set_xlim(0, min(1.08, 1.2 * longest))
    return axes


def words_of(tokenizer: Any, tokens: Tensor) -> list[str]:
    """What stands for each token in a picture."""
    return [tokenizer.decode([token]).strip() or "line break" for token in tokens.tolist()]


def _draw(ax: Axes, names: Sequence[str], chances: Tensor, title: str) -> None:
    """One bar for each token, the likeliest on top, and one for all that are not shown; each with its number."""
    plots.labelled_axes(ax, title, "probability of the next token", "")
    heights = [*chances.tolist(), max(0.0, 1 - chances.sum().item())]
    drawn = ax.barh(range(len(heights)), heights, color=[LIKELY] * len(names) + [OTHERS], height=0.75)
    drawn[-1].set_hatch("///")
    drawn[-1].set_edgecolor("white")
    ax.bar_label(drawn, fmt="%.2f", padding=3, fontsize=9)
    ax.set_yticks(range(len(heights)), [*names, REST], parse_math=False)
    ax.set_ylim(len(heights) - 0.4, -0.6)
    ax.set_xlim(0, 1.08)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)


def temperature_slider(next_logits: Callable[[str], Tensor], tokenizer: Any, text: str) -> Any:
    """A text, a temperature and a top-k to move, with the picture of the next token below.

    `next_logits` gives the logits, (V,), of the token after a text.
    """
    def draw(text: str, temperature: float, top_k: int) -> None:
        _, ax = subplots(figsize=(6, 3.6), layout="constrained")
        logits = next_logits(text)
        best = logits.topk(10)
        kept = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
        _draw(ax, words_of(tokenizer, best.indices), (kept / temperature).softmax(-1)[best.indices],
              f"temperature {temperature:g}, top-k {top_k}")
        plt.show()

    knobs = {"text": ipywidgets.Text(text, continuous_update=False, description="text"),
             "temperature": ipywidgets.FloatSlider(1.0, min=0.1, max=3.0, step=0.1, description="temperature"),
             "top_k": ipywidgets.IntSlider(20, min=1, max=40, description="top-k")}
    return ipywidgets.VBox([*knobs.values(), ipywidgets.interactive_output(draw, knobs)])
