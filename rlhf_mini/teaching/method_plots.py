"""Draw methods beside one another: how fast each learns, and what it pays in nats for what it gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_mini import plots
from rlhf_mini.errors import InputError
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.plots.style import Style

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

METHOD_STYLES = {
    "PPO": Style("PPO", "#0072B2", "-", "o"),
    "REINFORCE": Style("REINFORCE", "#56B4E9", "-.", "s"),
    "RLOO": Style("RLOO", "#009E73", ":", "^"),
    "GRPO": Style("GRPO", "#D55E00", "-", "D"),
    "online DPO": Style("online DPO", "#CC79A7", "--", "v"),
    "DPO on rankings": Style("DPO on rankings", "#7A5A00", "-", "P"),
}
REACH = 0.3  # nats outside of the recorded prices to which the line between them is drawn on
Recorded = Mapping[str, Any]  # of one seed: method -> price -> figures, as `make methods` records them


@picture
def learning_curves(shares: Mapping[str, Sequence[Sequence[float]]], episodes: int, ax: Axes | None = None) -> Axes:
    """J / J* over the endings sampled: of each method the mean over seeds, with a band from the lowest to the highest.

    `shares` holds for each method one list for each seed, an entry for each iteration of `episodes` endings.
    """
    ax = plots.labelled_axes(ax, "J / J*, mean and range over seeds", "endings sampled", "share of what can be gained")
    for method, seeds in shares.items():
        style, rows = METHOD_STYLES[method], np.array(seeds)  # (seeds, iterations)
        sampled = episodes * np.arange(1, rows.shape[1] + 1)
        ax.plot(sampled, rows.mean(0), style.dash, color=style.color, label=style.label)
        ax.fill_between(sampled, rows.min(0), rows.max(0), color=style.color, alpha=0.15, linewidth=0)
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.set_ylim(0, 1.05)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return ax


@picture
def frontier(seeds: Sequence[Recorded], methods: Sequence[str], key: str, title: str, ax: Axes | None = None) -> Axes:
    """A figure of each method's endings over the KL paid for it, at every recorded price, and of best of n.

    Points are means over seeds, with the range in both directions; a line joins the prices of one method.
    """
    ax = plots.labelled_axes(ax, title, "KL from the reference (nats per ending)", "standard deviations")
    best = np.array([[(row["kl"], row[key]) for row in seed["best_of_n"]] for seed in seeds])  # (seeds, n, 2)
    kl, gained = best.mean(0).T
    ax.plot(kl, gained, color="black", linewidth=1, marker=".", label="best of n (KL is a bound)")
    for row, x, y in zip(seeds[0]["best_of_n"], kl, gained, strict=True):
        if row["n"] > 1:
            ax.annotate(str(row["n"]), (x, y), xytext=(-3, 4), textcoords="offset points", fontsize=8, ha="right")
    for method in methods:
        style = METHOD_STYLES[method]
        found = np.array([[(at["kl"], at[f"{key}_mean"]) for at in seed[method].values()] for seed in seeds])
        x, y = np.moveaxis(found, -1, 0)  # (seeds, prices) each
        spread = [np.abs([z.mean(0) - z.min(0), z.max(0) - z.mean(0)]) for z in (x, y)]
        ax.errorbar(x.mean(0), y.mean(0), spread[1], spread[0], color=style.color, linestyle=style.dash,
                    marker=style.marker, markersize=5, elinewidth=0.8, label=style.label)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return ax


def at_kl(seed: Recorded, method: str, nats: float, key: str) -> float:
    """A figure of a method at this KL, on the straight line through its two prices.

    Raises: InputError where the KL is further than REACH outside of what was recorded: a line says nothing there.
    """
    (low, left), (high, right) = sorted((at["kl"], at[key]) for at in seed[method].values())
    if not low - REACH <= nats <= high + REACH:
        raise InputError(f"{method} was recorded from {low:.2f} to {high:.2f} nats: choose a KL in between, not {nats}")
    return float(left + (nats - low) / (high - low) * (right - left))


@picture
def gains(history: Mapping[str, Sequence[float]], ax: Axes | None = None, smooth: int = 10) -> Axes:
    """How much more likely DPO makes the chosen and the rejected endings than the reference, in a running mean."""
    ax = plots.labelled_axes(ax, "What DPO does to its pairs", "step", "ln policy − ln reference (nats per ending)")
    for key, colour, dash in (("chosen", "#009E73", "-"), ("rejected", "#D55E00", "--")):
        values = np.convolve(history[key], np.ones(smooth) / smooth, "valid")
        steps = np.arange(smooth, len(history[key]) + 1)
        ax.plot(steps, values, dash, color=colour)
        ax.annotate(key, (steps[-1], values[-1]), xytext=(4, 0), textcoords="offset points", color=colour, va="center")
    ax.axhline(0, color="black", linewidth=0.8, linestyle=":")
    ax.margins(x=0.12)
    return ax


@picture
def program_reward(seeds: Sequence[Recorded], axes: Any = None) -> Any:
    """GRPO with the reader's verdict as its score: coherent endings, and groups without any difference."""
    if axes is None:
        _, axes = subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    for one, key, title in ((axes[0], "score", "Coherent endings"), (axes[1], "flat", "Groups that teach nothing")):
        plots.labelled_axes(one, title, "iteration", "share")
        for size, colour, dash in zip(seeds[0]["coherence"], ("#0072B2", "#D55E00"), ("-", "--"), strict=True):
            rows = np.array([seed["coherence"][size]["history"][key] for seed in seeds])
            steps = np.arange(1, rows.shape[1] + 1)
            one.plot(steps, rows.mean(0), dash, color=colour, label=f"{size} endings to an opening")
            one.fill_between(steps, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
    axes[0].set_ylim(0.8, 1.0)
    axes[1].set_ylim(0, 1.03)
    axes[1].legend(fontsize=8, frameon=False, loc="lower right")
    return axes
