"""What notebook 04 measures, drawn with intervals: the fit, accuracy, calibration, words and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_mini.plots import LABEL_FORMS, STYLES, labelled_axes
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.measured import Measured, mean_error, share_of
from rlhf_mini.teaching.reward_lesson import beyond, by_form

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = STYLES["ppo"].color, STYLES["ppo_no_kl"].color, "#8C8C8C"
PAIR = ((BLUE, "o"), (ORANGE, "s"))  # of two models in one picture


def fit_curve(steps: Sequence[Mapping[str, float]], level: float) -> Axes:
    """The loss of a fit step by step, its running mean, and what equal scores would cost."""
    ax = labelled_axes(None, "The loss of the fit", "step (16 rankings each)", "loss (nats per ranking)")
    losses = [row["loss"] for row in steps]
    smooth = [float(np.mean(losses[max(0, i - 7):i + 1])) for i in range(len(losses))]
    x = range(1, len(losses) + 1)
    ax.plot(x, losses, ".", color=GREY)
    ax.plot(x, smooth, color=BLUE, linewidth=2)
    ax.axhline(level, color="black", linestyle=":")
    for text, height, colour, where in (("all scores\nequal", level, "black", "bottom"),
                                        ("mean of\neight steps", smooth[-1], BLUE, "top")):
        ax.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), fontsize=9, color=colour, va=where)
    return ax


@picture
def certainties(certainty: Any, ceiling: Measured, ax: Axes | None = None) -> Axes:
    """How sure the panel is of the likelier order of each pair; the mean is the ceiling."""
    ax = labelled_axes(ax, "Some pairs are clear to the whole panel, others to nobody",
                       "probability of the likelier order", "held-out pairs")
    ax.hist(certainty, bins=20, range=(0.5, 1), color=STYLES["best_of_4"].color, edgecolor="white")
    ax.axvline(ceiling.value, color="black", linestyle="--")
    ax.annotate(f"mean: the ceiling, {ceiling}", (ceiling.value, 0.92), xycoords=("data", "axes fraction"),
                xytext=(-6, 0), textcoords="offset points", ha="right", fontsize=9)
    return ax


@picture
def to_the_ceiling(accuracies: Mapping[str, Measured], ceilings: Sequence[float], ax: Axes | None = None) -> Axes:
    """The accuracy of some models, or on some pairs, between chance and the ceiling of each."""
    if ax is None:
        _, ax = subplots(figsize=(7, 0.8 + 0.65 * len(accuracies)), layout="constrained")
    labelled_axes(ax, "", "accuracy on held-out pairs (bars: one standard error)", "")
    names = list(accuracies)[::-1]  # the first on top
    for height, (name, best) in enumerate(zip(names, reversed(ceilings), strict=True)):
        found = accuracies[name]
        ax.plot([0.5, best], [height, height], color="#DDDDDD", linewidth=6, solid_capstyle="butt", zorder=1)
        ax.errorbar(found.value, height, xerr=found.error, fmt="o", color=BLUE, markersize=8, capsize=3, zorder=3)
        ax.annotate(str(found), (found.value, height), xytext=(0, 9), textcoords="offset points", ha="center",
                    fontsize=9, color=BLUE)
        ax.plot(best, height, "|", color="black", markersize=18, markeredgewidth=2)
    top = len(accuracies) - 0.35
    for x, text in ((0.5, "chance"), (ceilings[0], "ceiling")):
        ax.annotate(text, (x, top), ha="center", va="bottom", fontsize=9)
    ax.plot([0.5, 0.5], [-0.5, top], color="black", linestyle=":")
    ax.grid(axis="y", visible=False)
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0.4, 1.03),
           ylim=(-0.5, top + 0.35))
    return ax


@picture
def accuracy_by_labels(recorded: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Accuracy over the number of rankings for each form of using them: the mean, with the range of the seeds."""
    if ax is None:
        _, ax = subplots(figsize=(8, 4), layout="constrained")
    labelled_axes(ax, "What labels buy: mean and range of three seeds", "rankings of four endings (log scale)",
                  "accuracy (fraction of held-out pairs)")
    found = by_form(recorded)
    for shift, (form, style) in zip((0.96, 1.0, 1.04), LABEL_FORMS.items(), strict=True):
        sizes = np.array(list(found[form]))
        rows = np.array(list(found[form].values()))  # (sizes, seeds)
        mean = rows.mean(1)
        ax.errorbar(sizes * shift, mean, np.abs([mean - rows.min(1), rows.max(1) - mean]), color=style.color,
                    linestyle=style.dash, marker=style.marker, markersize=5, linewidth=1.2, elinewidth=1)
        lift = {"full": 9, "exploded": -3, "top_1": -6}[form]
        ax.annotate(style.label, (sizes[-1] * shift, mean[-1]), xytext=(10, lift), textcoords="offset points",
                    color=style.color, fontsize=9, va="center")
    ceiling = recorded["ceiling"]
    for height, name, dash in ((ceiling, f"ceiling, {ceiling:.1%}", "--"), (0.5, "chance", ":")):
        ax.axhline(height, color="black", linestyle=dash, linewidth=1)
        ax.annotate(name, (sizes[0], height), xytext=(0, 4), textcoords="offset points", fontsize=9)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.set_xticks([], minor=True)
    ax.set(xlim=(sizes[0] * 0.85, sizes[-1] * 5), ylim=(0.48, 0.9))
    return ax


