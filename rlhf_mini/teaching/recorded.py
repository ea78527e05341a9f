"""The recorded runs that come with the project: seed 3 whole, and the final figures of five seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_mini import plots
from rlhf_mini.assets import asset
from rlhf_mini.plots.backend import picture
from rlhf_mini.teaching.measured import Measured, mean_error, over_seeds
from rlhf_mini.teaching.overoptimisation import readable_gold

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

FEWEST = 0.005  # an error at least: equal in all five runs is not sure to the last digit
TOGETHER = 5  # iterations in a mean


def recorded_history() -> list[dict[str, Any]]:
    """The lines of history.jsonl of seed 3: 60 iterations with the KL penalty, then 60 without."""
    lines = (asset("run-3") / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def recorded_metrics() -> dict[str, Any]:
    """The metrics.json of seed 3."""
    read: dict[str, Any] = json.loads((asset("run-3") / "metrics.json").read_text(encoding="utf-8"))
    return read


@cache
def _seeds() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(asset("seeds.json").read_text(encoding="utf-8"))
    return read


def five_seeds(model: str, key: str) -> list[float]:
    """A final figure of a model, or of "reward_model", in the five recorded runs."""
    found = _seeds()["reward_model"] if model == "reward_model" else _seeds()["models"][model]
    return list(found[key]["values"])


def of_run(model: str, key: str, form: str = "") -> Measured:
    """A final figure of seed 3, with half the range of the five runs as its error."""
    return Measured(recorded_metrics()[model][key], max(over_seeds(five_seeds(model, key)).error, FEWEST), form)


def final_figures() -> dict[str, dict[str, Any]]:
    """The models of seed 3 as rows of a table; ± is half the range of the five runs."""
    return {look.label: {"proxy": of_run(name, "proxy_mean", "+"), "gold": of_run(name, "gold_mean", "+"),
                         "KL": (of_run(name, "kl") if name in ("base", *plots.ARMS)
                                else f"{recorded_metrics()[name]['kl']:.2f}"),  # 0, or the bound of best of n
                         "coherent": of_run(name, "coherent", "%"), "distinct": of_run(name, "distinct", "%")}
            for name, look in plots.STYLES.items()}


def along_the_way(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Gold, proxy and KL at the start, at the highest gold and at the end of both arms, as rows of a table.

    Each is a mean of five iterations in a row and ± its standard error; `readable` is the gold of the endings that the
    reader can parse.
    """
    rows = {}
    for arm in plots.ARMS:
        lines = [line for line in history if line["arm"] == arm]
        gold, readable, score, kl = (np.array(x, float) for x in (
            [line["gold"] for line in lines], [readable_gold(line["gold"], line["grammatical"]) for line in lines],
            [line["score"] for line in lines], [line["kl"] for line in lines]))
        best = int(np.argmax(np.convolve(gold, np.ones(TOGETHER), "valid")))
        last = len(gold) - TOGETHER
        rows[plots.STYLES[arm].label] = {
            "gold, first": _five(gold, 0), "highest": _five(gold, best), "last": _five(gold, last),
            "readable, last": _five(readable, last), "proxy, last": _five(score, last), "KL, last": _five(kl, last, "")}
    return rows


def _five(x: Any, start: int, form: str = "+") -> Measured:
    return mean_error(x[start:start + TOGETHER], form=form)


@picture
def proxy_and_gold(history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Proxy (hollow) and gold (filled) over √KL, each iteration a point, with a label at each cloud of points."""
    ax = plots.without_legend(plots.proxy_against_gold(history, ax))
    for arm, key, text, shift in (("ppo_no_kl", "score", "proxy (hollow), without the KL penalty", (6, -27)),
                                  ("ppo_no_kl", "gold", "gold (filled), without the KL penalty", (-137, 0)),
                                  ("ppo", "score", "both, with the KL penalty", (128, 12))):
        (_, kl), (_, values) = (plots.series(history, arm, name) for name in ("kl", key))
        place = float(np.sqrt(kl[-10:].mean())), float(values[-10:].mean())
        ax.annotate(text, place, xytext=shift, textcoords="offset points", color=plots.STYLES[arm].color, fontsize=9,
                    ha="right")
    ax.margins(y=0.12)
    return ax
