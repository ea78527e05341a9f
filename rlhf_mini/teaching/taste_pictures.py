"""The pictures of notebook 08: scores against the truth, a run, win rates, seeds, and stories told by two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini.plots import STYLES, Style, labelled_axes
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.story_cards import Card, StoryCards
from rlhf_mini.teaching.taste import WinRate
from rlhf_mini.teaching.taste_tables import Runs

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

LEARNT = Style("learnt", "#0072B2", "-", "o")
CONTROL = Style("control (−panel)", "#D55E00", "--", "s")
TRUTH = Style("the taste itself", "#009E73", "-", "o")
GREY = "#555555"
CURVES = (  # of a run: title, unit, and what is drawn
    ("Score and taste", "s.d. of SFT endings", {"score": Style("score", "#D55E00", "--", "s"), "own": TRUTH}),
    ("KL from the reference", "nats per ending", {"kl": STYLES["ppo"]}),
    ("Gold: the panel's taste", "s.d. of the tales", {"gold": Style("", "#000000", ":", "^")}),
)
PANELS = (  # of the seeds: title, unit, and where there is no difference
    ("Exam", "pairs in the right order (%) ± 1 standard error", 50),
    ("Move of the taste", "s.d. of the taste ± 1 standard error", 0),
    ("Twenty blind pairs", "win rate (%), 95 % interval", 50),
)


@picture
def scores_over_truth(truth: Any, scores: Mapping[str, Any], sense: NDArray[np.bool_]) -> NDArray[Any]:
    """The score of each ending over what the taste truly thinks of it, for each kind of score.

    Points are shifted a little sideways, because the truth has few values. Shapes: (N,) each; `sense` is bool.
    """
    _, axes = subplots(1, len(scores), figsize=(9.4, 3.8), layout="constrained", sharey=True)
    aside = np.asarray(truth) + np.random.default_rng(0).uniform(-0.25, 0.25, len(truth))
    for ax, (title, heights) in zip(axes, scores.items(), strict=True):
        labelled_axes(ax, title[0].upper() + title[1:], "true utility of the ending (points)", "")
        ax.axhline(0, color="#8C8C8C", linewidth=0.8)
        ax.plot(aside[sense], np.asarray(heights)[sense], "o", markersize=4, alpha=0.35, color=LEARNT.color)
        ax.plot(aside[~sense], np.asarray(heights)[~sense], "x", markersize=5, color=CONTROL.color)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high + 0.12 * (high - low))  # room for two words above the points
    for these, word, side, end, style in ((~sense, "makes no sense", "left", np.min, CONTROL),
                                          (sense, "makes sense", "right", np.max, LEARNT)):
        for ax in axes if these.any() else ():
            ax.annotate(word, (end(aside[these]), 0.95), xycoords=("data", "axes fraction"), ha=side, fontsize=9,
                        color=style.color)
    axes[0].set_ylabel("score (s.d. of SFT endings)", fontsize=9)
    return np.asarray(axes)


@picture
def curves_of_a_taste(rows: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """Score and true taste, KL, and gold over the iterations of a run; labels stand at the ends of the curves."""
    _, axes = subplots(1, len(CURVES), figsize=(11, 3.1), layout="constrained")
    places = list(range(1, len(rows) + 1))
    for ax, (title, unit, drawn) in zip(axes, CURVES, strict=True):
        labelled_axes(ax, title, "iteration", unit)
        for key, style in drawn.items():
            heights = [row[key] for row in rows]
            ax.plot(places, heights, style.dash, color=style.color, marker=style.marker, markersize=4)
            if len(drawn) > 1:
                ax.annotate(style.label, (places[-1], heights[-1]), xytext=(7, 0), textcoords="offset points",
                            va="center", fontsize=9, color=style.color)
        ax.set_xlim(0, len(rows) * (1.5 if len(drawn) > 1 else 1.03) + 0.5)
        ax.set_xticks([i for i in places if i == 1 or i % 4 == 0])
    return np.asarray(axes)


@picture
def win_rates(found: Mapping[str, WinRate], title: str, ax: Axes | None = None) -> Axes:
    """Win rates and their 95 % intervals, one below the other, beside the 50 % of a coin."""
    if ax is None:
        _, ax = subplots(figsize=(7.6, 1.15 + 0.42 * len(found)), layout="constrained")
    ax = labelled_axes(ax, title, "win rate (%), with its 95 % interval", "")
    ax.axvline(50, color=GREY, linestyle=":", linewidth=1.4)
    for height, (rate, low, high) in enumerate(found.values()):
        ax.plot([100 * low, 100 * high], [height, height], color=LEARNT.color, linewidth=2)
        ax.plot(100 * rate, height, LEARNT.marker, color=LEARNT.color, markersize=7)
        ax.annotate(f"{rate:.0%}: {low:.0%} to {high:.0%}", (103, height), va="center", fontsize=9,
                    annotation_clip=False)
    ax.annotate("a coin", (50, -0.5), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9, color=GREY)
    ax.set(xlim=(0, 128), ylim=(len(found) - 0.4, -0.8), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(found)), list(found))
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return ax


@picture
def learnt_and_control(runs: Runs, endings: int) -> NDArray[Any]:
    """What was learnt beside its control in every seed: the exam, the move of the taste, and the blind pairs.

    `endings` is how many were read before and after, for the error of the move.
    """
    _, axes = subplots(1, 3, figsize=(11, 3.9), layout="constrained", sharey=True)
    rows = {i * (len(both) + 0.7) + j: (f"{name}, seed {pair[0]['seed']}", pair)
            for i, (name, both) in enumerate(runs.items()) for j, pair in enumerate(both)}
    for ax, (title, unit, level) in zip(axes, PANELS, strict=True):
        labelled_axes(ax, title, unit, "").grid(visible=False, axis="y")
        ax.axvline(level, color=GREY, linestyle=":", linewidth=1.4)
    for height, (_, (learnt, control)) in rows.items():
        for style, row, which, y in ((LEARNT, learnt, "learnt", height - 0.16),
                                     (CONTROL, control, "turned", height + 0.16)):
            exam = learnt["exam"][which]
            _dot(axes[0], style, y, *(100 * (exam["value"] + sign * exam["error"]) for sign in (0, -1, 1)))
            _dot(axes[1], style, y, *(row["shift"] + sign * (2 / endings) ** 0.5 for sign in (0, -1, 1)))
            _dot(axes[2], style, y, *(100 * row[end] for end in ("rate", "low", "high")))
    first = next(iter(rows.values()))[1][0]["exam"]
    for style, which, y in ((LEARNT, "learnt", -0.16), (CONTROL, "turned", 0.16)):
        axes[0].annotate(style.label, (100 * (first[which]["value"] + first[which]["error"]), y), xytext=(6, 0),
                         textcoords="offset points", va="center", fontsize=9, color=style.color)
    axes[0].set_yticks(list(rows), [name for name, _ in rows.values()])
    axes[0].set_ylim(max(rows) + 0.5, -0.5)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return np.asarray(axes)


def _dot(ax: Axes, style: Style, y: float, middle: float, low: float, high: float) -> None:
    """A point and its interval."""
    ax.plot([low, high], [y, y], color=style.color, linewidth=1.8)
    ax.plot(middle, y, style.marker, color=style.color, markersize=6)


# --- stories ----------------------------------------------------------------------------------------------------

SIDES = {"before": ("before: the fine-tuned model", GREY), "after": ("after: the policy", LEARNT.color)}


def story_cards(stories: Iterable[tuple[str, str, str]], verdicts: Mapping[str, str], annotator: str) -> StoryCards:
    """Each story (opening, ending before, ending after) as two cards; the preferred one says so.

    `verdicts` has "before", "after" or "neither" for each opening.
    """
    def title(side: str, verdict: str) -> str:
        mark = f" · preferred by {annotator}" if verdict == side else " · a tie" if verdict == "neither" else ""
        return SIDES[side][0] + mark

    return StoryCards([(opening, [Card(title(side, verdicts.get(opening, "")), ending, {}, SIDES[side][1])
                                  for side, ending in (("before", before), ("after", after))])
                       for opening, before, after in stories])
