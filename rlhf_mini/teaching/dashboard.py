"""Pictures of the five recorded runs, seed by seed, for the page of metrics (notebook 09), and its tables of alarms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.tables import align_columns
from rlhf_mini.teaching.alarms import Histories, first_alarms
from rlhf_mini.teaching.measured import Measured, mean_error, share_of
from rlhf_mini.teaching.overoptimisation import readable_gold
from rlhf_mini.teaching.quantities import QUANTITIES
from rlhf_mini.teaching.recorded import five_seeds

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

NAMES = {"ppo": "with KL", "ppo_no_kl": "without"}  # of the arms, beside their curves
GREY, NEVER, APART = "#555555", 66, 0.09  # where alarms stand that never ring; how far labels are from each other
Alarm = Callable[[float], bool]


@picture
def curves(histories: Histories, *keys: str) -> NDArray[Any]:
    """Quantities over the iterations: the median of the seeds as a line, their range as a band; both arms.

    The names of the arms stand at the ends of their lines. The KL has a logarithmic axis above 1, and the explained
    variance ends at -1.5, below which single seeds fall far. Returns the Axes, one for each key.
    """
    _, axes = subplots(1, len(keys), figsize=(4.3 * len(keys), 3.2), layout="constrained", squeeze=False)
    for ax, key in zip(axes[0], keys, strict=True):
        plots.labelled_axes(ax, key, "iteration", QUANTITIES[key].unit)
        for arm in plots.ARMS:
            style = plots.STYLES[arm]
            seeds = np.array([one[arm][key] for one in histories.values()], float)  # (seeds, iterations)
            x = np.arange(1, seeds.shape[1] + 1)
            ax.fill_between(x, seeds.min(0), seeds.max(0), color=style.color, alpha=0.18, linewidth=0)
            ax.plot(x, np.median(seeds, 0), color=style.color, linestyle=style.dash, linewidth=1.8, marker=style.marker,
                    markersize=4, markevery=10)
        ax.set_xlim(0, len(x) + 1)
        if key == "kl":
            ax.set_yscale("symlog", linthresh=1)
            ax.set_ylim(0, None)
        if key == "explained_variance":
            ax.set_ylim(-1.5, 1)
        _name_arms(ax)
    found: NDArray[Any] = axes[0]
    return found


def _name_arms(ax: Axes) -> None:
    """Write the arms' names at the ends of their curves; after limits and scale of the axes are set."""
    last = [np.asarray(line.get_ydata(), float)[-1] for line in ax.lines[:2]]
    ends = [float(np.asarray(ax.transAxes.inverted().transform(ax.transData.transform((0.0, y))))[1])
            for y in last]  # from 0, the bottom, to 1
    with_kl, without = (float(np.clip(end, 0.03, 0.97)) for end in ends)
    if abs(gap := without - with_kl) < APART:
        push = (APART - abs(gap)) / 2 * (1 if gap >= 0 else -1)
        with_kl, without = with_kl - push, without + push
    for arm, y in zip(plots.ARMS, (with_kl, without), strict=True):
        ax.text(1.01, y, NAMES[arm], transform=ax.transAxes, color=plots.STYLES[arm].color, fontsize=9, va="center")


@picture
def alarm_times(rang: Mapping[int, Mapping[str, int | None]], ax: Axes | None = None) -> Axes:
    """When each alarm first goes off without the KL penalty: a mark for each seed, earliest median at the top."""
    if ax is None:
        _, ax = subplots(figsize=(8, 3.8), layout="constrained")
    plots.labelled_axes(ax, "When each alarm first goes off, without the KL penalty", "iteration", "")
    keys = sorted(next(iter(rang.values())), key=lambda key: float(np.median([found[key] or NEVER
                                                                               for found in rang.values()])))
    for row, key in enumerate(reversed(keys)):
        for i, found in enumerate(rang.values()):
            when = found[key]
            rings = when is not None
            ax.plot(NEVER if when is None else when, row + 0.13 * (i - 2), marker="osD^v"[i % 5], markersize=5.5,
                    color=plots.STYLES["ppo_no_kl"].color if rings else GREY, linestyle="none",
                    markerfacecolor=plots.STYLES["ppo_no_kl"].color if rings else "none")
        ax.axhline(row - 0.5, color="#DDDDDD", linewidth=0.7)
    ax.axvline(63, color=GREY, linestyle=":", linewidth=1)
    ax.set(xlim=(0, 69), ylim=(-0.5, len(keys) - 0.5))
    ax.set_xticks([1, 10, 20, 30, 40, 50, 60, NEVER], [*map(str, (1, 10, 20, 30, 40, 50, 60)), "never"])
    ax.set_yticks(range(len(keys)), list(reversed(keys)))
    ax.grid(visible=False, axis="y")
    return ax


