"""When the reward is wrong: what to measure and to draw as proxy and gold reward part.

The plots draw what `assets/record/sweep.py` records; a run there is a mapping with kl_coef, history (one list for each
key) and evaluation. Source: Gao, Schulman & Hilton 2022, "Scaling laws for reward model overoptimization".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from rlhf_mini import plots
from rlhf_mini.errors import InputError

Run = Mapping[str, Any]
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"
DASHES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X", "*")
KINDS = {"gold": ("gold reward", GREEN, "o", "-"), "proxy": ("proxy reward", ORANGE, "s", "--")}


# --- measuring --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldCurve:
    """Gold reward gained at distance d = √KL: d (alpha - beta d) for best of n, d (alpha - beta ln d) for RL.

    `explained` is the share of the points' variance that the curve accounts for.
    """

    form: Literal["best_of_n", "rl"]
    alpha: float
    beta: float
    explained: float

    def __call__(self, distance: ArrayLike) -> NDArray[np.float64]:
        """The gain at each distance, 0 at distance 0."""
        rising, falling = _terms(np.asarray(distance, float), self.form)
        return self.alpha * rising - self.beta * falling

    @property
    def peak(self) -> float:
        """The distance at which gold is highest; infinite where the curve never turns over."""
        if self.beta <= 0:
            return math.inf
        return self.alpha / (2 * self.beta) if self.form == "best_of_n" else math.exp(self.alpha / self.beta - 1)


def _terms(distance: NDArray[np.float64], form: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What alpha and beta multiply: d, and d² or d ln d."""
    return distance, distance * (distance if form == "best_of_n" else np.log(np.maximum(distance, 1e-12)))


def fit_gold_curve(distance: Sequence[float], gain: Sequence[float], form: Literal["best_of_n", "rl"]) -> GoldCurve:
    """Alpha and beta by least squares, from the gold reward gained at each distance √KL.

    Units: √nats per ending; gain in standard deviations of gold, 0 at distance 0.
    Raises: InputError for another form, or without a gain at two different distances above 0.
    """
    if form not in ("best_of_n", "rl"):
        raise InputError(f"form is {form!r}: give 'best_of_n' or 'rl'")
    d, r = np.asarray(distance, float), np.asarray(gain, float)
    if d.shape != r.shape or len({x for x in d.tolist() if x > 0}) < 2:
        raise InputError(f"there are {d.size} distances and {r.size} gains: give as many of one as of the other, at "
                         "two different distances above 0 at least")
    rising, falling = _terms(d, form)
    alpha, beta = np.linalg.lstsq(np.column_stack([rising, -falling]), r)[0].tolist()
    curve = GoldCurve(form, alpha, beta, math.nan)
    left = float(np.square(r - curve(d)).sum() / max(np.square(r - r.mean()).sum(), 1e-12))
    return GoldCurve(form, alpha, beta, 1 - left)


def correlation_given(a: Sequence[float], b: Sequence[float], given: Sequence[float] | None = None) -> float:
    """The correlation of a with b; with `given`, the partial one: among what has the same `given`.

    It sees straight lines only. Shapes: (N,) each. Raises: InputError where one of them does not vary.
    """
    varied = [np.asarray(x, float) for x in (a, b, given) if x is not None]
    if any(len(x) != len(varied[0]) or len(x) < 3 or np.ptp(x) == 0 for x in varied):
        raise InputError(f"the columns have {[len(x) for x in varied]} numbers: give as many of each, at least three, "
                         "that are not all alike")
    r = np.corrcoef(varied)
    if given is None:
        return float(r[0, 1])
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))


def overused(after: Iterable[str], before: Iterable[str], words: int = 3,
             count: int = 8) -> list[tuple[str, float, float]]:
    """Phrases whose share of endings has grown most: (phrase, share after, share before), each from 0 to 1.

    A phrase is that many words in a row; marks and capitals do not count. Each is the one that has grown most among
    the endings without those above it: so a sentence that is written all the time is named once and not in pieces.
    """
    told = list(after)
    found: list[tuple[str, float, float]] = []
    now, then, left = _shares(told, words), _shares(before, words), told
    while len(found) < count:
        new = {phrase: share * len(left) / len(told) - then.get(phrase, 0.0)
               for phrase, share in _shares(left, words).items()}
        phrase = min(new, key=lambda phrase: (-new[phrase], phrase), default="")
        if new.get(phrase, 0.0) <= 0:
            break
        found.append((phrase, now[phrase], then.get(phrase, 0.0)))
        left = [ending for ending in left if phrase not in _shares([ending], words)]
    return found


