"""Plots of a run: functions of its history or its metrics, each returning the Axes it drew on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rlhf_mini.errors import InputError
from rlhf_mini.rankings import Agreement
from rlhf_mini.tables import MODELS

Row = Mapping[str, Any]  # one line of history.jsonl


@dataclass(frozen=True)
class Look:
    """How one model is drawn, everywhere: a colour of Okabe and Ito, and a dash and a marker for print."""

    label: str
    color: str
    dash: str = "-"
    marker: str = "o"


LOOKS = {
    "base": Look(MODELS["base"], "#8C8C8C", marker="X"),
    "sft": Look(MODELS["sft"], "#000000", marker="D"),
    "best_of_4": Look(MODELS["best_of_4"], "#56B4E9", marker="^"),
    "best_of_16": Look(MODELS["best_of_16"], "#009E73", marker="v"),
    "ppo": Look(MODELS["ppo"], "#0072B2", "-", "o"),
    "ppo_no_kl": Look(MODELS["ppo_no_kl"], "#D55E00", "--", "s"),
}
ARMS = ("ppo", "ppo_no_kl")
LABEL_FORMS = {  # form in label_efficiency.json: how the same rankings are used
    "full": Look("whole rankings (Plackett–Luce)", "#0072B2", "-", "o"),
    "exploded": Look("the pairs in them (Bradley–Terry)", "#009E73", "--", "s"),
    "top_1": Look("the winner alone", "#D55E00", "-.", "^"),
}

QUANTITIES = {  # key of history.jsonl: (title, unit)
    "score": ("Score from the reward model", "s.d. of SFT endings"),
    "gold": ("Gold reward", "s.d. of the tales"),
    "kl": ("KL from the reference", "nats per ending"),
    "clip_fraction": ("Clipped probability ratios", "fraction of tokens"),
    "entropy": ("Entropy of the policy", "nats per token"),
    "length": ("Length of an ending", "tokens"),
    "reward": ("Score minus KL penalty", "s.d. of SFT endings"),
    "coherent": ("Coherent endings", "fraction"),
    "grammatical": ("Grammatical endings", "fraction"),
    "ended": ("Endings that end", "fraction"),
    "kl_coef": ("KL coefficient", "score per nat"),
    "value_loss": ("Value loss", "squared score"),
    "explained_variance": ("Variance the value head explains", "fraction"),
}
REWARDS = {  # key of metrics.json: (title, axis)
    "gold_mean": ("Gold reward of each model's endings", "gold reward (s.d. of the tales)"),
    "proxy_mean": ("Proxy reward of each model's endings", "proxy reward (s.d. of SFT endings)"),
}
OVERVIEW = ("score", "gold", "kl", "clip_fraction", "entropy", "length")


def number(value: Any) -> float:
    """A value as a float: NaN where it is missing, null or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def series(history: Sequence[Row], arm: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The iterations of one arm and the values of one key there, NaN where unknown. Shapes: (I,), (I,)."""
    rows = [row for row in history if row.get("arm") == arm]
    return (np.array([number(row.get("iteration")) for row in rows], dtype=float),
            np.array([number(row.get(key)) for row in rows], dtype=float))


def curve(history: Sequence[Row], key: str, ax: Axes | None = None) -> Axes:
    """One quantity over the iterations, both arms on the same axes."""
    title, unit = QUANTITIES.get(key, (key.replace("_", " "), ""))
    ax = labelled_axes(ax, title, "iteration", unit)
    drawn = False
    for arm in ARMS:
        iterations, values = series(history, arm, key)
        if np.isfinite(values).any():
            _line(ax, iterations, values, arm)
            drawn = True
    _legend_or_note(ax, drawn, "not known in this run")
    return ax


def overview(history: Sequence[Row], keys: Sequence[str] = OVERVIEW) -> NDArray[Any]:
    """The curves of several quantities as small multiples; returns an array of Axes, one per key."""
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4 * columns, 2.9 * rows), squeeze=False,
                                layout="constrained")
    axes = grid.ravel()
    for ax, key in zip(axes, keys, strict=False):
        curve(history, key, ax)
    for ax in axes[1:len(keys)]:
        without_legend(ax)  # one is enough
    for ax in axes[len(keys):]:
        figure.delaxes(ax)
    return axes[:len(keys)]


def proxy_against_gold(history: Sequence[Row], ax: Axes | None = None) -> Axes:
    """What the reward model says and what the panel really likes, over the distance travelled, √KL.

    Source: Gao et al. 2022, whose x axis is d = √KL, because both rewards rise linearly in it at first.
    """
    ax = labelled_axes(ax, "Proxy and gold over the distance travelled", "√KL (√nats per ending)",
               "reward (s.d.)")
    drawn = False
    for arm in ARMS:
        _, kl = series(history, arm, "kl")
        distance = np.sqrt(np.maximum(kl, 0))  # the exact KL may round to −1e-9 at the start
        for key, kind in (("score", "proxy"), ("gold", "gold")):
            _, values = series(history, arm, key)
            if np.isfinite(distance + values).any():
                _scatter(ax, distance, values, arm, kind)
                drawn = True
    _legend_or_note(ax, drawn, "neither reward is known in this run")
    return ax


def calibration(bins: Sequence[Row], ax: Axes | None = None) -> Axes:
    """How often the reward model is right when it says how sure it is; on the diagonal it can be believed."""
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
    _legend_or_note(ax, bool(points), "no calibration in this run")
    return ax


def known_reward(metrics: Mapping[str, Any]) -> str:
    """Which reward models can be compared by: gold where any is known, else the proxy."""
    gold = [number((metrics.get(arm) or {}).get("gold_mean")) for arm in LOOKS]
    return "proxy_mean" if any(metrics.get(arm) for arm in LOOKS) and np.isnan(gold).all() else "gold_mean"


def stages(metrics: Mapping[str, Any], key: str = "gold_mean", ax: Axes | None = None) -> Axes:
    """The reward of every model: a mark for the mean and, for gold, a bar for one standard deviation."""
    title, unit = REWARDS[key]
    ax = labelled_axes(ax, title, unit, "")
    known = [(arm, number((metrics.get(arm) or {}).get(key))) for arm in LOOKS]
    known = [(arm, mean) for arm, mean in known if not math.isnan(mean)]
    for height, (arm, mean) in enumerate(reversed(known)):
        look, spread = LOOKS[arm], number(metrics[arm].get(key.replace("mean", "std")))
        if not math.isnan(spread):
            ax.plot([mean - spread, mean + spread], [height, height], color=look.color, alpha=0.35,
                    linewidth=5, solid_capstyle="butt")
        ax.plot(mean, height, color=look.color, marker=look.marker, markersize=9, linestyle="none")
        ax.annotate(_signed(mean), (mean, height), xytext=(0, 8), textcoords="offset points", ha="center",
                    fontsize=9)
    ax.set_yticks(range(len(known)), [LOOKS[arm].label for arm, _ in reversed(known)])
    ax.set_ylim(-0.6, max(len(known), 1) - 0.3)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    _legend_or_note(ax, bool(known), "no model has been measured yet", legend=False)
    return ax


def who_agrees(found: Agreement, ax: Axes | None = None) -> Axes:
    """A square for every two annotators: of the pairs of texts that both put in an order, the share ordered alike."""
    names = list(found.annotators)
    if not names:
        raise InputError("nobody has judged anything yet: give the agreement of some rankings")
    table = np.full((len(names), len(names)), math.nan)
    for (a, b), figure in found.agreement.items():
        i, j = names.index(a), names.index(b)
        table[i, j] = table[j, i] = math.nan if figure.value is None else figure.value
    if ax is None:
        side = 2.2 + 0.75 * len(names)
        _, ax = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    ax = labelled_axes(ax, "Who agrees with whom", "", "")
    ax.imshow(table, vmin=0.5, vmax=1, cmap="cividis")
    for i, j in np.ndindex(table.shape):
        known = not math.isnan(table[i, j])
        text = f"{table[i, j]:.0%}" if known else "" if i == j else "n/a"
        ax.text(j, i, text, ha="center", va="center", fontsize=9,
                color="white" if known and table[i, j] < 0.75 else "#111111")
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right", parse_math=False)  # a name is text
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel("of the pairs that both put in an order, the share ordered alike; chance is 50%", fontsize=9)
    return ax


def labels_against_accuracy(recorded: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Accuracy over the number of rankings, for each form that they are used in: median and range of the seeds.

    `recorded` is what `assets/record/label_efficiency.py` writes; the ceiling is drawn where it is known.
    """
    ax = labelled_axes(ax, "How many labels does a reward model need?", "rankings of four endings (log scale)",
               "accuracy (fraction of held-out pairs)")
    results = recorded["results"]
    sizes = sorted({row["rankings"] for row in results})
    for form, look in LABEL_FORMS.items():
        found = [[row["accuracy"] for row in results if (row["form"], row["rankings"]) == (form, size)]
                 for size in sizes]
        known = [(size, np.median(values), min(values), max(values))
                 for size, values in zip(sizes, found, strict=True) if values]
        if known:
            x, middle, low, high = np.array(known).T
            ax.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)
            ax.plot(x, middle, color=look.color, linestyle=look.dash, marker=look.marker, markersize=5,
                    label=look.label)
    if not math.isnan(ceiling := number(recorded.get("ceiling"))):
        ax.axhline(ceiling, color="#555555", linestyle="--", linewidth=1.2, label=f"ceiling, {ceiling:.1%}")
    ax.axhline(0.5, color="#555555", linestyle=":", linewidth=1.2, label="chance")
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size}" for size in sizes])
    ax.set_xticks([], minor=True)
    _legend_or_note(ax, bool(sizes), "no fit has been recorded")
    if (legend := ax.get_legend()) is not None:
        legend.set_loc("lower right")  # where no curve comes
        legend.set_bbox_to_anchor((1, 0.07), ax.transAxes)
    return ax


