"""A plot of one ending, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from numpy.typing import NDArray

from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.plots.style import STYLES

if TYPE_CHECKING:  # importing it would import torch, which the other plots do not need
    from rlhf_mini.token_views import TokenView


@picture
def token_plot(views: Sequence[TokenView]) -> NDArray[Any]:
    """Log-probability, KL, reward, and value with advantage as four rows, over the tokens; returns their Axes."""
    _, axes = subplots(4, 1, figsize=(max(6.0, 1.2 + 0.27 * len(views)), 8.2), sharex=True, layout="constrained",
                           height_ratios=(3, 3, 2, 3))
    places, policy, reference = range(len(views)), STYLES["ppo"], STYLES["sft"]
    _row(axes[0], "Log-probability of each token", "nats")
    axes[0].plot(places, [v.logp_ref for v in views], color=reference.color, linestyle=":", marker=reference.marker,
                 markersize=4, linewidth=1, label="reference")
    axes[0].plot(places, [v.logp for v in views], color=policy.color, marker=policy.marker, markersize=4,
                 linewidth=1.4, label="policy")
    exact, k1 = sum(v.kl for v in views), sum(v.k1 for v in views)
    _row(axes[1], f"KL of the ending: exact {exact:z.2f} nats, k1 {k1:+z.2f} nats", "nats")
    axes[1].bar(places, [v.kl for v in views], color="#D55E00", label="exact, at each token")
    axes[1].plot(places, [v.k1 for v in views], color="#000000", linestyle="none", marker="_", markersize=9,
                 markeredgewidth=1.6, label="k1, which the reward uses")
    _row(axes[2], f"Reward: the KL penalty on each token, plus the score on the last; sum "
                  f"{sum(v.reward for v in views):+z.2f}", "score")
    axes[2].bar(places, [v.reward for v in views], color="#009E73")
    _row(axes[3], "Value and advantage", "score")
    axes[3].bar(places, [v.advantage for v in views], color="#56B4E9", label="advantage: better than expected?")
    axes[3].plot(places, [v.value for v in views], color="#000000", linestyle="--", marker=".", linewidth=1,
                 label="value: the expected reward")
    for ax in axes[[0, 1, 3]]:
        ax.legend(fontsize=8, frameon=False, ncols=2)
    axes[3].set_xticks(places, [v.label for v in views], rotation=90, fontsize=9, parse_math=False)
    axes[3].set_xlim(-0.7, len(views) - 0.3)
    return axes


def _row(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
    ax.set_ylabel(unit, fontsize=9)
    ax.axhline(0, color="#8C8C8C", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", linewidth=0.7)
    ax.set_axisbelow(True)
