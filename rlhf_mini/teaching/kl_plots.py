"""Pictures of what a nat costs and buys: best of n, the tokens of an ending, estimators, prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.sampling import best_of_n_kl
from rlhf_mini.teaching.measured import Measured, resampled
from rlhf_mini.token_views import TokenView

PROXY, GOLD, BLACK = ("#D55E00", "s"), ("#009E73", "o"), "#000000"
ESTIMATORS = {"exact": (BLACK, "D"), "k1": ("#0072B2", "o"), "k2": ("#D55E00", "s"), "k3": ("#009E73", "^")}
PRICES = (("#009E73", ":", "^"), ("#0072B2", "-", "o"), ("#D55E00", "--", "s"))


@picture
def best_of_n_picture(found: Mapping[int, Mapping[str, Measured]], ax: Axes | None = None) -> Axes:
    """Score and gold of the best of n, with bars of one standard error; below each n the bound of its KL."""
    ax = plots.labelled_axes(ax, "What choosing alone buys", "n candidates, and the KL at most (nats per ending)",
                             "standard deviations")
    for key, (colour, marker), shift in (("score", PROXY, -0.07), ("gold", GOLD, 0.07)):
        means = [one[key].value for one in found.values()]
        ax.errorbar(np.arange(len(found)) + shift, means, [one[key].error for one in found.values()], color=colour,
                    marker=marker, linestyle="none", markersize=6, capsize=3, elinewidth=1.2,
                    markerfacecolor="white" if key == "score" else colour)
        ax.annotate(key, (len(found) - 1 + shift, means[-1]), xytext=(10, 4 if key == "score" else -9),
                    textcoords="offset points", color=colour, fontsize=10, fontweight="bold")
    ax.set_xticks(range(len(found)), [f"{n}\n{best_of_n_kl(n):.2f}" for n in found])
    ax.set_xlim(-0.4, len(found) - 0.2)
    return ax


@picture
def microscope_picture(views: Sequence[TokenView]) -> NDArray[Any]:
    """`plots.token_plot`, as wide and high as a laptop's screen shows at once."""
    axes = plots.token_plot(views)
    axes[0].figure.set_size_inches(min(11.5, axes[0].figure.get_size_inches()[0]), 6.6)
    for ax in axes[[0, 1, 3]]:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
        ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    return axes


@picture
def estimator_picture(distances: Mapping[float, Mapping[str, Any]]) -> NDArray[Any]:
    """Mean and spread of each estimator over endings, as multiples of the exact mean, at several distances."""
    _, axes = subplots(1, 2, figsize=(10.4, 3.7), layout="constrained")
    titles = {"mean": "Mean over endings", "std": "Spread (s.d.) over endings"}
    for ax, (what, title) in zip(axes, titles.items(), strict=True):
        plots.labelled_axes(ax, title, "distance from the reference", "multiple of the exact mean")
        for place, (kind, (colour, marker)) in enumerate(ESTIMATORS.items()):
            ratios = [resampled(lambda a, b, what=what: getattr(a, what)() / b.mean(), found[kind], found["exact"])
                      for found in distances.values()]
            ax.errorbar(np.arange(len(ratios)) + 0.15 * (place - 1.5), [one.value for one in ratios],
                        [min(one.error, 0.9 * one.value) for one in ratios], color=colour, marker=marker,
                        linestyle="none", markersize=7, capsize=3, elinewidth=1.2, label=kind)
        ax.axhline(1, color="#8C8C8C", linewidth=1, linestyle=":")
        ax.set_yscale("log")
        ax.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20, 50], ["0.2", "0.5", "1", "2", "5", "10", "20", "50"])
        ax.minorticks_off()
        ax.set_xticks(range(len(distances)), [f"s = {s:g}\n{found['exact'].mean():.2g} nats"
                                              for s, found in distances.items()])
        ax.set_xlim(-0.5, len(distances) - 0.5)
    axes[0].legend(fontsize=9, frameon=False, loc="upper left", ncols=2)
    return axes


@picture
def price_picture(runs: Mapping[float, Sequence[Mapping[str, float]]], episodes: int) -> NDArray[Any]:
    """KL and score of runs at several prices, with bands of one standard error: a KL varies by about its mean."""
    _, axes = subplots(1, 2, figsize=(10.0, 3.4), layout="constrained")
    for ax, key in zip(axes, ("kl", "score"), strict=True):
        plots.labelled_axes(ax, plots.QUANTITIES[key][0], "iteration", plots.QUANTITIES[key][1])
        for (price, rows), (colour, dash, marker) in zip(runs.items(), PRICES, strict=False):
            x, y = np.arange(1, len(rows) + 1), np.array([row[key] for row in rows])
            error = (np.abs(y) if key == "kl" else np.ones(len(y))) * episodes**-0.5
            ax.fill_between(x, y - error, y + error, color=colour, alpha=0.13, linewidth=0)
            ax.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=5, label=f"{price:g} a nat")
        ax.set_xticks(range(1, max(map(len, runs.values())) + 1))
    axes[0].legend(fontsize=9, frameon=False, loc="upper left")
    return axes


@picture
def ends_of_runs(ax: Axes, ends: Mapping[float, tuple[float, float]], furthest: float = 9.0) -> Axes:
    """Where runs at several prices ended, (KL, score), each with its price; the far ones are only named."""
    near = {price: end for price, end in ends.items() if end[0] <= furthest}
    for price, (kl, score) in near.items():
        ax.plot(kl, score, color="#CC79A7", marker="o", markersize=7, linestyle="none", markerfacecolor="white",
                markeredgewidth=1.6, label="ends of other runs, with their prices" if price == max(near) else None)
        ax.annotate(f"{price:g}", (kl, score), xytext=(6, -10), textcoords="offset points", fontsize=8.5)
    ax.set_xlim(right=max([ax.get_xlim()[1], *(kl + 0.7 for kl, _ in near.values())]))
    far = sorted(set(ends) - set(near), reverse=True)
    if far:
        ax.text(0.99, 0.62, "further right: " + ", ".join(f"{price:g}" for price in far), transform=ax.transAxes,
                ha="right", fontsize=8.5)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return ax
