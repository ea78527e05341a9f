"""Pictures of losses and of what a fine-tuned model writes, for notebooks 01 and 02."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.measured import Measured, mean_error

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

GREY, BLUE, ORANGE = (plots.STYLES[name].color for name in ("base", "ppo", "ppo_no_kl"))
NATS = "loss (nats per token)"


@picture
def loss_by_place(losses: Sequence[Tensor], level: float, places: int = 24, ax: Axes | None = None) -> Axes:
    """The mean loss at each place of an ending, the EOS left out, ± one standard error over the tales."""
    found = [mean_error([row[t] for row in losses if len(row) > t + 1]) for t in range(places)]
    ax = plots.labelled_axes(ax, "The beginning of an ending is hard to predict", "place in the ending (1 is its "
                             "first token)", NATS)
    ax.errorbar(range(1, places + 1), [one.value for one in found], [one.error for one in found], color=BLUE,
                linestyle="none", marker="o", markersize=4, elinewidth=1)
    ax.axhline(level, color="black", linestyle=":")
    ax.annotate("entropy, mean over all places", (places, level), xytext=(0, 22), textcoords="offset points",
                ha="right", fontsize=9)
    ax.annotate("pretrained model", (1, found[0].value), xytext=(8, 0), textcoords="offset points", va="center",
                fontsize=9, color=BLUE)
    ax.set_ylim(0, None)
    return ax


@picture
def pretraining_curve(rows: Sequence[Mapping[str, float]], uniform: float, goal: float, ax: Axes | None = None) -> Axes:
    """The loss over the tokens read, between that of equal probabilities and that of the pretrained model."""
    ax = plots.labelled_axes(ax, "From random weights", "tokens read (thousands)", NATS)
    ax.plot([row["tokens"] / 1000 for row in rows], [row["loss"] for row in rows], color=ORANGE)
    ax.annotate("yours", (rows[-1]["tokens"] / 1000, rows[-1]["loss"]), xytext=(-4, 9), textcoords="offset points",
                ha="right", fontsize=9, color=ORANGE)
    for level, name, color, dash in ((uniform, "equal probabilities: ln 1,400", GREY, "--"),
                                     (goal, "pretrained, after 50.4 million tokens", BLUE, "-.")):
        ax.axhline(level, color=color, linestyle=dash)
        ax.annotate(name, (216, level), xytext=(0, 4), textcoords="offset points", ha="right", fontsize=9,
                    color="#555555" if color == GREY else color)
    ax.set(ylim=(0, 8.2), xlim=(0, 220))
    return ax


@picture
def loss_ladder(losses: Mapping[str, Measured | float], colors: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """One mark for each named loss, with its number and, where it is known, its error."""
    ax = plots.labelled_axes(ax, "Fifteen steps from two starts", "loss on held-out tales, end of text included "
                             "(nats per token)", "")
    for y, (name, loss) in enumerate(losses.items()):
        value, error = (loss.value, loss.error) if isinstance(loss, Measured) else (loss, 0.0)
        ax.errorbar(value, y, xerr=error, color=colors.get(name, GREY), marker="o", markersize=7, capsize=3)
        ax.annotate(f"{value:.2f}", (value, y), xytext=(9, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(losses)), list(losses))
    ax.set_ylim(len(losses) - 0.5, -0.5)
    ax.set_xlim(0, 8.6)
    return ax


@picture
def fine_tuning_curve(rows: Sequence[Mapping[str, float]], level: float, ax: Axes | None = None) -> Axes:
    """The loss of each step, beside the entropy of the tales."""
    ax = plots.labelled_axes(ax, "Fine-tuning", "step (64 demonstrations each)", NATS)
    ax.plot([row["step"] for row in rows], [row["loss"] for row in rows], color=BLUE, marker="o", markersize=3)
    ax.axhline(level, color="black", linestyle=":")
    ax.annotate("entropy of the tales", (64, level), xytext=(0, -32), textcoords="offset points", ha="right",
                fontsize=9)
    ax.set(ylim=(0, None), xlim=(0, 65))
    return ax


@picture
def before_and_after(words: Sequence[str], before: Tensor, after: Tensor, ax: Axes | None = None) -> Axes:
    """The loss of each token of one ending, before fine-tuning and after it."""
    if ax is None:
        _, ax = subplots(figsize=(max(6.0, 0.3 * len(words)), 3.4), layout="constrained")
    ax = plots.labelled_axes(ax, "What one ending costs, token by token", "", "loss (nats)")
    places = list(range(len(words)))
    last = len(words) - 1
    for heights, shift, color, name, lift in ((before, -0.2, GREY, "before", -14), (after, 0.2, BLUE, "after", 12)):
        drawn = ax.bar([x + shift for x in places], heights.tolist(), 0.4, color=color)
        if color == GREY:
            for one in drawn:
                one.set(hatch="//", edgecolor="white", linewidth=0)
        value = float(heights[-1])
        ax.annotate(f"{name}: {value:.{1 if value >= 1 else 2}f}", (last + shift, value), xytext=(-9, lift),
                    textcoords="offset points", ha="right", fontsize=9, color="#555555" if color == GREY else color)
    ax.set_xticks(places, words, rotation=60, ha="right", fontsize=8, parse_math=False)
    ax.grid(visible=False, axis="x")
    ax.margins(x=0.01)
    return ax


@picture
def temperature_curves(found: Mapping[float, Mapping[str, Measured]], chosen: float, ax: Axes | None = None) -> Axes:
    """Two shares of the endings over the sampling temperature, with their errors; `chosen` is the series' own."""
    ax = plots.labelled_axes(ax, "Temperature: coherent or different?", "sampling temperature",
                             "share of the endings (%)")
    for key, arm, at, lift in (("coherent", "ppo", -1, (-9, -9)), ("different", "ppo_no_kl", 0, (8, -10))):
        look, row = plots.STYLES[arm], [one[key] for one in found.values()]
        ax.errorbar(list(found), [100 * m.value for m in row], [100 * m.error for m in row], linestyle=look.dash,
                    color=look.color, marker=look.marker, markersize=5, elinewidth=1)
        ax.annotate(key, (list(found)[at], 100 * row[at].value), xytext=lift, textcoords="offset points",
                    ha="right" if at else "left", fontsize=9, color=look.color)
    ax.axvline(chosen, color=GREY, linestyle=":")
    ax.annotate(f"this series: {chosen:g}", (chosen, 12), xytext=(5, 0), textcoords="offset points", fontsize=9)
    ax.set_ylim(0, 104)
    return ax


@picture
def gold_curves(groups: Mapping[str, Tensor], ax: Axes | None = None) -> Axes:
    """The share of endings with at most so much gold reward, one curve for each of two groups."""
    ax = plots.labelled_axes(ax, "Gold of the demonstrations and of the model", "gold reward (s.d. of the tales)",
                             "share of endings with at most this gold")
    looks: list[Any] = [("black", "--", 0.35, "right", -14), (BLUE, "-", 0.7, "left", 14)]
    for (name, gold), (color, dash, share, side, shift) in zip(groups.items(), looks, strict=True):
        ax.ecdf(gold.numpy(), color=color, linestyle=dash)
        ax.annotate(name, (float(gold.quantile(share)), share), xytext=(shift, 0), textcoords="offset points",
                    ha=side, va="center", fontsize=9, color=color)
    ax.set_xlim(-4, 3.6)
    return ax
