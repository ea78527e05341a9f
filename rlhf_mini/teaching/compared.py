"""Whether two printings of the same measured numbers agree; `notebooks/conftest.py` makes nbval ask it.

A measured number is written `+0.83 ± 0.05`. Stored and printed anew, it agrees where
- the errors are within a factor of two, or within one last digit, of each other, and
- the values are within four combined errors, 4 √(s² + t²), or within one last digit, of each other.
The text around such numbers has to be equal, where any run of blanks counts as one: a table moves with its numbers.
A text without such a number has to be equal to the letter.
"""

from __future__ import annotations

import difflib
import re
from decimal import Decimal
from typing import NamedTuple

ERRORS_APART = 4  # combined errors between two values
ERROR_RATIO = 2

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?"
MEASURED = re.compile(rf"""
    (?P<value> (?: (?<![\w.]) [+\-−] )? (?<![\w.,]) {_NUMBER} )
    (?P<unit> [^\S\n]? (?: % | [A-Za-z]+ )? )
    [^\S\n]* (?: ± | &plusmn; ) [^\S\n]*
    (?P<error> {_NUMBER} )""", re.VERBOSE)
PLACE = "⟨number⟩"  # stands in the text where a measured number was


class Number(NamedTuple):
    """A measured number as it was printed; exact decimals, so that 9.9 and 10.0 are one last digit apart."""

    text: str
    value: Decimal
    error: Decimal

    @property
    def errors_from_zero(self) -> float:
        return float(abs(self.value) / self.error) if self.error else float("inf")

    def distance(self, other: Number) -> str:
        """What is wrong with `other` where this is stored, in words; empty where they agree."""
        smaller, larger = sorted((self.error, other.error))
        if larger > ERROR_RATIO * smaller and larger - smaller > max(_digit(self.error), _digit(other.error)):
            times = f"{larger / smaller:.1f} times" if smaller else "infinitely"
            return f"one error is {times} as large as the other (at most {ERROR_RATIO})"
        apart, combined = abs(self.value - other.value), (self.error**2 + other.error**2).sqrt()
        if apart <= max(ERRORS_APART * combined, *(_digit(x) for x in (*self[1:], *other[1:]))):
            return ""
        many = f"{apart / combined:.1f}" if combined else "infinitely many"
        return f"the values are {many} combined errors apart (at most {ERRORS_APART})"


def _digit(number: Decimal) -> Decimal:
    """One last digit of a number as it was written."""
    return Decimal(1).scaleb(int(number.as_tuple().exponent))


def numbers(text: str) -> list[Number]:
    """The measured numbers in a text, in order."""
    return [Number(found[0], *(Decimal(found[part].replace("−", "-").replace(",", "")) for part in ("value", "error")))
            for found in MEASURED.finditer(text)]


def words(text: str) -> str:
    """The text around the measured numbers, with single blanks and none at the ends of lines."""
    if not MEASURED.search(text):
        return text
    text = MEASURED.sub(lambda found: f" {PLACE} {found['unit'].strip()} ", text)
    return re.sub(r" ?(\n|$) ?", r"\1", re.sub(r"[^\S\n]+", " ", text)).lstrip(" ")


def differences(stored: str, new: str) -> list[str]:
    """One line for each thing in which an output is not the stored one; none where they agree."""
    if words(stored) != words(new):
        lines = difflib.unified_diff(words(stored).splitlines(), words(new).splitlines(), lineterm="", n=0)
        return ["the text differs, - stored, + new:", *(f"{line[0]} {line[1:]}" for line in list(lines)[2:]
                                                        if not line.startswith("@@"))]
    pairs = list(zip(numbers(stored), numbers(new), strict=True))
    return [f"number {place} of {len(pairs)}: {old.text} stored, {now.text} new: {old.distance(now)}"
            for place, (old, now) in enumerate(pairs, 1) if old.distance(now)]
