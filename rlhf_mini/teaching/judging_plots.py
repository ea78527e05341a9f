"""Pictures of notebook 03: pairs of a ranking, who agrees with whom, noise and position bias; and the cards' still."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.judging import pairs_of
from rlhf_mini.teaching.measured import Measured

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = plots.STYLES["ppo"].color, plots.STYLES["ppo_no_kl"].color, "#666666"
RADIUS = 0.26  # of an ending's circle, where two groups are 1 apart
BARS = 2  # standard errors that a bar covers on each side

TieGroups = Sequence[Sequence[int]]
Place = tuple[float, float]


def show_card(widget: Any, still: Path, alt: str) -> None:
    """Show a widget; where there is no kernel, a picture of one."""
    from IPython.display import display

    bundle = widget._repr_mimebundle_()
    data = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
    data.pop("text/plain", None)  # it holds an address
    data["image/png"] = base64.b64encode(still.read_bytes()).decode()
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


# --- pairs ------------------------------------------------------------------------------------------------------


@picture
def pair_arrows(*rankings: TieGroups) -> Any:
    """For each ranking, an arrow from the better to the worse ending of every pair; returns the Axes."""
    _, axes = subplots(1, len(rankings), figsize=(2.3 * len(rankings), 2.3), layout="constrained", squeeze=False)
    for ax, ranking in zip(axes[0], rankings, strict=True):
        places = {ending: (float(column), (len(group) - 1) / 2 - row)
                  for column, group in enumerate(ranking) for row, ending in enumerate(group)}
        pairs = pairs_of(ranking)
        for column, group in enumerate(ranking):
            _tie_box(ax, column, len(group))
        for better, worse in pairs:
            _arrow(ax, places[better], places[worse], list(places.values()))
        for ending, (x, y) in places.items():
            ax.add_patch(_circle(x, y))
            ax.text(x, y, str(ending), ha="center", va="center", fontsize=11, zorder=4)
        middle = (len(ranking) - 1) / 2
        ax.set(xlim=(middle - 1.85, middle + 1.85), ylim=(-1.75, 1.4), aspect="equal")
        ax.set_title(f"{list(map(list, ranking))}\n{len(pairs)} pairs", fontsize=10, fontweight="bold")
        ax.axis("off")
    axes[0][0].text(0, 0.45, "best", ha="center", fontsize=9, color=GREY)
    axes[0][0].text(len(rankings[0]) - 1, 0.45, "worst", ha="center", fontsize=9, color=GREY)
    return axes[0]


def _circle(x: float, y: float) -> Any:
    from matplotlib.patches import Circle

    return Circle((x, y), RADIUS, facecolor="white", edgecolor="black", linewidth=1.2, zorder=3)


def _tie_box(ax: Axes, column: int, members: int) -> None:
    """A dashed box around the members of a tie, with what it means."""
    from matplotlib.patches import FancyBboxPatch

    if members < 2:
        return
    low, height = -(members - 1) / 2 - RADIUS, members - 1 + 2 * RADIUS
    ax.add_patch(FancyBboxPatch((column - RADIUS, low), 2 * RADIUS, height, boxstyle="round,pad=0.1", fill=False,
                                edgecolor=GREY, linestyle="--", linewidth=1.2))
    ax.text(column, low - 0.2, "tie", ha="center", va="top", fontsize=9, color=GREY)


def _arrow(ax: Axes, start: Place, end: Place, places: Iterable[Place]) -> None:
    """An arrow from one circle to another, bent where a third one is in its way."""
    from matplotlib.patches import FancyArrowPatch

    blocked = any(_distance(place, start, end) < RADIUS + 0.05 for place in places if place not in (start, end))
    above = start[1] + end[1] >= 0 if start[1] != -end[1] else int(start[0]) % 2 == 0
    bend = 0.0 if not blocked else (-0.42 if above else 0.42)
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=BLUE, linewidth=1.4,
                                 connectionstyle=f"arc3,rad={bend}", shrinkA=11, shrinkB=11, zorder=2))


def _distance(point: Place, start: Place, end: Place) -> float:
    """From a point to the segment between two others."""
    along = (end[0] - start[0], end[1] - start[1])
    share = ((point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2)
    share = min(1.0, max(0.0, share))
    return math.dist(point, (start[0] + share * along[0], start[1] + share * along[1]))


# --- shares with their errors -----------------------------------------------------------------------------------


@picture
def who_agrees(groups: Mapping[str, Mapping[str, Measured | str]], ax: Axes | None = None) -> Axes:
    """Agreement of each two annotators as a dot with a bar, best first; each group has a colour and its own name.

    What is no number is left out. Bars cover two standard errors on each side.
    """
    rows = [(kind, pair, found) for kind, (group, shares) in enumerate(groups.items())
            for pair, found in sorted(shares.items(), key=lambda one: -getattr(one[1], "value", 0))
            if isinstance(found, Measured)]
    if ax is None:
        _, ax = subplots(figsize=(6.6, 1.2 + 0.26 * len(rows)), layout="constrained")
    ax = plots.labelled_axes(ax, "Who agrees with whom", "pairs ordered alike (%); bars: ± 2 standard errors", "")
    names, looks = list(groups), ((ORANGE, "s"), (BLUE, "o"))
    for place, (kind, _, found) in enumerate(rows):
        color, marker = looks[kind % len(looks)]
        ax.errorbar(100 * found.value, -place, xerr=100 * BARS * found.error, color=color, marker=marker,
                    markersize=5, elinewidth=1.2)
    for kind, name in enumerate(names):
        mine = [place for place, row in enumerate(rows) if row[0] == kind]
        if mine:
            ax.text(54, -(mine[0] + mine[-1]) / 2, name, color=looks[kind % len(looks)][0], fontsize=9, va="center")
    ax.axvline(50, color=GREY, linestyle=":", linewidth=1.2)
    ax.text(50.6, 0.75, "tossing coins", fontsize=8, color=GREY, va="bottom")
    ax.set_yticks([-place for place in range(len(rows))], [pair for _, pair, _ in rows], parse_math=False)
    ax.set(xlim=(48, 104), ylim=(-len(rows) + 0.4, 1.6))
    ax.grid(axis="y", visible=False)
    return ax


@picture
def shares_over(settings: Sequence[float], shares: Mapping[str, Sequence[Measured]], chance: Mapping[str, float],
                title: str, xlabel: str, ylabel: str, lowest: float = 0) -> Axes:
    """Shares for each setting of a dial, with bars of two standard errors, and what each would be by chance.

    The settings stand at equal distances. Where there are several series, each is labelled at its last point.
    """
    ax = plots.labelled_axes(None, title, xlabel, ylabel)
    looks = ((BLUE, "o", -0.06), (ORANGE, "s", 0.06))
    for (label, found), (color, marker, shift) in zip(shares.items(), looks, strict=False):
        places = [place + (shift if len(shares) > 1 else 0) for place in range(len(settings))]
        ax.errorbar(places, [100 * x.value for x in found], [100 * BARS * x.error for x in found], color=color,
                    marker=marker, markersize=6, linestyle="none", elinewidth=1.4)
        if len(shares) > 1:
            ax.text(places[-1] + 0.25, 100 * found[-1].value, label, color=color, fontsize=9, va="center")
    for label, share in chance.items():
        ax.axhline(100 * share, color=GREY, linestyle=":", linewidth=1.2)
        ax.text(len(settings) - 0.75, 100 * share, label, color=GREY, fontsize=9, va="center", backgroundcolor="white")
    ax.set_xticks(range(len(settings)), [f"{x:g}" for x in settings])
    ax.set(xlim=(-0.5, len(settings) + 1.1), ylim=(lowest, 105))
    return ax
