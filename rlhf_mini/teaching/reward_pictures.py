"""How a reward model works, drawn without any measurement: its losses and its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlhf_mini.plots import STYLES, labelled_axes
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.reward import bradley_terry_loss

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY, PALE = STYLES["ppo"].color, STYLES["ppo_no_kl"].color, "#8C8C8C", "#BFD9EA"


@picture
def pair_loss(ax: Axes | None = None) -> Axes:
    """The loss of a pair over its margin, with the two straight lines that it follows."""
    ax = labelled_axes(ax, "A pair in the wrong order costs about its margin",
                       "margin: score of the chosen − score of the rejected", "loss (nats per pair)")
    margins = torch.linspace(-6, 6, 121)
    ax.plot(margins, [bradley_terry_loss(m[None], torch.zeros(1)) for m in margins], color=BLUE, linewidth=2)
    ax.plot([-6, 0, 6], [6, 0, 0], ":", color=GREY)
    ax.plot(0, np.log(2), "o", color="black")
    for text, at, where in (("equal scores: ln 2", (0, np.log(2)), (0.4, 1.5)),
                            ("wrong order:\nthe loss rises in a straight line", (-4, 4.02), (-2.9, 4.4)),
                            ("right order: almost nothing left to gain", (4.5, 0.01), (0.9, 0.55))):
        arrow = {"arrowstyle": "-", "color": GREY} if at != (4.5, 0.01) else None
        ax.annotate(text, at, where, fontsize=9, arrowprops=arrow)
    return ax


@picture
def elimination(weights: Sequence[float], order: Sequence[int], axes: Any = None) -> Any:
    """Plackett-Luce step by step: bars of softmax over what is left; the chosen ending leaves.

    `weights` are e to the power of the scores; `order` lists the endings, best first.
    """
    if axes is None:
        _, axes = subplots(1, len(order), figsize=(2.5 * len(order), 2.7), layout="constrained", sharey=True)
    names, product = "ABCDEFGH"[:len(weights)], []
    for step, (ax, chosen) in enumerate(zip(axes, order, strict=True)):
        left = order[step:]
        for i in range(len(weights)):
            if i not in left:
                ax.text(i, 0.02, "gone", ha="center", color=GREY, fontsize=9)
                continue
            p = weights[i] / sum(weights[k] for k in left)
            ax.bar(i, p, color=BLUE if i == chosen else PALE, edgecolor=BLUE)
            ax.text(i, p + 0.02, f"{p:.2f}", ha="center", fontsize=9, fontweight="bold" if i == chosen else "normal")
        product.append(weights[chosen] / sum(weights[k] for k in left))
        ax.set_title(f"choice {step + 1}: {names[chosen]}", loc="left", fontsize=11, fontweight="bold")
        ax.set_xticks(range(len(weights)), [f"{name}\n$e^s$ = {w:g}" for name, w in zip(names, weights, strict=True)],
                      fontsize=9)
        ax.set(xlim=(-0.6, len(weights) - 0.4), ylim=(0, 1.15))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("probability of being chosen", fontsize=9)
    axes[0].figure.supxlabel("P(the ranking) = " + " × ".join(f"{p:.2f}" for p in product)
                             + f" = {np.prod(product):.3f}", fontsize=10)
    return axes


@picture
def three_heads(ax: Axes | None = None) -> Axes:
    """One kind of trunk under three heads, and the tokens at which each head is read.

    The first column is the last token of the opening, the last is padding. LM head and value head are read where the
    next token is predicted.
    """
    if ax is None:
        _, ax = subplots(figsize=(9.5, 3.9), layout="constrained")
    tokens = ["river.", "She", "gave", "it", "away", ".", "EOS", "pad"]
    rows = [("LM head (02)", "logits of the next token", "#009E73", "s"), ("value head (05)", "a value", ORANGE, "D"),
            ("reward head (here)", "the score, once", BLUE, "*")]
    for x, token in enumerate(tokens):
        colour = "black" if token != "pad" else "#B0B0B0"
        ax.text(x, 0, token, ha="center", va="center", fontsize=10, color=colour,
                bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour})
        ax.annotate("", (x, 0.75), (x, 0.3), arrowprops={"arrowstyle": "->", "color": colour})
        ax.plot(x, 1.95, "o", color=colour, markersize=9)
        for height, (_, _, head, marker) in enumerate(rows):
            if token != "pad" and (token == "EOS") == (height == 2):
                ax.plot(x, 2.9 + 0.75 * height, marker, color=head, markersize=18 if marker == "*" else 10)
    ax.fill_between([-0.45, 7.45], 0.78, 1.42, color=PALE)
    ax.text(3.5, 1.1, "trunk: each token sees itself and what stands left of it", ha="center", va="center", fontsize=10)
    ax.text(-0.7, 1.95, "hidden states", ha="right", va="center", fontsize=10)
    ax.text(-0.7, 0, "tokens", ha="right", va="center", fontsize=10)
    for height, (name, result, head, _) in enumerate(rows):
        ax.text(-0.7, 2.9 + 0.75 * height, name, ha="right", va="center", color=head, fontsize=10, fontweight="bold")
        ax.text(7.5, 2.9 + 0.75 * height, result, ha="left", va="center", color=head, fontsize=10)
    ax.set(xlim=(-3.0, 10.2), ylim=(-0.4, 4.8))
    ax.set_axis_off()
    return ax