def _shares(endings: Iterable[str], words: int) -> dict[str, float]:
    """In what share of the endings each phrase occurs."""
    spoken = [re.findall(r"[\w'’-]+", ending.lower()) for ending in endings]
    found = Counter(phrase for said in spoken
                    for phrase in {" ".join(said[i:i + words]) for i in range(len(said) - words + 1)})
    return {phrase: number / len(spoken) for phrase, number in found.items()}


def worth_of_words(score: Callable[[list[str]], Sequence[float]], ending: str) -> list[tuple[str, float]]:
    """Every word of an ending with what the score loses when the word is taken out.

    `score` gives one number for each of a list of endings.
    """
    words = ending.split()
    shorter = [" ".join(words[:i] + words[i + 1:]) for i in range(len(words))]
    whole, *others = (float(x) for x in score([ending, *shorter]))
    return [(word, whole - other) for word, other in zip(words, others, strict=True)]


# --- drawing ----------------------------------------------------------------------------------------------------


def parting(rows: Sequence[Mapping[str, Any]], axes: Sequence[Axes] | None = None) -> NDArray[Any]:
    """A run as it happens, in three pictures: proxy against gold, the KL, and the share that makes sense."""
    if axes is None:
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(wspace=0.06)
    iterations, columns = _history(rows, ("iteration", "score", "gold", "kl", "coherent"))
    rewards = plots.labelled_axes(axes[0], "The judge and the truth", "iteration", "reward (s.d.)")
    for key, kind in (("score", "proxy"), ("gold", "gold")):
        label, colour, marker, dash = KINDS[kind]
        rewards.plot(iterations, columns[key], color=colour, linestyle=dash, marker=marker, markersize=4, label=label,
                     markevery=_every(iterations))
    rewards.fill_between(iterations, columns["score"], columns["gold"], color=GREY, alpha=0.15, linewidth=0)
    rewards.legend(fontsize=8, frameon=False)
    for ax, key, title in ((axes[1], "kl", "Distance travelled"), (axes[2], "coherent", "Endings that make sense")):
        plots.labelled_axes(ax, title, "iteration", plots.QUANTITIES[key][1])
        ax.plot(iterations, columns[key], color=BLUE, marker="o", markersize=4, markevery=_every(iterations))
    axes[2].set_ylim(-0.03, 1.03)
    return np.array(list(axes), dtype=object)


def rewards_over_distance(runs: Sequence[Run], best: Sequence[Mapping[str, float]] = (), ax: Axes | None = None,
                          named: bool = True) -> Axes:
    """Where PPO ends at each coefficient, and best of n, by both rewards over √KL: gold is filled, proxy hollow.

    Lines join neighbouring coefficients, which stand at the points if `named`. `best` holds, for each n, the KL bound
    and the mean gold and proxy of what the proxy picks.
    """
    ax = plots.labelled_axes(ax, "What the judge says, and what is true", "√KL (√nats per ending)", "reward (s.d.)")
    ordered = sorted(runs, key=lambda one: -one["kl_coef"])
    kl, gold, proxy = (np.array([one["evaluation"][key] for one in ordered])
                       for key in ("kl", "gold_mean", "proxy_mean"))
    _both(ax, kl, gold, proxy, "-", "o", "PPO")
    for x, y, one in zip(np.sqrt(np.maximum(kl, 0)), gold, ordered if named else [], strict=named):
        ax.annotate(f"{one['kl_coef']:g}", (x, y), xytext=(4, -12), textcoords="offset points", fontsize=8)
    if best:
        kl, gold, proxy = np.array([[row["kl"], row["gold"], row["proxy"]] for row in best]).T
        _both(ax, kl, gold, proxy, ":", "^", "best of n")
    ax.legend(fontsize=8, frameon=False)
    return ax


def _both(ax: Axes, kl: NDArray[np.float64], gold: NDArray[np.float64], proxy: NDArray[np.float64], dash: str,
          marker: str, name: str) -> None:
    """Proxy, hollow, and gold, filled, over √KL."""
    distance = np.sqrt(np.maximum(kl, 0))
    for values, kind in ((proxy, "proxy"), (gold, "gold")):
        _, colour, _, _ = KINDS[kind]
        ax.plot(distance, values, color=colour, linestyle=dash, marker=marker, markersize=6, linewidth=1.3,
                markerfacecolor=colour if kind == "gold" else "white", label=f"{kind}, {name}")


