"""Draw overoptimisation: runs while they train, and the runs that `assets/record/sweep.py` records.

A recorded run is a mapping with kl_coef, history (one list for each key) and evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

RecordedRun = Mapping[str, Any]
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"
DASHES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X", "*")
KINDS = {"gold": ("gold reward", GREEN, "o", "-"), "proxy": ("proxy reward", ORANGE, "s", "--")}


@picture
def training_curves(rows: Sequence[Mapping[str, Any]], axes: Sequence[Axes] | None = None) -> NDArray[Any]:
    """Three plots of one run, for use during training: proxy and gold reward, KL, and the share of coherent endings."""
    if axes is None:
        figure, axes = subplots(1, 3, figsize=(12, 3.4), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(wspace=0.06)
    iterations, columns = _history(rows, ("iteration", "score", "gold", "kl", "coherent"))
    rewards = plots.labelled_axes(axes[0], "Proxy and gold reward", "iteration", "reward (s.d.)")
    for key, kind in (("score", "proxy"), ("gold", "gold")):
        label, colour, marker, dash = KINDS[kind]
        rewards.plot(iterations, columns[key], color=colour, linestyle=dash, marker=marker, markersize=4, label=label,
                     markevery=_marker_step(iterations))
    rewards.fill_between(iterations, columns["score"], columns["gold"], color=GREY, alpha=0.15, linewidth=0)
    rewards.legend(fontsize=8, frameon=False)
    for ax, key, title in ((axes[1], "kl", "KL from the reference"), (axes[2], "coherent", "Coherent endings")):
        plots.labelled_axes(ax, title, "iteration", plots.QUANTITIES[key][1])
        ax.plot(iterations, columns[key], color=BLUE, marker="o", markersize=4, markevery=_marker_step(iterations))
    axes[2].set_ylim(-0.03, 1.03)
    return np.array(list(axes), dtype=object)


@picture
def rewards_over_distance(runs: Sequence[RecordedRun], best: Sequence[Mapping[str, float]] = (), ax: Axes | None = None,
                          named: bool = True) -> Axes:
    """Both rewards over √KL at the end of each PPO run, and of best of n: gold is filled, proxy hollow.

    Lines join neighbouring coefficients; with `named`, they are written at the points. `best` holds for each n the KL
    bound, and the mean gold and proxy reward of the endings that the proxy picks.
    """
    ax = plots.labelled_axes(ax, "Proxy and gold reward over the distance", "√KL (√nats per ending)", "reward (s.d.)")
    ordered = sorted(runs, key=lambda one: -one["kl_coef"])
    kl, gold, proxy = (np.array([one["evaluation"][key] for one in ordered])
                       for key in ("kl", "gold_mean", "proxy_mean"))
    _draw_rewards(ax, kl, gold, proxy, "-", "o", "PPO")
    for x, y, one in zip(np.sqrt(np.maximum(kl, 0)), gold, ordered if named else [], strict=named):
        ax.annotate(f"{one['kl_coef']:g}", (x, y), xytext=(4, -12), textcoords="offset points", fontsize=8)
    if best:
        kl, gold, proxy = np.array([[row["kl"], row["gold"], row["proxy"]] for row in best]).T
        _draw_rewards(ax, kl, gold, proxy, ":", "^", "best of n")
    ax.legend(fontsize=8, frameon=False)
    return ax


def _draw_rewards(ax: Axes, kl: NDArray[np.float64], gold: NDArray[np.float64], proxy: NDArray[np.float64], dash: str,
          marker: str, name: str) -> None:
    """Draw proxy (hollow) and gold (filled) over √KL."""
    distance = np.sqrt(np.maximum(kl, 0))
    for values, kind in ((proxy, "proxy"), (gold, "gold")):
        _, colour, _, _ = KINDS[kind]
        ax.plot(distance, values, color=colour, linestyle=dash, marker=marker, markersize=6, linewidth=1.3,
                markerfacecolor=colour if kind == "gold" else "white", label=f"{kind}, {name}")


@picture
def word_bars(worth: Sequence[tuple[str, float]], title: str, ax: Axes | None = None) -> Axes:
    """A bar for each word of `worth_of_words`, from top to bottom; words that lower the score are hatched."""
    if ax is None:
        _, ax = subplots(figsize=(5, 0.4 + 0.19 * len(worth)), layout="constrained")
    ax = plots.labelled_axes(ax, title, "worth of the word (s.d. of SFT endings)", "")
    values = [value for _, value in worth]
    ax.barh(range(len(worth)), values, color=[BLUE if x > 0 else ORANGE for x in values],
            hatch=["" if x > 0 else "///" for x in values], edgecolor="white")
    ax.set_yticks(range(len(worth)), [word for word, _ in worth], fontsize=8, parse_math=False)
    ax.set_ylim(len(worth) - 0.4, -0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    return ax


@picture
def scores_before_and_after(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
                            ax: Axes | None = None) -> Axes:
    """Scores of the same endings by the first and by the refitted reward model; below the diagonal they fell."""
    ax = plots.labelled_axes(ax, "The same endings, scored by both reward models",
                             "score by the first reward model (s.d.)", "score by the refitted reward model (s.d.)")
    for (label, (before, after)), colour, marker in zip(groups.items(), (GREY, PURPLE, BLUE), "^so", strict=False):
        ax.plot(before, after, linestyle="none", color=colour, marker=marker, markersize=4, alpha=0.65, label=label)
    low, high = min(*ax.get_xlim(), *ax.get_ylim()), max(*ax.get_xlim(), *ax.get_ylim())
    ax.plot([low, high], [low, high], color="black", linestyle=":", linewidth=1.2, label="no change")
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.legend(fontsize=8, frameon=False)
    return ax


def _history(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[list[float], dict[str, list[float]]]:
    """The rows as columns, and the column of the first key, which is the x axis."""
    columns = {key: [plots.number(row.get(key)) for row in rows] for key in keys}
    return columns[keys[0]], columns


def _marker_step(x: Sequence[float] | NDArray[np.float64]) -> int:
    return max(1, len(x) // 8)
