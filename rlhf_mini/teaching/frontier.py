"""The best score that each distance can buy, from endings of the reference alone; and where a run stands beside it.

At the price beta the best policy is reference * exp(score / beta), made to sum to 1, in each opening for itself. It
need not be trained: it is worth J* = beta * ln E_reference[exp(score / beta)], a mean over endings of the reference,
and any mean under it is one under the reference with weights exp(score / beta). P is openings, K endings of each.

Sources: Ziegler et al. 2019, equation 2; Korbak et al. 2022 for the optimum; Kong 1992 for the effective number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from rlhf_mini import plots
from rlhf_mini.errors import InputError
from rlhf_mini.plots.backend import picture
from rlhf_mini.teaching.measured import Measured, mean_error, resampled

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

FRONTIER, PATH, TOGETHER = "#009E73", "#0072B2", 5  # two colours, and iterations that are one point of a path
FEWEST = 2.5  # effective endings: with fewer nothing is said of the best policy beside a run
LEAST = 4.0  # effective endings: with fewer the curve says more about the sample than about the best policy


class Best(NamedTuple):
    """The best policy at one price, opening by opening. Shapes: (P,) each."""

    objective: Tensor  # J*, score less price times KL
    score: Tensor
    kl: Tensor  # nats per ending
    effective: Tensor  # so many endings have as much say as these unequal weights: from 1 to K


def best_policy(scores: Tensor, kl_coef: float) -> Best:
    """Reweight the scores of sampled endings of the reference. Shapes: (P, K) -> (P,) each.

    J* is too low on average, the more so the fewer endings each opening has: the best of all endings is seldom among
    K of them. KL cannot exceed ln K. All openings in one row give too much: that policy could choose its opening.
    Raises: InputError for another shape, and where the price is not above 0: then the best policy has no end.
    """
    if scores.ndim != 2 or not scores.numel():
        raise InputError(f"scores have shape {tuple(scores.shape)}: give one row of endings for each opening")
    if not kl_coef > 0:
        raise InputError(f"kl_coef is {kl_coef}: the best policy is known where a nat costs more than 0")
    scores = scores.double()
    tilted = scores / kl_coef
    objective = kl_coef * (tilted.logsumexp(1) - math.log(scores.shape[1]))
    weights = tilted.softmax(1)
    score = (weights * scores).sum(1)
    return Best(objective, score, (score - objective) / kl_coef, 1 / weights.square().sum(1))


def best_at(scores: Tensor, kl_coef: float) -> dict[str, Measured]:
    """The best policy at one price, each number a mean over openings; of the effective endings the median."""
    best = best_policy(scores, kl_coef)
    return {"score": mean_error(best.score), "KL": mean_error(best.kl), "J*": mean_error(best.objective),
            "effective endings": resampled(np.median, best.effective)}


def best_if_known(scores: Tensor, kl_coef: float) -> dict[str, Any]:
    """`best_at`; but of the best policy only the effective endings where there are fewer than FEWEST of them.

    Then a row would say how good the best of the K endings is, and not how good the best policy.
    """
    best = best_at(scores, kl_coef)
    known = best["effective endings"].value >= FEWEST
    return {name: found if known or name == "effective endings" else "" for name, found in best.items()}


def beside_best(scores: Tensor, kl_coef: float, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What a run with this price spent and reached, beside the best policy where that is known.

    `evaluation` is a row of metrics.json.
    """
    best, samples = best_if_known(scores, kl_coef), evaluation["samples"]
    spent = Measured(evaluation["kl"], max(1, evaluation["kl"]) * samples**-0.5)
    reached = Measured(evaluation["proxy_mean"] - kl_coef * spent.value,
                       math.hypot(samples**-0.5, kl_coef * spent.error))
    row = {"KL": spent, "best KL": best["KL"], "J": reached, "J/J*": "",
           "effective endings": best["effective endings"].widened(0.1)}  # so that 1 of 1 is not sure to the last digit
    if (most := best["J*"]) != "":
        share = reached.value / most.value
        row["J/J*"] = Measured(share, math.hypot(reached.error, share * most.error) / most.value, "%")
    return row


def frontier(scores: Tensor, highest: float = 10.0, points: int = 60) -> tuple[list[float], list[float]]:
    """KL and score of the best policies, each a mean over openings, as the price falls from `highest`.

    The last price is the lowest at which the median opening has at least LEAST effective endings. Shapes: (P, K).
    """
    found = [best_policy(scores, kl_coef) for kl_coef in np.geomspace(highest, 0.01, points).tolist()]
    found = [best for best in found if best.effective.median() >= LEAST]
    return [best.kl.mean().item() for best in found], [best.score.mean().item() for best in found]


@picture
def score_over_kl(scores: Tensor, kl_coef: float, history: Mapping[str, Sequence[float]],
                  others: Mapping[str, tuple[float, float]], ax: Axes | None = None) -> Axes:
    """The frontier, the best policy at one price on it, and the path of a run with that price.

    `history` has the run's kl and score, one number for each iteration; `others` names further points (KL, score).
    """
    ax = plots.labelled_axes(ax, "Score over the distance: the best there is, and a run", "KL (nats per ending)",
                             "score (s.d. of SFT endings)")
    ax.plot(*frontier(scores), color=FRONTIER, linewidth=2, label="best policies, by reweighting")
    best = best_policy(scores, kl_coef)
    ax.plot(best.kl.mean(), best.score.mean(), color=FRONTIER, marker="*", markersize=14, linestyle="none",
            label=f"the best one at {kl_coef:g} a nat")
    kl, score = (_together(history[key]) for key in ("kl", "score"))
    ax.plot(kl, score, color=PATH, marker="o", markersize=4, linewidth=1, linestyle="--",
            label=f"the run at {kl_coef:g}, means of {TOGETHER} iterations")
    for marker, (name, point) in zip("^vDs", others.items(), strict=False):
        ax.plot(*point, color="#555555", marker=marker, markersize=7, linestyle="none", label=name)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return ax


def _together(values: Sequence[float]) -> list[float]:
    """Means of so many numbers in a row."""
    return [float(np.mean(values[i:i + TOGETHER])) for i in range(0, len(values), TOGETHER)]
