"""What was recorded over several seeds: the sweep over the coefficient (`assets/sweep.json`) and the repairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_mini import plots
from rlhf_mini.plots.backend import picture
from rlhf_mini.teaching.measured import Measured, over_seeds, resampled
from rlhf_mini.teaching.overoptimisation.measuring import correlation

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

Seeds = Mapping[str, Mapping[str, Any]]  # the sections of each seed
FIGURES = {"kl": "KL", "proxy_mean": "score", "gold_mean": "gold", "gold_readable": "gold, readable",
           "coherent": "coherent", "distinct": "distinct"}
SHARES = ("coherent", "distinct")
CLAIMS = {  # what is claimed -> the repair, its control: of models that are fitted again, one such model
    "old labels, new seed": ("same_labels", "baseline"),
    "more of the same labels": ("more_of_the_same", "baseline"),
    "labels about the policy": ("second_round", "more_of_the_same"),
    "four fits, their mean": ("fits/mean", "same_labels"),
    "four fits, their minimum": ("fits/minimum", "same_labels"),
    "four heads, their mean": ("heads/mean", "same_labels"),
    "four heads, their minimum": ("heads/minimum", "same_labels"),
    "length taken out": ("length", "baseline"),
}
MORE_CLAIMS = {
    "KL as k2 in the loss": ("kl/k2 in the loss", "kl/k1 in the reward"),
    "KL as k3 in the loss": ("kl/k3 in the loss", "kl/k1 in the reward"),
    "used 4 times": ("reused/4", "reused/1"),
    "used 16 times": ("reused/16", "reused/1"),
    "used 4 times, truncated weights": ("reused/4 truncated", "reused/4"),
    "used 16 times, truncated weights": ("reused/16 truncated", "reused/16"),
}
NAMES = {"baseline": "baseline", **{path: name for name, (path, _) in [*CLAIMS.items(), *MORE_CLAIMS.items()]},
         "kl/k1 in the reward": "KL as k1 in the reward", "reused/1": "used once"}
MOVED = 0.1  # s.d. of gold or of the objective: less than this is called no difference


def coefficients(sweep: Seeds) -> list[str]:
    """The coefficients that every seed was trained at, the smallest first."""
    common = set.intersection(*(set(seed["coefficients"]) for seed in sweep.values())) - {"sft"}
    return sorted(common, key=float)


def evaluations(sweep: Seeds, coefficient: str) -> list[Mapping[str, Any]]:
    """The evaluation of each seed at a coefficient ("sft" is before training)."""
    return [seed["coefficients"][coefficient]["evaluation"] for seed in sweep.values()]


def sweep_table(sweep: Seeds) -> dict[str, dict[str, Measured]]:
    """Rows for `print_table`: the figures of the final policies, mean over the seeds ± half their range."""
    def row(coefficient: str) -> dict[str, Measured]:
        each = evaluations(sweep, coefficient)
        return {name: over_seeds([round(one[key], 6) for one in each], "%" if key in SHARES else "")
                for key, name in FIGURES.items() if all(one[key] is not None for one in each)}
    return {**{coefficient: row(coefficient) for coefficient in coefficients(sweep)}, "before": row("sft")}


@picture
def results_over_seeds(sweep: Seeds, keys: Mapping[str, str], title: str, unit: str, ax: Axes | None = None) -> Axes:
    """Figures of the final policies over the coefficient: a mark for each seed, a bar from the lowest to the highest.

    The coefficients are evenly spaced. `keys` maps each figure to the label that stands beside its first mark.
    """
    ax = plots.labelled_axes(ax, title, "KL coefficient (evenly spaced)", unit)
    names = coefficients(sweep)
    for (key, label), model in zip(keys.items(), ("best_of_16", "ppo_no_kl", "ppo"), strict=False):
        style, shift = plots.STYLES[model], 0.12 * (list(keys).index(key) - (len(keys) - 1) / 2)
        values = np.array([[one[key] for one in evaluations(sweep, name)] for name in names], dtype=float)
        x = np.arange(len(names)) + shift
        ax.vlines(x, values.min(1), values.max(1), color=style.color, linewidth=5, alpha=0.35)
        for column in values.T:
            ax.plot(x, column, linestyle="none", marker=style.marker, color=style.color, markersize=4.5)
        ax.annotate(label, (x[0], values[0].mean()), xytext=(8, 0), textcoords="offset points", color=style.color,
                    fontsize=9, va="center")
    ax.set_xticks(range(len(names)), names)
    return ax


def turning_points(sweep: Seeds) -> dict[str, dict[str, Any]]:
    """Of each seed: the coefficient with the most gold, the gold there, and at each smaller one."""
    rows = {}
    for seed, one in sweep.items():
        gold = {name: one["coefficients"][name]["evaluation"]["gold_mean"] for name in coefficients(sweep)}
        best = max(gold, key=lambda name: gold[name])
        rows[f"seed {seed}"] = {"most gold at": best, "gold there": f"{gold[best]:+.2f}",
                                **{f"at {name}": f"{gold[name]:+.2f}" for name in gold if float(name) < 0.01}}
    return rows


def final_policies(seed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One seed's runs at all its coefficients, the smallest first."""
    runs = [one for name, one in seed["coefficients"].items() if name != "sft"]
    return sorted(runs, key=lambda one: one["kl_coef"])


