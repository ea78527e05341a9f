"""Plots of a run, from its history and its metrics. Each function returns the Axes it drew on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.plots.style import ARMS, STYLES, labelled_axes, legend_or_note, number, without_legend
from rlhf_mini.texts import texts

Row = Mapping[str, Any]  # one line of history.jsonl

QUANTITIES = {  # key of history.jsonl: (title, unit)
    "score": ("Score from the reward model", "s.d. of SFT endings"),
    "gold": ("Gold reward", "s.d. of the tales"),
    "kl": ("KL from the reference", "nats per ending"),
    "clip_fraction": ("Clipped probability ratios", "fraction of tokens"),
    "entropy": ("Entropy of the policy", "nats per token"),
    "length": ("Length of an ending", "tokens"),
    "reward": ("Score minus KL penalty", "s.d. of SFT endings"),
    "coherent": ("Coherent endings", "fraction"),
    "grammatical": ("Grammatical endings", "fraction"),
    "ended": ("Endings that end", "fraction"),
    "kl_coef": ("KL coefficient", "score per nat"),
    "value_loss": ("Value loss", "squared score"),
    "explained_variance": ("Variance the value head explains", "fraction"),
}
REWARDS = {  # key of metrics.json: (title, axis)
    "gold_mean": ("Gold reward of each model's endings", "gold reward (s.d. of the tales)"),
    "proxy_mean": ("Proxy reward of each model's endings", "proxy reward (s.d. of SFT endings)"),
}
OVERVIEW = ("score", "gold", "kl", "clip_fraction", "entropy", "length")


def series(history: Sequence[Row], arm: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The iterations of one arm and the values of one key there, NaN where unknown. Shapes: (I,), (I,)."""
    rows = [row for row in history if row.get("arm") == arm]
    return (np.array([number(row.get("iteration")) for row in rows], dtype=float),
            np.array([number(row.get(key)) for row in rows], dtype=float))


@picture
def curve(history: Sequence[Row], key: str, ax: Axes | None = None) -> Axes:
    """One quantity over the iterations, both arms on the same axes."""
    title, unit = QUANTITIES.get(key, (key.replace("_", " "), ""))
    ax = labelled_axes(ax, title, "iteration", unit)
    drawn = False
    for arm in ARMS:
        iterations, values = series(history, arm, key)
        if np.isfinite(values).any():
            _line(ax, iterations, values, arm)
            drawn = True
    legend_or_note(ax, drawn, "not known in this run")
    return ax


@picture
def overview(history: Sequence[Row], keys: Sequence[str] = OVERVIEW) -> NDArray[Any]:
    """The curves of several quantities as small multiples; returns an array of Axes, one per key."""
    keys = texts("keys", keys)
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, grid = subplots(rows, columns, figsize=(4 * columns, 2.9 * rows), squeeze=False,
                                layout="constrained")
    axes = grid.ravel()
    for ax, key in zip(axes, keys, strict=False):
        curve(history, key, ax)
    for ax in axes[1:len(keys)]:
        without_legend(ax)  # one legend is enough
    for ax in axes[len(keys):]:
        figure.delaxes(ax)
    return axes[:len(keys)]


@picture
def proxy_against_gold(history: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Proxy and gold reward of each iteration, over the distance √KL from the reference.

    Source: Gao et al. 2022. Their x axis is d = √KL, because both rewards first rise linearly in it.
    """
    ax = labelled_axes(ax, "Proxy and gold reward over the distance", "√KL (√nats per ending)",
               "reward (s.d.)")
    drawn = False
    for arm in ARMS:
        _, kl = series(history, arm, "kl")
        distance = np.sqrt(np.maximum(kl, 0))  # rounding can make the exact KL of equal models −1e-9
        for key, kind in (("score", "proxy"), ("gold", "gold")):
            _, values = series(history, arm, key)
            if np.isfinite(distance + values).any():
                _scatter(ax, distance, values, arm, kind)
                drawn = True
    legend_or_note(ax, drawn, "neither reward is known in this run")
    return ax


@picture
def score_against_gold(history: Sequence[Row], ax: Axes | None = None) -> Axes:
    """The path of each arm through score and gold reward, from the small mark of its first iteration on."""
    ax = labelled_axes(ax, "Score against gold, iteration by iteration", "score from the reward model (s.d. of SFT "
                       "endings)", "gold reward (s.d. of the tales)")
    drawn = False
    for arm in ARMS:
        (_, score), (_, gold) = (series(history, arm, key) for key in ("score", "gold"))
        if np.isfinite(score + gold).any():
            style = STYLES[arm]
            ax.plot(score, gold, color=style.color, linestyle=style.dash, linewidth=1.3, label=style.label,
                    marker=style.marker, markersize=5, markevery=[0])
            drawn = True
    legend_or_note(ax, drawn, "score and gold are not both known in this run")
    return ax


def reward_to_compare(metrics: Mapping[str, Any]) -> str:
    """The key of the reward by which models can be compared: gold where any is known, else the proxy."""
    gold = [number((metrics.get(arm) or {}).get("gold_mean")) for arm in STYLES]
    return "proxy_mean" if any(metrics.get(arm) for arm in STYLES) and np.isnan(gold).all() else "gold_mean"


@picture
def mean_rewards(metrics: Mapping[str, Any], key: str = "gold_mean", ax: Axes | None = None) -> Axes:
    """The reward of every model: a mark for the mean and, for gold, a bar for one standard deviation."""
    title, unit = REWARDS[key]
    ax = labelled_axes(ax, title, unit, "")
    means = [(arm, number((metrics.get(arm) or {}).get(key))) for arm in STYLES]
    means = [(arm, mean) for arm, mean in means if not math.isnan(mean)]
    for height, (arm, mean) in enumerate(reversed(means)):
        style, deviation = STYLES[arm], number(metrics[arm].get(key.replace("mean", "std")))
        if not math.isnan(deviation):
            ax.plot([mean - deviation, mean + deviation], [height, height], color=style.color, alpha=0.35,
                    linewidth=5, solid_capstyle="butt")
        ax.plot(mean, height, color=style.color, marker=style.marker, markersize=9, linestyle="none")
        ax.annotate(_signed(mean), (mean, height), xytext=(0, 8), textcoords="offset points", ha="center",
                    fontsize=9)
    ax.set_yticks(range(len(means)), [STYLES[arm].label for arm, _ in reversed(means)])
    ax.set_ylim(-0.6, max(len(means), 1) - 0.3)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    legend_or_note(ax, bool(means), "no model has been measured yet", legend=False)
    return ax


def _line(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], arm: str) -> None:
    style = STYLES[arm]
    ax.plot(x, y, color=style.color, linestyle=style.dash, linewidth=1.7, label=style.label, marker=style.marker,
            markersize=4, markevery=max(1, len(x) // 8))


def _scatter(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], arm: str, kind: str) -> None:
    """Gold is filled and proxy is hollow; colour and marker show the arm."""
    style = STYLES[arm]
    ax.plot(x, y, color=style.color, linestyle="none", marker=style.marker, markersize=4.5,
            markerfacecolor=style.color if kind == "gold" else "white", markeredgewidth=0.9,
            markevery=max(1, len(x) // 60), label=f"{kind}, {style.label}")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