def histories(runs: Sequence[Run], key: str, over: Literal["iteration", "distance"] = "iteration",
              ax: Axes | None = None, labels: Sequence[str] = ()) -> Axes:
    """One quantity of every run, over the iterations as a line or over the distance √KL as a point for each of them.

    Dark is the first run; `labels` name the runs, or else their coefficients do.
    """
    title, unit = plots.QUANTITIES.get(key, (key.replace("_", " "), ""))
    ax = plots.labelled_axes(ax, title, "iteration" if over == "iteration" else "√KL (√nats per ending)", unit)
    colours = plt.colormaps["viridis"](np.linspace(0, 0.85 if len(runs) > 3 else 0.7, len(runs)))
    for i, one in enumerate(runs):
        found, far = one["history"], over == "distance"
        x = np.array(np.sqrt(np.maximum(found["kl"], 0)) if far else found["iteration"], float)
        ax.plot(x, found[key], color=colours[i], linestyle="none" if far else DASHES[i % len(DASHES)], linewidth=1.6,
                marker=MARKERS[i % len(MARKERS)], markersize=4.5, markevery=1 if far else _every(x),
                alpha=0.7 if far else 1, label=labels[i] if labels else f"{one['kl_coef']:g}")
    ax.legend(fontsize=8, frameon=False, title=None if labels else "coefficient", title_fontsize=8)
    return ax


def ends_over_coefficients(runs: Sequence[Run], keys: Mapping[str, str], title: str, unit: str,
                           ax: Axes | None = None) -> Axes:
    """Figures of the evaluations at each coefficient, evenly spaced: `keys` maps each to its label."""
    ax = plots.labelled_axes(ax, title, "KL coefficient", unit)
    runs = sorted(runs, key=lambda one: one["kl_coef"])
    for i, (key, label) in enumerate(keys.items()):
        look = (label, (BLUE, PURPLE)[i % 2], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        _, colour, marker, dash = KINDS.get(key.removesuffix("_mean"), look)
        ax.plot(range(len(runs)), [one["evaluation"][key] for one in runs], color=colour, linestyle=dash, marker=marker,
                label=label)
    ax.set_xticks(range(len(runs)), [f"{one['kl_coef']:g}" for one in runs])
    if len(keys) > 1:
        ax.legend(fontsize=8, frameon=False)
    return ax


def word_bars(worth: Sequence[tuple[str, float]], title: str, ax: Axes | None = None) -> Axes:
    """Bars for `worth_of_words`, to be read downwards; hatched are the words that cost."""
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 0.4 + 0.19 * len(worth)), layout="constrained")
    ax = plots.labelled_axes(ax, title, "what the word is worth (s.d. of usual endings)", "")
    values = [value for _, value in worth]
    ax.barh(range(len(worth)), values, color=[BLUE if x > 0 else ORANGE for x in values],
            hatch=["" if x > 0 else "///" for x in values], edgecolor="white")
    ax.set_yticks(range(len(worth)), [word for word, _ in worth], fontsize=8, parse_math=False)
    ax.set_ylim(len(worth) - 0.4, -0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    return ax


def scored_twice(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]], ax: Axes | None = None) -> Axes:
    """The same endings, scored by the first and by the refitted reward model; below the diagonal they have lost."""
    ax = plots.labelled_axes(ax, "The same endings, judged again", "score by the first reward model (s.d.)",
                     "score after the second round (s.d.)")
    for (label, (before, after)), colour, marker in zip(groups.items(), (GREY, PURPLE, BLUE), "^so", strict=False):
        ax.plot(before, after, linestyle="none", color=colour, marker=marker, markersize=4, alpha=0.65, label=label)
    low, high = min(*ax.get_xlim(), *ax.get_ylim()), max(*ax.get_xlim(), *ax.get_ylim())
    ax.plot([low, high], [low, high], color="black", linestyle=":", linewidth=1.2, label="no change")
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.legend(fontsize=8, frameon=False)
    return ax


def _history(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[list[float], dict[str, list[float]]]:
    """Rows as columns; the first key is the axis."""
    columns = {key: [plots.number(row.get(key)) for row in rows] for key in keys}
    return columns[keys[0]], columns


def _every(x: Sequence[float] | NDArray[np.float64]) -> int:
    return max(1, len(x) // 8)
