"""The map of RLHF: its boxes, the arrows between them, and one picture of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rlhf_mini.plots.backend import picture, plt, subplots

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

MODEL, TEXT, NUMBER = "#0072B2", "#555555", "#009E73"  # the edge of a box says what is in it
ONCE, LOOP = "#444444", "#D55E00"


class Arrow(NamedTuple):
    """What moves from one box to another; in the loop, it does so again in every iteration."""

    start: str
    end: str
    label: str
    loop: bool = False


BOXES = {  # name: (centre, what is in it)
    "pretrained\nmodel": ((1.0, 5.0), MODEL), "fine-tuned\nmodel": ((3.9, 5.0), MODEL),
    "rankings": ((6.9, 5.0), TEXT), "reward\nmodel": ((9.5, 5.0), MODEL),
    "reference\n(frozen)": ((1.0, 2.55), MODEL), "policy": ((3.9, 2.55), MODEL), "endings": ((6.9, 2.55), TEXT),
    "score": ((9.5, 2.55), NUMBER), "KL": ((1.0, 0.5), NUMBER), "reward =\nscore − β · KL": ((6.9, 0.5), NUMBER)}
ARROWS = (
    Arrow("pretrained\nmodel", "fine-tuned\nmodel", "demonstrations"),
    Arrow("fine-tuned\nmodel", "rankings", "writes 4 endings,\nannotators rank"),
    Arrow("rankings", "reward\nmodel", "fit"), Arrow("fine-tuned\nmodel", "reference\n(frozen)", "copy"),
    Arrow("fine-tuned\nmodel", "policy", "copy"), Arrow("reward\nmodel", "score", "gives", True),
    Arrow("policy", "endings", "writes", True), Arrow("endings", "score", "get a", True),
    Arrow("policy", "KL", "compared", True), Arrow("reference\n(frozen)", "KL", "compared", True),
    Arrow("score", "reward =\nscore − β · KL", "plus", True),
    Arrow("KL", "reward =\nscore − β · KL", "minus β times", True),
    Arrow("reward =\nscore − β · KL", "policy", "PPO update", True))
STAGES = (  # title, its corner, the area
    ("1  supervised fine-tuning", (0.0, 5.72), (-0.15, 4.15, 5.35, 1.95), "#E3EEF8"),
    ("2  reward modelling", (5.45, 5.72), (5.3, 4.15, 5.25, 1.95), "#FFF1D2"),
    ("3  reinforcement learning: a loop", (0.0, -0.42), (-0.15, -0.6, 10.7, 4.6), "#E9F4EF"))


@picture
def draw_map(ax: Axes | None = None) -> Axes:
    """The three stages as areas, what is in them as boxes, and what moves as arrows; those of the loop are orange.

    Blue boxes are models, grey ones texts, green ones numbers. The background is white on a dark page too.
    """
    if ax is None:
        _, ax = subplots(figsize=(9.5, 6), layout="constrained", facecolor="white")
    ax.set(xlim=(-0.2, 10.6), ylim=(-0.65, 6.15))
    ax.set_axis_off()
    for title, corner, (x, y, width, height), colour in STAGES:
        ax.add_patch(plt.Rectangle((x, y), width, height, color=colour, zorder=0))
        ax.text(*corner, title, fontsize=11, fontweight="bold", color="#333333")
    boxes = {name: ax.text(*place, name, ha="center", va="center", fontsize=11, color="black", zorder=4,
                           bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": edge,
                                 "linewidth": 1.8}) for name, (place, edge) in BOXES.items()}
    for start, end, label, loop in ARROWS:
        colour = LOOP if loop else ONCE
        (x0, y0), (x1, y1) = BOXES[start][0], BOXES[end][0]
        ax.annotate("", (x1, y1), (x0, y0), zorder=5, arrowprops={  # after the boxes, at which it ends
            "arrowstyle": "-|>", "color": colour, "linewidth": 2.0 if loop else 1.2, "shrinkA": 3, "shrinkB": 3,
            "linestyle": "-" if loop else "--", "patchA": boxes[start].get_bbox_patch(),
            "patchB": boxes[end].get_bbox_patch()})
        ax.text((x0 + x1) / 2, (y0 + y1) / 2, label, ha="center", va="center", fontsize=9, color="black", zorder=6,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"})
    return ax


def in_words() -> str:
    """The arrows of the map, a line each, for whoever cannot see the picture."""
    lines = [" ".join(f"{arrow.start} --[{arrow.label}]--> {arrow.end}{' (loop)' * arrow.loop}".split())
             for arrow in ARROWS]
    return "\n".join(lines)
