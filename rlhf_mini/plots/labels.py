"""Plots of labels and of the reward model that learns from them. Each function returns the Axes it drew on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rlhf_mini.errors import InputError
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.plots.names import family_for, numbered, show_legend
from rlhf_mini.plots.style import Style, labelled_axes, legend_or_note, number
from rlhf_mini.rankings import Agreement

LABEL_FORMS = {  # form in label_efficiency.json: how the same rankings are used
    "full": Style("whole rankings (Plackett–Luce)", "#0072B2", "-", "o"),
    "exploded": Style("the pairs in them (Bradley–Terry)", "#009E73", "--", "s"),
    "top_1": Style("the winner alone", "#D55E00", "-.", "^"),
}


@picture
def calibration(bins: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Predicted against observed preferences of the reward model; on the diagonal it is calibrated."""
    ax = labelled_axes(ax, "Is the reward model as sure as it should be?",
               "predicted probability that one ending is preferred", "observed (fraction of pairs)")
    points = [(number(b.get("predicted")), number(b.get("observed")), number(b.get("count"))) for b in bins]
    points = [point for point in points if not any(map(math.isnan, point)) and point[2] > 0]
    ax.plot([0, 1], [0, 1], color="#8C8C8C", linestyle=":", linewidth=1.4, label="perfectly calibrated")
    if points:
        predicted, observed, counts = np.array(points).T
        ax.plot(predicted, observed, color="#0072B2", linewidth=1.2)
        ax.scatter(predicted, observed, s=20 + 160 * counts / counts.max(), color="#0072B2", alpha=0.85,
                   edgecolors="white", zorder=3, label=f"{counts.sum():,.0f} held-out pairs (area: how many)")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    legend_or_note(ax, bool(points), "no calibration in this run")
    return ax


@picture
def annotator_agreement(found: Agreement, ax: Axes | None = None) -> Axes:
    """A matrix of annotators: of the pairs of texts that both ordered, the share ordered in the same way.

    A name that no installed font can draw becomes a number, and who that is stands in a legend beside the picture.
    """
    names = list(found.annotators)
    if not names:
        raise InputError("there are no judgements to compare: give the agreement of some rankings")
    table = np.full((len(names), len(names)), math.nan)
    for (a, b), figure in found.agreement.items():
        i, j = names.index(a), names.index(b)
        table[i, j] = table[j, i] = math.nan if figure.value is None else figure.value
    if ax is None:
        side = 2.2 + 0.75 * len(names)
        _, ax = subplots(figsize=(side + 0.6, side), layout="constrained")
    ax = labelled_axes(ax, "Who agrees with whom", "", "")
    ax.imshow(table, vmin=0.5, vmax=1, cmap="cividis")
    for i, j in np.ndindex(table.shape):
        is_known = not math.isnan(table[i, j])
        text = f"{table[i, j]:.0%}" if is_known else "" if i == j else "n/a"
        ax.text(j, i, text, ha="center", va="center", fontsize=9,
                color="white" if is_known and table[i, j] < 0.75 else "#111111")
    numbers = numbered(names)
    labels = [numbers.get(name, name) for name in names]
    ax.set_xticks(range(len(names)), labels, rotation=35, ha="right", parse_math=False)  # a name may hold a dollar sign
    ax.set_yticks(range(len(names)), labels, parse_math=False)
    for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        label.set_fontfamily(family_for(label.get_text()) or [])  # a number has a font
    show_legend(numbers)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel("share of the pairs ordered by both that are ordered in the same way; chance is 50%", fontsize=9)
    return ax


@picture
def accuracy_against_labels(recorded: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Accuracy over the number of rankings, one line for each form of using them: median and range over the seeds.

    `recorded` is the file that `assets/record/label_efficiency.py` writes; the ceiling is drawn where it is known.
    """
    ax = labelled_axes(ax, "How many labels does a reward model need?", "rankings of four endings (log scale)",
               "accuracy (fraction of held-out pairs)")
    results = recorded["results"]
    sizes = sorted({row["rankings"] for row in results})
    for form, style in LABEL_FORMS.items():
        found = [[row["accuracy"] for row in results if (row["form"], row["rankings"]) == (form, size)]
                 for size in sizes]
        points = [(size, np.median(values), min(values), max(values))
                 for size, values in zip(sizes, found, strict=True) if values]
        if points:
            x, middle, low, high = np.array(points).T
            ax.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)
            ax.plot(x, middle, color=style.color, linestyle=style.dash, marker=style.marker, markersize=5,
                    label=style.label)
    if not math.isnan(ceiling := number(recorded.get("ceiling"))):
        ax.axhline(ceiling, color="#555555", linestyle="--", linewidth=1.2, label=f"ceiling, {ceiling:.1%}")
    ax.axhline(0.5, color="#555555", linestyle=":", linewidth=1.2, label="chance")
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size}" for size in sizes])
    ax.set_xticks([], minor=True)
    legend_or_note(ax, bool(sizes), "no fit has been recorded")
    if (legend := ax.get_legend()) is not None:
        legend.set_loc("lower right")  # no curve reaches this corner
        legend.set_bbox_to_anchor((1, 0.07), ax.transAxes)
    return ax