@picture
def calibration(margins: Any, openings: Sequence[str], title: str, ax: Axes | None = None, bins: int = 10) -> Axes:
    """Predicted against observed preferences, with one standard error over the openings; shaded: surer than right.

    Every second pair is turned round, or the chosen ending would always be the first. Shapes: margins (N,).
    """
    ax = labelled_axes(ax, title, "the model's probability that the first ending is preferred",
                       "share of pairs in which it was")
    turned = np.arange(len(margins)) % 2 == 1
    predicted = 1 / (1 + np.exp(-np.where(turned, -1, 1) * np.asarray(margins, float)))
    place = (predicted * bins).astype(int).clip(max=bins - 1)
    ax.fill_between([0, 1], [0, 1], 0.5, color="#F3D9C8", linewidth=0, zorder=0)
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1.4)
    for b in range(bins):
        here = np.flatnonzero(place == b)
        names = [openings[i] for i in here.tolist()]
        if len(set(names)) > 1:
            seen = share_of(~turned[here], names)
            ax.errorbar(predicted[here].mean(), seen.value, seen.error, fmt="o", color=BLUE, capsize=2, markersize=6)
    ax.annotate("calibrated", (0.36, 0.36), (0.5, 0.12), fontsize=9, arrowprops={"arrowstyle": "-", "color": GREY})
    ax.text(0.99, 0.52, "surer than right", ha="right", fontsize=9, color="#8A4B1F")
    ax.text(0.01, 0.48, "surer than right", va="top", fontsize=9, color="#8A4B1F")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return ax


@picture
def words_worth(texts: Sequence[tuple[str, Sequence[tuple[str, float]]]], axes: Any = None) -> Any:
    """For each text, a title and its words with what each adds to the score, read downwards."""
    if axes is None:
        _, axes = subplots(1, len(texts), figsize=(5 * len(texts), 5.6), layout="constrained", sharex=True)
    for ax, (title, worth) in zip(axes, texts, strict=True):
        words, lost = zip(*worth, strict=True)
        ax.barh(range(len(words)), lost, color=[BLUE if x > 0 else ORANGE for x in lost], edgecolor="white",
                hatch=["" if x > 0 else "///" for x in lost])
        ax.set_yticks(range(len(words)), words, fontsize=9, parse_math=False)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(words) - 0.4, -0.6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].figure.supxlabel("score of the ending − score without the word (hatched: the word costs)", fontsize=10)
    return axes


@picture
def score_so_far(words: Sequence[str], scores: Any, final: float, ax: Axes | None = None) -> Axes:
    """The score if the text stopped after each word, and the score of the finished text."""
    if ax is None:
        _, ax = subplots(figsize=(8.5, 3.2), layout="constrained")
    labelled_axes(ax, "The score jumps from word to word", "", "score if it stopped here (s.d.)")
    ax.plot(scores, "o-", color=BLUE, markersize=4)
    ax.axhline(final, color="black", linestyle="--", linewidth=1)
    ax.annotate("the finished ending", (0, final), xytext=(0, -12), textcoords="offset points", fontsize=9)
    ax.set_xticks(range(len(words)), words, rotation=60, ha="right", fontsize=9, parse_math=False)
    return ax


@picture
def liking_for_length(length: Any, gold: Any, scores: Mapping[str, Any], openings: Sequence[str],
                      ax: Axes | None = None, bins: int = 6) -> Axes:
    """What each model's score holds beyond gold, for endings of similar length, with one standard error."""
    if ax is None:
        _, ax = subplots(figsize=(7, 3.8), layout="constrained")
    labelled_axes(ax, "What each model pays beyond gold, by length", "length of the ending (words)",
                  "score beyond what gold explains (s.d.)")
    words, true, names = np.asarray(length, float), np.asarray(gold, float), np.asarray(openings)
    place = np.searchsorted(np.quantile(words, np.linspace(0, 1, bins + 1)[1:-1]), words)
    for shift, (colour, marker), (name, score) in zip((-0.25, 0.25), PAIR, scores.items(), strict=True):
        left = beyond(np.asarray(score, float), true)
        found = [(words[place == b].mean(), mean_error(left[place == b], list(names[place == b]))) for b in range(bins)]
        x = [middle + shift for middle, _ in found]
        ax.errorbar(x, [one.value for _, one in found], [one.error for _, one in found], fmt=marker, color=colour,
                    capsize=2, markersize=6)
        ax.annotate(name, (x[-1], found[-1][1].value), xytext=(8, 4), textcoords="offset points", fontsize=9,
                    color=colour)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.margins(x=0.28)
    return ax
