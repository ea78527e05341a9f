"""The recorded patients of notebook 10: ten runs with one fault each, a healthy one, and references.

`assets/clinic.json` is made by `assets/record/clinic.py` (`make clinic`).
"""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini.assets import asset
from rlhf_mini.errors import InputError
from rlhf_mini.tables import align_columns

Columns = Mapping[str, Sequence[float | None]]
HEALTHY = "healthy"
WIDTH = 108  # characters of a line
SHOWN = (1, 2, 3, 5, 10, 15, 20)  # iterations of a case's table
TABLE = ("score", "score_std", "reward", "gold", "coherent", "length", "ended", "entropy", "kl", "kl_k1", "kl_coef",
         "ratio_first", "clip_fraction", "approx_kl", "policy_loss", "value_loss", "explained_variance", "grad_norm")
NEAR = 1  # iterations before and after: the references of these say what is usual
WIDER = 1.0  # the band of what is usual is widened by its height, so many times, on both sides
EXACT = {"ratio_first": 1e-3, "kl_coef": 1e-3}  # 1 or a setting, but for rounding
LINE_ONE = {"ratio_first": (1, 1e-3), "kl": (0, 0.01), "kl_k1": (0, 0.01), "score": (0, 0.375),
            "score_std": (1, 0.375)}  # what the fine-tuned model has, and how far 64 endings may be from it: 3 errors
LEAST = {"clip_fraction": 0.02, "approx_kl": 0.02, "ended": 0.02, "coherent": 0.05, "kl": 0.1, "kl_k1": 0.5,
         "value_loss": 0.02}  # the least half-width of the band: less is noise, or matters to nobody


@dataclass(frozen=True)
class Clinic:
    """The recorded cases by number, the same faults with other seeds, and healthy references."""

    recorded: Mapping[str, Any]

    @property
    def numbers(self) -> list[int]:
        return sorted(map(int, self.recorded["cases"]))

    @property
    def references(self) -> list[Columns]:
        """Histories of healthy runs."""
        return list(self.recorded["healthy"].values())

    def history(self, number: int) -> dict[str, list[float | None]]:
        """The columns of a case. Raises: InputError where there is no such case."""
        return dict(self._case(number)["history"])

    @property
    def harmless(self) -> dict[str, Columns]:
        """Histories of runs with a real mistake that hardly changes a number."""
        return dict(self.recorded["harmless"])

    def samples(self, number: int) -> list[dict[str, Any]]:
        """A few endings of its last iteration."""
        return list(self._case(number)["samples"])

    def again(self, number: int) -> list[dict[str, list[float | None]]]:
        """The histories of the same fault with other seeds."""
        return [dict(histories[str(number)]) for histories in self.recorded["again"].values()]

    def cause(self, number: int) -> str:
        """What was put into a case: the answer."""
        self._case(number)
        return str(json.loads(base64.b64decode(self.recorded["sealed"]))[number - 1])

    def _case(self, number: int) -> Mapping[str, Any]:
        try:
            return dict(self.recorded["cases"][str(number)])
        except KeyError:
            raise InputError(f"there is no case {number!r}: choose from {self.numbers}") from None


@cache
def clinic() -> Clinic:
    """What is recorded in assets/clinic.json."""
    return Clinic(json.loads(asset("clinic.json").read_text(encoding="utf-8")))


def lines_of(columns: Columns) -> list[dict[str, float | None]]:
    """Columns as the lines of a history.jsonl: one dict for each iteration."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def case_lines(number: int) -> list[dict[str, float | None]]:
    """The history of a case, one dict for each iteration."""
    return lines_of(clinic().history(number))


def case_table(columns: Columns) -> str:
    """The main quantities at some iterations, as text."""
    rows = [[key, *(_short(columns[key][i - 1]) for i in SHOWN if i <= len(columns[key]))] for key in TABLE]
    heads = ["iteration", *(str(i) for i in SHOWN if i <= len(columns["iteration"]))]
    return "\n".join(line.rstrip() for line in align_columns([heads, *rows]))


def told(samples: Sequence[Mapping[str, Any]]) -> str:
    """Openings and endings as text."""
    lines = [f"{one['opening']} → {one['ending']}{'' if one['ended'] else ' [not ended]'}" for one in samples]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in lines)


def usual(key: str, references: Sequence[Columns], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The band of what is usual for a quantity at each of the first iterations. Shapes: (count,), (count,)."""
    table = np.array([[np.nan if x is None else x for x in one[key]] for one in references], dtype=float)
    low, high = np.empty(count), np.empty(count)
    for i in range(count):
        near = table[:, max(0, i - NEAR):i + NEAR + 1]
        least, most = np.nanmin(near), np.nanmax(near)
        width = EXACT[key] if key in EXACT else max(WIDER * (most - least), LEAST.get(key, 0.0))
        low[i], high[i] = least - width, most + width
    return low, high


def departure(columns: Columns, key: str, references: Sequence[Columns]) -> int | None:
    """The first iteration at which a quantity is unusual, and the next one too; None where it never is.

    Iteration 1 counts alone for what is known there: the policy is still the fine-tuned model, and the reference.
    """
    values = np.array([np.nan if x is None else x for x in columns[key]], dtype=float)
    if key in LINE_ONE and columns["iteration"][0] == 1 and abs(values[0] - LINE_ONE[key][0]) > LINE_ONE[key][1]:
        return 1
    low, high = usual(key, references, len(values))
    out = (values < low) | (values > high)
    lasting = out & np.append(out[1:], False)
    return int(columns["iteration"][int(lasting.argmax())]) if lasting.any() else None  # type: ignore[arg-type]


def first_unusual(number: int, keys: Sequence[str]) -> dict[str, list[int | None]]:
    """For each quantity of a case, the iteration of its departure in every recorded seed."""
    patients = clinic()
    histories = [patients.history(number), *patients.again(number)]
    return {key: [departure(one, key, patients.references) for one in histories] for key in keys}


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3g}"
