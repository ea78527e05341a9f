"""How plots style: one colour, dash and marker for each model, axes with labels, a legend or a note."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from rlhf_mini.plots.backend import subplots
from rlhf_mini.tables import MODELS


@dataclass(frozen=True)
class Style:
    """How one model is drawn in every plot: a colour-blind-safe colour, and a dash and a marker for print.

    Source: Okabe & Ito 2008, for the colours.
    """

    label: str
    color: str
    dash: str = "-"
    marker: str = "o"


STYLES = {
    "base": Style(MODELS["base"], "#8C8C8C", marker="X"),
    "sft": Style(MODELS["sft"], "#000000", marker="D"),
    "best_of_4": Style(MODELS["best_of_4"], "#56B4E9", marker="^"),
    "best_of_16": Style(MODELS["best_of_16"], "#009E73", marker="v"),
    "ppo": Style(MODELS["ppo"], "#0072B2", "-", "o"),
    "ppo_no_kl": Style(MODELS["ppo_no_kl"], "#D55E00", "--", "s"),
}
ARMS = ("ppo", "ppo_no_kl")


def number(value: Any) -> float:
    """The value as a float; NaN where it is missing, null or not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def without_legend(ax: Axes) -> Axes:
    """The same Axes without their legend: in a row of plots, one legend is enough."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    return ax


def labelled_axes(ax: Axes | None, title: str, xlabel: str, ylabel: str) -> Axes:
    """The given Axes, or those of a new figure, with title, labels and a light grid."""
    if ax is None:
        _, ax = subplots(figsize=(6, 3.8), layout="constrained")
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(labelsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#DDDDDD", linewidth=0.7)
    ax.set_axisbelow(True)
    if xlabel == "iteration":
        ax.locator_params(axis="x", integer=True)  # iterations are whole numbers
    return ax


def legend_or_note(ax: Axes, drawn: bool, note: str, legend: bool = True) -> None:
    """A legend if something was drawn; otherwise a note in the middle of the axes."""
    if not drawn:
        ax.text(0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", color="#555555")
    elif legend:
        ax.legend(fontsize=8, frameon=False, loc="best")
