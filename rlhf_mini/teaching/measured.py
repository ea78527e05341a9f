"""Measured numbers and their errors, printed as `+0.83 ± 0.05` and compared by that error when a notebook is tested."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini.errors import InputError
from rlhf_mini.tables import align_columns

POINTS = " percentage points"  # what a difference of two percentages has for a unit
ROUNDING = 1e-9  # of a value: equal numbers have means that differ in the sixteenth digit, which is no error


@dataclass(frozen=True)
class Measured:
    """A number and its error, one standard error unless the text beside it says otherwise.

    `form` is how it is printed: "+" always shows the sign, "%" prints percent, "" neither. With a sign, percent are a
    difference of two percentages, and so percentage points. A format given in an f-string replaces it and may add a
    width: `f"{gain:+%}"`, `f"{gain:>14}"`.
    """

    value: float
    error: float
    form: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.error) and self.error >= 0):
            raise InputError(f"{self.value} ± {self.error} is not a measured number: give a finite value and an "
                             "error of at least 0")

    def __str__(self) -> str:
        return format(self)

    def __format__(self, form: str) -> str:
        sign, percent, layout = re.fullmatch(r"(\+?)(%?)(.*)", form).groups()  # type: ignore[union-attr]
        if not sign and not percent:
            sign, percent = "+" * ("+" in self.form), "%" * ("%" in self.form)
        scale, unit = (100, POINTS if sign else " %") if percent else (1, "")
        uncertain = self.error if self.error > ROUNDING * abs(self.value) else 0.0
        places = decimals(scale * uncertain)
        value, error = (f"{round(scale * x, places) + 0.0:{show}.{max(places, 0)}f}"  # + 0.0 makes 0 of -0
                        for x, show in ((self.value, sign), (uncertain, "")))
        return format(f"{value} ± {error}{unit}", layout)

    def __sub__(self, other: Measured | float) -> Measured:
        """The distance from a constant, or from a number that was measured on *other* rows."""
        value, error = (other.value, other.error) if isinstance(other, Measured) else (other, 0.0)
        return Measured(self.value - value, math.hypot(self.error, error), _signed(self.form))

    def widened(self, band: float) -> Measured:
        """The same number with an error that also covers a band, for instance that of training again."""
        return replace(self, error=math.hypot(self.error, band))


def decimals(error: float) -> int:
    """How many decimals to print: those of the error's first digit, and one more where the error is below 3.55 of it.

    Source: Particle Data Group, Review of Particle Physics, section 5.3 (Rounding).
    """
    if error == 0:
        return 2
    first = math.floor(math.log10(error))
    return -first + (error / 10.0**first < 3.55)


def mean_error(x: Any, by: Sequence[Any] | None = None, form: str = "") -> Measured:
    """The mean of numbers and its standard error.

    Numbers that were drawn together are no independent evidence: four endings of one opening, the tokens of one tale.
    `by` names the group of each (its opening, its tale), and the error is that of so many groups.
    Shapes: (N,). Raises: InputError for fewer than two numbers or groups.
    """
    numbers = _numbers(x)
    groups = _groups(by, len(numbers))
    left = numbers - numbers.mean()
    of_groups = np.bincount(groups, weights=left)  # what each group has above the mean, in all
    count = len(of_groups)
    error = math.sqrt(count / (count - 1) * float(np.square(of_groups).sum())) / len(numbers)
    return Measured(float(numbers.mean()), error, form)


def difference(after: Any, before: Any, by: Sequence[Any] | None = None, form: str = "") -> Measured:
    """The mean of `after` less `before`, pair by pair; what both share, such as the opening, leaves the error.

    Shapes: (N,), (N,). Raises: InputError where they differ in length.
    """
    last, first = _numbers(after), _numbers(before)
    if len(last) != len(first):
        raise InputError(f"{len(last)} numbers after and {len(first)} before are no pairs: give as many of each")
    return mean_error(last - first, by, _signed(form))


def share_of(flags: Any, by: Sequence[Any] | None = None) -> Measured:
    """The share of flags that are true, in percent, with an error that is never 0.

    Of n flags k are true. If every share was equally likely beforehand, the standard deviation of what it may be now
    is √(p (1 − p) / (n + 3)) with p = (k + 1) / (n + 2): about 1 / n for 0 and for n of n. `by` is as in `mean_error`,
    and the error then that of the groups if it is larger; where all flags are equal, groups say nothing.
    Source: Laplace 1774 (the beta distribution of a share).
    """
    numbers = _numbers(flags)
    count, mean = len(numbers), float(numbers.mean())
    p = (count * mean + 1) / (count + 2)
    error = math.sqrt(p * (1 - p) / (count + 3))
    return Measured(mean, max(error, mean_error(numbers, by).error if by is not None else 0.0), "%")


def change_of_share(after: Any, before: Any, by: Sequence[Any] | None = None) -> Measured:
    """The change of a share, flag by flag of the same rows, in percentage points, with an error that is never 0.

    The error is that of `difference`, and one row of n more that might have changed: 1 / n. `by` is as in `mean_error`.
    Shapes: (N,), (N,).
    """
    return difference(after, before, by, "%").widened(1 / len(_numbers(after)))


def over_seeds(values: Any, form: str = "") -> Measured:
    """The mean over seeds, ± half their range. Say so beside it: this is not a standard error."""
    numbers = _numbers(values)
    return Measured(float(numbers.mean()), float(np.ptp(numbers)) / 2, form)


def resampled(measure: Callable[..., float], *columns: Any, by: Sequence[Any] | None = None, draws: int = 200,
              form: str = "") -> Measured:
    """Any figure of some columns of numbers, such as a correlation, with the error that drawing the rows anew gives.

    Source: Efron 1979 (the bootstrap). Rows of one group of `by` are drawn together.
    """
    table = [_numbers(column) for column in columns]
    groups = _groups(by, len(table[0]))
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    generator = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        rows = np.concatenate([members[group] for group in generator.integers(len(members), size=len(members))])
        found.append(float(measure(*(column[rows] for column in table))))
    return Measured(float(measure(*table)), float(np.std(found, ddof=1)), form)


def print_table(rows: Mapping[str, Mapping[str, Any]], plus_minus: str) -> None:
    """Print one line for each row, one column for each of its entries, and what ± is: `plus_minus`, once.

    Percentage points are too long for a column: they are printed as %, and a line below the table says so.
    """
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    cells = [[name, *(str(row.get(head, "")) for head in heads)] for name, row in rows.items()]
    short = [[cell.replace(POINTS, " %") for cell in row] for row in cells]
    print("\n".join(line.rstrip() for line in align_columns([["", *heads], *short])))
    print(f"± is {plus_minus}")
    if short != cells:
        print("% with a sign are percentage points")


def _signed(form: str) -> str:
    return "+" + form.replace("+", "")


def _numbers(x: Any) -> NDArray[np.float64]:
    numbers = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64).reshape(-1)
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        raise InputError(f"{len(numbers)} numbers, {int((~np.isfinite(numbers)).sum())} of them not finite: "
                         "an error needs two or more, all finite")
    return numbers


def _groups(by: Sequence[Any] | None, count: int) -> NDArray[np.int64]:
    """The number of each row's group, counted from 0; without `by`, every row is its own."""
    if by is None:
        return np.arange(count)
    if len(by) != count or len(set(by)) < 2:
        raise InputError(f"{len(by)} names of {len(set(by))} groups for {count} numbers: name the group of each "
                         "number, at least two groups in all")
    places = {name: place for place, name in enumerate(dict.fromkeys(by))}
    return np.array([places[name] for name in by])
