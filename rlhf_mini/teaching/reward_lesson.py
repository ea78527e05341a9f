"""What notebook 04 measures of a reward model: its order against chance and the ceiling, its sureness, its liking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlhf_mini.metrics import calibration_bins
from rlhf_mini.teaching.measured import Measured, difference, mean_error, resampled, share_of
from rlhf_mini.teaching.overoptimisation import correlation

SURE = 0.9  # the probability from which a model counts as sure


def against(right: Tensor, certainty: Tensor, openings: Sequence[str], again: float = 0.0) -> dict[str, Measured]:
    """How good the order of some pairs is: in itself, beside chance, beside the ceiling, and between the two.

    `right` says of each pair whether its order is that of the annotators, `certainty` how likely the likelier order
    is; `again` is what training again adds to the error. Shapes: (N,) each.
    """
    hits, best = right.double().numpy(), certainty.numpy()
    accuracy = share_of(hits, openings).widened(again)
    way = resampled(lambda x, y: (x.mean() - 0.5) / (y.mean() - 0.5), hits, best, by=openings, form="%")
    return {"accuracy": accuracy, "beside chance": accuracy - 0.5,
            "beside the ceiling": difference(hits, best, openings, "%").widened(again),
            "of the way": way.widened(again / (best.mean() - 0.5))}


def when_sure(margins: Tensor, openings: Sequence[str]) -> dict[str, Measured]:
    """Where a model is at least 90 % sure of an order: how often it says that it is wrong, and how often it is.

    Shapes: (N,), the score of the chosen ending less that of the rejected one.
    """
    sure = margins.abs().sigmoid() >= SURE
    names = [name for name, is_sure in zip(openings, sure.tolist(), strict=True) if is_sure]
    said, seen = (-margins.abs()).sigmoid()[sure], (margins < 0)[sure]
    return {"sure of": share_of(sure, openings), "says it is wrong in": mean_error(said, names, "%"),
            "is wrong in": share_of(seen, names), "more than it says": difference(seen, said, names, "%")}


def overconfident_by(one: Tensor, other: Tensor, openings: Sequence[str]) -> Measured:
    """How much more often one model is wrong than it says than another is, where each is sure, on the same pairs.

    The pairs are drawn anew for both together, so the error is that of a paired comparison. A margin of 0 is never
    sure: it leaves a pair out. Shapes: (N,), (N,), margins as in `when_sure`.
    """
    return resampled(lambda a, b: _overconfidence(a) - _overconfidence(b), one, other, by=openings, form="+%")


def _overconfidence(margins: NDArray[np.float64]) -> float:
    said = 1 / (1 + np.exp(np.abs(margins)))  # the probability of being wrong
    sure = said <= 1 - SURE
    return float((margins[sure] < 0).mean() - said[sure].mean()) if sure.any() else 0.0


def recorded_scale(margins: Tensor, bins: Sequence[Mapping[str, float]]) -> float:
    """By what normalising divided the scores: the number that gives back a table of calibration measured before it."""
    return min((i / 100 for i in range(50, 800)), key=lambda scale: apart(margins * scale, bins))


def apart(margins: Tensor, bins: Sequence[Mapping[str, float]]) -> float:
    """The largest distance of a predicted probability from those of a recorded table; 1 where its bins are others."""
    found = calibration_bins(margins)
    if len(found) != len(bins):
        return 1.0
    return max(abs(a["predicted"] - b["predicted"]) for a, b in zip(found, bins, strict=True))


def by_form(recorded: Mapping[str, Any]) -> dict[str, dict[int, list[float]]]:
    """Accuracies of `assets/label_efficiency.json`: form -> number of rankings -> one for each seed, in one order."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in sorted(recorded["results"], key=lambda row: (row["rankings"], row["seed"])):
        found.setdefault(row["form"], {}).setdefault(row["rankings"], []).append(row["accuracy"])
    return found


def gain_of_a_doubling(sizes: Mapping[int, Sequence[float]], fewest: int, most: int) -> list[float]:
    """What a doubling of the rankings adds to the accuracy, on average from `fewest` to `most` of them: one a seed."""
    return [(last - first) / np.log2(most / fewest).item()
            for first, last in zip(sizes[fewest], sizes[most], strict=True)]


def beyond(score: NDArray[np.float64], gold: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a score holds that a straight line through gold does not explain, in standard deviations. Shapes: (N,)."""
    z, g = ((x - x.mean()) / x.std() for x in (score, gold))
    left: NDArray[np.float64] = z - correlation(z, g) * g
    return left


def in_all_and_some(measure: Callable[..., float], *columns: Any, some: Any, by: Sequence[Any],
                    again: float = 0.0) -> dict[str, Measured]:
    """A figure of all rows, of some of them, and the difference; drawn anew together, so that its error is paired.

    `again` is what training again adds to the error. Shapes: (N,) each, `some` of True and False.
    """
    def of_some(*drawn: Any) -> float:
        return measure(*(column[drawn[-1] > 0] for column in drawn[:-1]))

    def apart(*drawn: Any) -> float:
        return measure(*drawn[:-1]) - of_some(*drawn)

    drawn = (*columns, some)
    found = {"all endings": resampled(lambda *drawn: measure(*drawn[:-1]), *drawn, by=by, form="+"),
             "those that make sense": resampled(of_some, *drawn, by=by, form="+"),
             "difference": resampled(apart, *drawn, by=by, form="+")}
    return {name: one.widened(again) for name, one in found.items()}


def leans_more(x: Any, ours: Any, full: Any, given: Any) -> float:
    """How much more one score goes with x than another does, both among equal `given`: partial correlations."""
    return correlation(x, ours, given) - correlation(x, full, given)
