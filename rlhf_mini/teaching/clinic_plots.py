"""Draw a patient of notebook 10: six plots beside healthy runs, and when each quantity first becomes unusual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.clinic_cases import Columns, case_table, clinic, told

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

PANELS = {  # title: (unit, keys: the first is drawn with a line, the second with dashes)
    "Score, and reward": ("score", ("score", "reward")),
    "KL: exact, and sampled (kl_k1)": ("nats per ending", ("kl", "kl_k1")),
    "Policy loss": ("whitened advantages", ("policy_loss",)),
    "First ratio of each update": ("ratio", ("ratio_first",)),
    "Clipped ratios": ("fraction of tokens", ("clip_fraction",)),
    "Value loss": ("squared score", ("value_loss",)),
}
CASE, GREY = "#D55E00", "#9A9A9A"
MARKERS = ("o", "s")
LOG_FROM = 8  # times as far as healthy runs ever go: from there on an axis is logarithmic
LEAST = {"ratio_first": 0.02, "policy_loss": 0.01, "clip_fraction": 0.02}  # half the height of a panel at least


@picture
def case_plots(case: Columns, references: Sequence[Columns], title: str, axes: Any = None) -> NDArray[Any]:
    """Six small plots of a case, with healthy runs in grey; returns their Axes. Shapes: -> (2, 3)."""
    if axes is None:
        figure, axes = subplots(2, 3, figsize=(11, 5.2), dpi=60, layout="constrained")  # a dozen in one notebook
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    for ax, (name, (unit, keys)) in zip(axes.flat, PANELS.items(), strict=True):
        _panel(plots.labelled_axes(ax, name, "iteration", unit), case, references, keys)
    return np.asarray(axes)


def _panel(ax: Axes, case: Columns, references: Sequence[Columns], keys: Sequence[str]) -> None:
    """One or two quantities of the case, and of healthy runs."""
    heights: list[float] = []
    for dash, marker, key in zip(("-", "--"), MARKERS, keys, strict=False):
        for one in references:
            ax.plot(*_line(one, key), dash, color=GREY, linewidth=1.1)
            heights.extend(np.abs(_numbers(one[key])))
        ax.plot(*_line(case, key), dash, color=CASE, marker=marker, markersize=3.5, linewidth=1.6)
    farthest = max(np.abs(_numbers(case[key])).max() for key in keys)
    if farthest > LOG_FROM * max(heights):
        ax.set_yscale("symlog", linthresh=max(max(heights), 1e-3))
        ax.set_ylabel(f"{ax.get_ylabel()} (log scale)", fontsize=9)
    low, high = ax.get_ylim()
    least = LEAST.get(keys[0], 0.0)
    if high - low < 2 * least:
        ax.set_ylim((low + high) / 2 - least, (low + high) / 2 + least)
    if len(keys) > 1:
        _name_lines(ax, {key: float(_numbers(case[key])[-1]) for key in keys})


def _name_lines(ax: Axes, ends: Mapping[str, float]) -> None:
    """The name of each line at its right end, moved apart where two ends are close."""
    places = dict(sorted(((key, ax.transData.transform((0, y))[1]) for key, y in ends.items()), key=lambda one: one[1]))
    (low, y_low), (high, y_high) = places.items()
    apart = max(0.0, 14 - (y_high - y_low)) / 2
    for key, move in ((low, -apart), (high, apart)):
        ax.annotate(key, (1, ends[key]), xycoords=("axes fraction", "data"), xytext=(3, move),
                    textcoords="offset points", color=CASE, fontsize=8, va="center", annotation_clip=False)


def show_case(number: int) -> None:
    """Print the history and three endings of a case, and draw its six plots."""
    patients = clinic()
    print(case_table(patients.history(number)))
    print(f"\nThree endings of its last iteration:\n{told(patients.samples(number))}")
    case_plots(patients.history(number), patients.references, f"Case {number} (orange), and healthy runs (grey)")


@picture
def first_signs(found: Mapping[str, Mapping[str, Sequence[int | None]]], ax: Axes | None = None) -> Axes:
    """For each fault and quantity, the iterations at which it first becomes unusual: from the first seed to the last.

    `found` is {fault: {quantity: one iteration for each seed, None where it never does}}.
    """
    faults, keys = list(found), list(next(iter(found.values())))
    early = np.array([[_middle(found[fault][key]) for key in keys] for fault in faults])
    if ax is None:
        _, ax = subplots(figsize=(1.6 + 0.82 * len(keys), 1.2 + 0.42 * len(faults)), layout="constrained")
    ax = plots.labelled_axes(ax, "The iteration at which each becomes unusual, in both seeds: dark is early", "", "")
    shown = ax.imshow(early, cmap="cividis", aspect="auto", vmin=1, vmax=np.nanmax(early))
    for i, fault in enumerate(faults):
        for j, key in enumerate(keys):
            colour = "#111111" if not early[i, j] < 0.55 * np.nanmax(early) else "white"
            ax.text(j, i, span(found[fault][key]), ha="center", va="center", fontsize=8, color=colour)
    shown.cmap.set_bad("white")
    ax.set_xticks(range(len(keys)), keys, rotation=35, ha="left", fontsize=9)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(faults)), faults, fontsize=9)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


def span(iterations: Sequence[int | None]) -> str:
    """From the first seed's iteration to the last's; "never", or "some never", counts as well."""
    when = sorted(i for i in iterations if i is not None)
    if not when:
        return ""
    text = f"{when[0]}" if when[0] == when[-1] else f"{when[0]}–{when[-1]}"
    return text if len(when) == len(iterations) else f"{text} ({len(when)} of {len(iterations)})"


def in_order(found: Mapping[str, Sequence[int | None]], keys: Sequence[str]) -> str:
    """Quantities from the first that becomes unusual to the last, by the median over seeds, each with its span."""
    def when(key: str) -> float:
        return float(np.nan_to_num(_middle(found[key]), nan=np.inf))
    return ", ".join(f"{key} {span(found[key]) or 'never'}" for key in sorted(keys, key=when))


def _middle(iterations: Sequence[int | None]) -> float:
    """The median over seeds; NaN where the quantity stays usual in one of them."""
    return float("nan") if None in iterations else float(np.median([i for i in iterations if i is not None]))


def _line(columns: Columns, key: str) -> NDArray[np.float64]:
    """Iterations and values; NaN where one is unknown. Shapes: -> (2, iterations)."""
    return np.array([columns["iteration"], columns[key]], dtype=float)


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    found = np.array([np.nan if x is None else x for x in values], dtype=float)
    return found[np.isfinite(found)]
