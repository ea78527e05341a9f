"""What notebook 04 measures of a reward model: its order against chance and the ceiling, its sureness, its liking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def gain_of_a_doubling(sizes: Mapping[int, Sequence[float]]) -> list[float]:
    """What a doubling of the rankings adds to the accuracy, on average from the fewest to the most: one a seed."""
    fewest, most = min(sizes), max(sizes)
    return [(last - first) / np.log2(most / fewest).item()
            for first, last in zip(sizes[fewest], sizes[most], strict=True)]


def beyond(score: NDArray[np.float64], gold: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a score holds that a straight line through gold does not explain, in standard deviations. Shapes: (N,)."""
    z, g = ((x - x.mean()) / x.std() for x in (score, gold))
    left: NDArray[np.float64] = z - correlation(z, g) * g
    return left


def leans_more(x: Any, ours: Any, full: Any, given: Any) -> float:
    """How much more one score goes with x than another does, both among equal `given`: partial correlations."""
    return correlation(x, ours, given) - correlation(x, full, given)
