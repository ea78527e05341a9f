"""Measure overoptimisation: gold of readable endings, correlations, overused phrases, the worth of words.

Source: Gao, Schulman & Hilton 2022, "Scaling laws for reward model overoptimization".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_mini import tales
from rlhf_mini.errors import InputError
from rlhf_mini.texts import text, texts

UNREADABLE = tales.gold_reward("", "")  # of an ending that the reader cannot parse, whatever stands in it


def readable_gold(gold: ArrayLike, grammatical: ArrayLike) -> NDArray[np.float64]:
    """The mean gold reward of the endings that the reader can parse, from that of all and the share of such endings.

    Every other ending has the same gold reward, UNREADABLE, so what it adds to the mean is known; NaN where no ending
    can be parsed. Shapes: (N,), (N,) -> (N,), one entry for each batch.
    """
    mean, share = np.asarray(gold, float), np.asarray(grammatical, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 0, (mean - (1 - share) * UNREADABLE) / share, np.nan)


def correlation(a: Sequence[float], b: Sequence[float], given: Sequence[float] | None = None) -> float:
    """The correlation of a with b; with `given`, the partial correlation, in which `given` is held constant.

    It measures linear dependence only. Shapes: (N,) each. Raises: InputError where one of them does not vary.
    """
    columns = [np.asarray(x, float) for x in (a, b, given) if x is not None]
    if any(len(x) != len(columns[0]) or len(x) < 3 or np.ptp(x) == 0 for x in columns):
        raise InputError(f"the columns have {[len(x) for x in columns]} numbers: give equally many in each, at least "
                         "three, that are not all equal")
    r = np.corrcoef(columns)
    if given is None:
        return float(r[0, 1])
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))


def overused(after: Iterable[str], before: Iterable[str], words: int = 3,
             count: int = 8) -> list[tuple[str, float, float]]:
    """The phrases whose share of endings has grown most: (phrase, share after, share before), shares from 0 to 1.

    A phrase is `words` words in a row, without punctuation and capitals. After a phrase is found, the endings with it
    are left out of the search for the next one. So a sentence that occurs often is found once, not in several pieces.
    """
    endings, before = texts("after", after), texts("before", before)
    found: list[tuple[str, float, float]] = []
    shares, shares_before, remaining = _shares(endings, words), _shares(before, words), endings
    while len(found) < count:
        growth = {phrase: share * len(remaining) / len(endings) - shares_before.get(phrase, 0.0)
                  for phrase, share in _shares(remaining, words).items()}
        phrase = min(growth, key=lambda phrase: (-growth[phrase], phrase), default="")
        if growth.get(phrase, 0.0) <= 0:
            break
        found.append((phrase, shares[phrase], shares_before.get(phrase, 0.0)))
        remaining = [ending for ending in remaining if phrase not in _shares([ending], words)]
    return found


def _shares(endings: Iterable[str], words: int) -> dict[str, float]:
    """The share of endings in which each phrase occurs."""
    split = [re.findall(r"[\w'’-]+", ending.lower()) for ending in endings]
    counts = Counter(phrase for ending in split
                     for phrase in {" ".join(ending[i:i + words]) for i in range(len(ending) - words + 1)})
    return {phrase: number / len(split) for phrase, number in counts.items()}


def worth_of_words(score: Callable[[list[str]], Sequence[float]], ending: str) -> list[tuple[str, float]]:
    """Each word of an ending, and how much the score falls when this word is left out.

    `score` returns one number for each ending of a list.
    """
    words = text("ending", ending).split()
    shorter = [" ".join(words[:i] + words[i + 1:]) for i in range(len(words))]
    whole, *others = (float(x) for x in score([ending, *shorter]))
    return [(word, whole - other) for word, other in zip(words, others, strict=True)]
