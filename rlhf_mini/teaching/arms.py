"""The two recorded arms of a run, with and without the KL penalty: their numbers with errors, and their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from rlhf_mini import plots, tales
from rlhf_mini.evaluate import Samples
from rlhf_mini.metrics import judge_tales
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.measured import Measured, change_of_share, difference, mean_error, share_of
from rlhf_mini.teaching.overoptimisation import readable_gold

Row = Mapping[str, Any]
KL_TICKS = (0, 1, 3, 10, 30, 100, 300)


def batch_mean(rows: Sequence[Row], key: str, episodes: int) -> Measured:
    """The mean of some iterations. Score and gold of an ending vary by about 1, its KL by about its mean, or 1."""
    found = mean(row[key] for row in rows)
    return Measured(found, (max(1, found) if key == "kl" else 1) * (episodes * len(rows)) ** -0.5)


def arms_apart(arms: Mapping[str, Sequence[Row]], ends: Sequence[int],
               episodes: int = 128) -> dict[str, dict[str, Measured]]:
    """For three iterations up to each of `ends`: the arm without the penalty less the arm with it."""
    return {f"iterations {end - 2} to {end}": {
        name: batch_mean(arms["ppo_no_kl"][end - 3:end], key, episodes)
        - batch_mean(arms["ppo"][end - 3:end], key, episodes)
        for name, key in (("KL", "kl"), ("gold", "gold"), ("score", "score"))} for end in ends}


def three_iterations(rows: Sequence[Row], last: int, episodes: int = 128) -> dict[str, Measured]:
    """KL, score and gold of the three iterations up to `last`, and gold of the endings that the reader can parse."""
    part = rows[last - 3:last]
    share = mean(row["grammatical"] for row in part)
    readable = float(readable_gold([mean(row["gold"] for row in part)], [share])[0])
    return {name: batch_mean(part, key, episodes) for name, key in (("KL", "kl"), ("score", "score"), ("gold", "gold"))
            } | {"readable": Measured(readable, (episodes * len(part) * share) ** -0.5)}


def figures_of(metrics: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Gold, proxy, the coherent share and the KL of one model in metrics.json; best of n has a bound for its KL."""
    m = metrics[name]
    n = m["samples"]
    found = {"gold": Measured(m["gold_mean"], m["gold_std"] * n**-0.5), "proxy": Measured(m["proxy_mean"], n**-0.5),
             "coherent": Measured(m["coherent"], (m["coherent"] * (1 - m["coherent"]) / n) ** 0.5, "%")}
    if name.startswith("best_of"):
        return found | {"KL": f"{m['kl']:.2f}"}
    return found | ({"KL": Measured(m["kl"], max(1, m["kl"]) * n**-0.5)} if name.startswith("ppo") else {})


def before_and_after(before: Samples, after: Samples, again: float) -> dict[str, dict[str, Measured]]:
    """What training changed, opening by opening where that can be done; `again` is what training again adds."""
    was, now = (judge_tales(samples.prompts, samples.endings) for samples in (before, after))
    pairs = {"score": (before.proxy, after.proxy), "gold": (was["gold"], now["gold"]),
             "tokens": (before.lengths, after.lengths)}
    table = {what: {"before": mean_error(a), "after": mean_error(b).widened(again),
                    "change": difference(b, a).widened(again)} for what, (a, b) in pairs.items()}
    flags: dict[str, tuple[Any, Any]] = {what: (was[what], now[what]) for what in ("grammatical", "coherent")}
    flags["distinct"] = (first_of_its_form(before), first_of_its_form(after))
    table |= {what: {"before": share_of(a), "after": share_of(b), "change": change_of_share(b, a)}
              for what, (a, b) in flags.items()}
    return table | {"KL": {"after": mean_error(after.kl_each).widened(again)}}


def first_of_its_form(samples: Samples) -> list[bool]:
    """Of each ending, whether no earlier ending equals it, names set aside."""
    forms = [tales.skeleton(ending) for ending in samples.endings]
    return [form not in forms[:i] for i, form in enumerate(forms)]


@picture
def two_arms(history: Sequence[Row], episodes: int = 128) -> NDArray[Any]:
    """Score, gold and KL of both arms, each with a band of one standard error; the KL on a bent axis."""
    _, axes = subplots(1, 3, figsize=(10.4, 3.5), layout="constrained")
    for ax, key in zip(axes, ("score", "gold", "kl"), strict=True):
        title, unit = plots.QUANTITIES[key]
        plots.labelled_axes(ax, title, "iteration", unit)
        for arm in plots.ARMS:
            _arm(ax, *plots.series(history, arm, key), arm, key, episodes)
    _named(axes[1], history)
    axes[2].set_yscale("symlog", linthresh=1, linscale=0.6)
    axes[2].set_yticks(KL_TICKS, [str(tick) for tick in KL_TICKS])
    axes[2].minorticks_off()
    axes[2].set_ylim(bottom=-0.1)
    axes[2].set_ylabel("nats per ending (logarithmic above 1)", fontsize=9)
    return axes


def _arm(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], arm: str, key: str, episodes: int) -> None:
    style = plots.STYLES[arm]
    error = (np.maximum(1, y) if key == "kl" else np.ones(len(y))) * episodes**-0.5
    ax.fill_between(x, y - error, y + error, color=style.color, alpha=0.2, linewidth=0)
    ax.plot(x, y, color=style.color, linestyle=style.dash, marker=style.marker, markersize=4, linewidth=1.6,
            markevery=max(1, len(x) // 8))


def _named(ax: Axes, history: Sequence[Row]) -> None:
    """The names of the arms, written at their curves of gold."""
    for arm, offset in (("ppo", (0, -34)), ("ppo_no_kl", (8, 32))):
        x, y = plots.series(history, arm, "gold")
        place = int(0.72 * len(x))
        ax.annotate(plots.STYLES[arm].label, (x[place], y[place]), xytext=offset, textcoords="offset points",
                    color=plots.STYLES[arm].color, fontsize=9.5, fontweight="bold", ha="center")