@picture
def models_over_seeds(ax: Axes | None = None) -> Axes:
    """Proxy (hollow) and gold (filled) of each model at the end: the mean of five seeds, and their range as a bar."""
    if ax is None:
        _, ax = subplots(figsize=(8, 3.8), layout="constrained")
    plots.labelled_axes(ax, "Proxy (hollow) and gold (filled) of each model, five seeds", "reward (s.d.)", "")
    for row, (name, style) in enumerate(reversed(plots.STYLES.items())):
        for key, shift in (("proxy_mean", 0.16), ("gold_mean", -0.16)):
            values = five_seeds(name, key)
            mean, low, high = float(np.mean(values)), min(values), max(values)
            ax.plot([low, high], [row + shift] * 2, color=style.color, linewidth=3, alpha=0.45, solid_capstyle="butt")
            ax.plot(mean, row + shift, color=style.color, marker=style.marker, markersize=7, linestyle="none",
                    markerfacecolor=style.color if key == "gold_mean" else "white")
            ax.annotate(f"{mean:+z.2f}".replace("-", "−"), (high, row + shift), xytext=(8, 0), fontsize=8, va="center",
                        textcoords="offset points")
    ax.set_yticks(range(len(plots.STYLES)), [style.label for style in reversed(plots.STYLES.values())])
    ax.margins(x=0.09)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return ax


@picture
def calibration_with_errors(bins: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Predicted against observed preferences of the reward model, with one standard error over the pairs of a bin."""
    ax = plots.labelled_axes(ax, "Is the reward model as sure as it should be?",
                             "predicted probability that the first ending is preferred", "observed (fraction of pairs)")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.4)
    ax.annotate("as sure as it should be", (0.28, 0.28), xytext=(-6, 8), textcoords="offset points", rotation=37,
                color=GREY, fontsize=9, ha="center")
    for one in bins:
        error = share_of(np.arange(one["count"]) < round(one["observed"] * one["count"])).error
        ax.errorbar(one["predicted"], one["observed"], error, color="#0072B2", marker="o", markersize=5, capsize=2)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return ax


# --- tables -----------------------------------------------------------------------------------------------------


def critic_table(histories: Histories) -> dict[str, dict[str, Measured]]:
    """What the value head explains late in training, its loss, and what a critic loses that says always the same."""
    rows = {}
    for arm, name in NAMES.items():
        runs = [one[arm] for one in histories.values()]
        below = np.array([np.less(run["explained_variance"], 0) for run in runs])  # (seeds, iterations)
        rows[name] = {"late: explained": _late(runs, "explained_variance", "+"),
                      "value loss": _late(runs, "value_loss"),
                      "of a constant": mean_error([np.square(run["score_std"][-10:]).mean() / 2 for run in runs]),
                      "lines below 0": share_of(below, by=np.repeat(list(histories), below.shape[1]).tolist())}
    return rows


def _late(runs: Sequence[Mapping[str, Sequence[float]]], key: str, form: str = "") -> Measured:
    return mean_error([np.mean(run[key][-10:]) for run in runs], form=form)


def half_readable(histories: Histories, episodes: int = 128) -> dict[str, dict[str, Any]]:
    """Seed by seed without the KL penalty: the line of the highest gold, and gold where half cannot be read.

    The second line named is the first on which the reader can parse fewer than half of the endings.

    The errors are standard errors over the endings of that line, with a standard deviation of gold of 2 (all) or 1.
    """
    rows: dict[str, dict[str, Any]] = {}
    for seed, arms in histories.items():
        gold, share = (np.array(arms["ppo_no_kl"][key]) for key in ("gold", "grammatical"))
        half = int(np.argmax(share < 0.5))  # the first line on which fewer than half can be read
        readable = float(readable_gold(gold, share)[half])
        rows[f"seed {seed}"] = {
            "gold is highest on line": int(gold.argmax()) + 1, "under half readable from line": half + 1,
            "gold on that line": Measured(float(gold[half]), 2 / episodes**0.5, "+"),
            "of the readable there": Measured(readable, (episodes * float(share[half])) ** -0.5, "+")}
    return rows


def print_alarms(histories: Histories, alarms: Mapping[str, Alarm]) -> None:
    """For each alarm: when it goes off in each seed, how many endings make sense by then, and its false alarms."""
    rang, false = (first_alarms(histories, alarms, arm) for arm in ("ppo_no_kl", "ppo"))
    rows = [["", *(f"seed {seed}" for seed in rang), "coherent by then", "false alarms"]]
    for key in alarms:
        left = [histories[seed]["ppo_no_kl"]["coherent"][at - 1] for seed, when in rang.items() if (at := when[key])]
        rows.append([key, *(str(found[key] or "never") for found in rang.values()),
                     f"{min(left):.0%} to {max(left):.0%}" if left else "",
                     f"{sum(bool(found[key]) for found in false.values())} of {len(false)} seeds"])
    print("\n".join(line.rstrip() for line in align_columns(rows)))