def without_legend(ax: Axes) -> Axes:
    """The same Axes, for small multiples of which the first has the legend."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    return ax


def labelled_axes(ax: Axes | None, title: str, xlabel: str, ylabel: str) -> Axes:
    """The given Axes, or those of a new figure, in the house's quiet style."""
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(labelsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#DDDDDD", linewidth=0.7)
    ax.set_axisbelow(True)
    if xlabel == "iteration":
        ax.locator_params(axis="x", integer=True)  # there is no iteration 2.5
    return ax


def _line(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], arm: str) -> None:
    look = LOOKS[arm]
    ax.plot(x, y, color=look.color, linestyle=look.dash, linewidth=1.7, label=look.label, marker=look.marker,
            markersize=4, markevery=max(1, len(x) // 8))


def _scatter(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], arm: str, kind: str) -> None:
    """Gold is filled and proxy is hollow; colour and marker tell the arm."""
    look = LOOKS[arm]
    ax.plot(x, y, color=look.color, linestyle="none", marker=look.marker, markersize=4.5,
            markerfacecolor=look.color if kind == "gold" else "white", markeredgewidth=0.9,
            markevery=max(1, len(x) // 60), label=f"{kind}, {look.label}")


def _legend_or_note(ax: Axes, drawn: bool, note: str, legend: bool = True) -> None:
    """A legend where something was drawn; a sentence in the middle of the axes where nothing was."""
    if not drawn:
        ax.text(0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", color="#555555")
    elif legend:
        ax.legend(fontsize=8, frameon=False, loc="best")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
