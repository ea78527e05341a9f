"""Five simulated annotators, and the gold reward: their mean utility without noise."""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_mini.errors import InputError
from rlhf_mini.tales.lexicon import DATA
from rlhf_mini.tales.reader import Attributes, Reading, read
from rlhf_mini.texts import texts

_panel = tomllib.loads((DATA / "panel.toml").read_text(encoding="utf-8"))
NOISE, STEP, MEAN, DEVIATION = (float(_panel[name]) for name in ("noise", "step", "mean", "deviation"))
# The bounds of each attribute in a coherent tale.
LOWEST = {"kindness": 0.0, "mood": -1.0, "vividness": 0.0, "speech": 0.0, "length": 8.0}
HIGHEST = {"kindness": 4.0, "mood": 1.0, "vividness": 3.0, "speech": 1.0, "length": 48.0}
MARKS = (-1.2, 3.3)  # the utilities below which a rating is 1 and above which it is 7
CELLS_OF_NOISE = 6  # probabilities are summed over so many standard deviations of noise on each side


@dataclass(frozen=True)
class Annotator:
    """A simulated annotator: weights over attributes, noise, ties and a dislike of nonsense.

    Units: points for each unit of an attribute (see `Attributes`). Raises: InputError for any other name.
    """

    name: str
    weights: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for attribute, _ in self.weights:
            if attribute not in LOWEST:
                raise InputError(f"annotator {self.name!r} weighs {attribute!r}: give one of {', '.join(LOWEST)}")

    def utility(self, opening: str, ending: str) -> float:
        """The utility of an ending without noise, in points.

        An incoherent ending is one `DEVIATION` below the worst coherent one, and an ungrammatical ending is one more
        below.
        """
        return self._utility(read(opening, ending))

    def _utility(self, reading: Reading) -> float:
        if reading.coherent:
            return self._taste(reading.attributes)
        floor = sum(weight * (LOWEST if weight > 0 else HIGHEST)[name] for name, weight in self.weights)
        return floor - DEVIATION * (1 if reading.grammatical else 2)

    def _taste(self, attributes: Attributes) -> float:
        return sum(weight * getattr(attributes, name) for name, weight in self.weights)

    def impressions(self, opening: str, completions: Sequence[str], rng: random.Random) -> list[float]:
        """Noisy utilities, one for each completion. Raises: InputError where these are no list of texts."""
        return [self.utility(opening, completion) + rng.gauss(0, NOISE)
                for completion in texts("completions", completions)]

    def rank(self, opening: str, completions: Sequence[str], rng: random.Random) -> list[list[int]]:
        """Tie groups of indices, best first; impressions in the same STEP of the scale tie."""
        marks = [math.floor(x / STEP) for x in self.impressions(opening, completions, rng)]
        return [[i for i, m in enumerate(marks) if m == mark] for mark in sorted(set(marks), reverse=True)]

    def rate(self, opening: str, completions: Sequence[str], rng: random.Random) -> list[int]:
        """A rating from 1 to 7 for each completion."""
        low, high = MARKS
        return [max(1, min(7, 1 + math.floor(7 * (x - low) / (high - low))))
                for x in self.impressions(opening, completions, rng)]

    def prefers(self, opening: str, first: str, second: str) -> float:
        """P(first is ranked above second), computed exactly: a sum over the steps in which second can be."""
        a, b = self.utility(opening, first), self.utility(opening, second)
        lowest = math.floor((b - CELLS_OF_NOISE * NOISE) / STEP)
        highest = math.ceil((b + CELLS_OF_NOISE * NOISE) / STEP)
        return sum((_normal(((cell + 1) * STEP - b) / NOISE) - _normal((cell * STEP - b) / NOISE))
                   * (1 - _normal(((cell + 1) * STEP - a) / NOISE)) for cell in range(lowest, highest))


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


PANEL = tuple(Annotator(name, tuple(weights.items())) for name, weights in _panel["annotators"].items())


def mean_utility(opening: str, ending: str) -> float:
    """The panel's mean utility, in points, without noise."""
    reading = read(opening, ending)
    return sum(annotator._utility(reading) for annotator in PANEL) / len(PANEL)


def gold_reward(opening: str, ending: str) -> float:
    """The panel's noise-free mean utility, scaled to mean 0 and standard deviation 1 over the grammar's stories.

    Units: standard deviations. An incoherent ending is 1 below the lowest a coherent one could be, an
    ungrammatical one 2.
    """
    return (mean_utility(opening, ending) - MEAN) / DEVIATION


def preference_probability(opening: str, first: str, second: str) -> float:
    """P(first above second, given that they do not tie) for an annotator drawn from the panel at random."""
    above = sum(annotator.prefers(opening, first, second) for annotator in PANEL)
    below = sum(annotator.prefers(opening, second, first) for annotator in PANEL)
    return above / (above + below)