def best_of_n_row(seed: Mapping[str, Any]) -> dict[str, str]:
    """The best of the most candidates beside the trained policy with the most gold."""
    last = seed["best_of_n"]["by"]["proxy"][-1]
    policy = max(final_policies(seed), key=lambda one: one["evaluation"]["gold_mean"])
    told = policy["evaluation"]
    return {f"best of {last['n']}, gold": f"{last['gold']:+.2f}", "nats, at most": f"{last['kl']:.1f}",
            "PPO, most gold": f"{told['gold_mean']:+.2f}", "nats": f"{told['kl']:.1f}",
            "at": f"{policy['kl_coef']:g}"}


def length_row(endings: Mapping[str, Sequence[float]]) -> dict[str, Measured | int]:
    """Correlations of the length, among endings that make sense: with gold, with the score, and so with gold fixed."""
    table = {name: np.array(column) for name, column in endings.items()}
    sensible = table["coherent"] == 1
    length, gold, score = (table[name][sensible] for name in ("length", "gold", "proxy"))
    return {"endings": int(sensible.sum()), "length with gold": resampled(correlation, length, gold),
            "with score": resampled(correlation, length, score),
            "with score, gold fixed": resampled(correlation, length, score, gold)}


# --- repairs --------------------------------------------------------------------------------------------------------


def found(seed: Mapping[str, Any], path: str, key: str) -> float:
    """A figure of one part of a seed's repairs; the path has its sections. NaN where the training diverged."""
    one: Any = seed
    for section in path.split("/"):
        one = one[section]
    return math.nan if "diverged" in one else float(one["evaluation"][key])


def of_seeds(values: Sequence[float], form: str = "") -> Measured | str:
    """The mean over the seeds ± half their range; the number itself where there is one seed only."""
    if len(values) > 1:
        return over_seeds(values, form)
    return f"{100 * values[0]:.0f} %" if "%" in form else f"{values[0]:{'+' if '+' in form else ''}.2f}"


def outcomes(repairs: Seeds) -> dict[str, dict[str, Any]]:
    """What each repair has come to: score by its own reward model and by the first, gold, KL, sense, variety."""
    figures = {"proxy_mean": "own score", "proxy_first": "first's score", "gold_mean": "gold", "kl": "KL",
               "coherent": "coherent", "distinct": "distinct"}
    rows = {}
    for path in ("baseline", *(path for path, _ in CLAIMS.values())):
        each = {key: [found(seed, path, key) for seed in repairs.values()] for key in figures
                if path != "baseline" or key != "proxy_first"}
        rows[NAMES[path]] = {figures[key]: of_seeds(values, "%" if key in SHARES else "")
                             for key, values in each.items()}
    return rows


def claims(repairs: Seeds) -> dict[str, dict[str, Any]]:
    """The table of claims: each repair's gold less that of its control."""
    return {name: {**against_control(repairs, *paths), "control": NAMES[paths[1]]} for name, paths in CLAIMS.items()}


def settled(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The repairs that do better than their control in every seed, the best first, in one line."""
    better = [(row["minus its control"], name) for name, row in rows.items() if row.get("so") == "more"]
    better.sort(key=lambda one: -one[0].value)
    return ", ".join(f"{name} ({gain})" for gain, name in better) or "none, in every seed"


def more_claims(repairs: Seeds) -> dict[str, dict[str, Any]]:
    """Where the KL stands and how old endings may be: the objective less that of the control."""
    return {name: {**against_control(repairs, *paths, key="objective"), "control": NAMES[paths[1]]}
            for name, paths in MORE_CLAIMS.items()}


def against_control(repairs: Seeds, path: str, control: str, key: str = "gold_mean") -> dict[str, Any]:
    """A row of the table of claims: a repair's figure minus its control's, seed by seed, and what follows."""
    each = [found(seed, path, key) - found(seed, control, key) for seed in repairs.values()]
    if any(math.isnan(one) for one in each):
        return {"minus its control": "diverged", "seeds": f"in {sum(map(math.isnan, each))} of {len(each)}"}
    higher, lower = (sum(sign * one > MOVED for one in each) for sign in (1, -1))
    said = "more" if higher == len(each) else "less" if lower == len(each) else "not settled"
    said = said if len(each) > 1 else "one seed"
    return {"minus its control": of_seeds(each, "+"), "seeds": f"{higher} up, {lower} down", "so": said}


def alarms(repairs: Seeds, kind: str) -> dict[str, Any]:
    """How an ensemble's disagreement differs between what the fine-tuned model and the baseline write.

    And how often, of a sensible ending of the baseline and one without sense, the latter has more of it.
    """
    ratios, told = [], []
    for seed in repairs.values():
        members = seed[kind]["members"]
        mean = {name: float(np.mean(members[name]["disagreement"])) for name in ("sft", "baseline")}
        ratios.append(mean["baseline"] / mean["sft"])
        sense, each = np.array(members["baseline"]["coherent"]), np.array(members["baseline"]["disagreement"])
        told.append(told_apart(each[sense == 0], each[sense == 1]))
    return {"baseline's over fine-tuned": of_seeds(ratios),
            "nonsense told from sense": "not known" if any(map(math.isnan, told)) else of_seeds(told, "%")}


def told_apart(high: Sequence[float] | np.ndarray[Any, Any], low: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """The share of pairs in which the first is larger, ties counted half; NaN where there is no pair."""
    a, b = np.asarray(high, float)[:, None], np.asarray(low, float)[None]
    return float(((a > b) + 0.5 * (a == b)).mean()) if a.size and b.size else math.nan
