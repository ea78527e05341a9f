"""Measure in turns: seconds beside the speed of this machine at the same moment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flops import Shape

SIZE = 1024  # of the square matrices whose product is the measure of this machine
REPEATS = 8  # products in one measurement
ROWS = 2048  # of the matrices that stand for the model's


@dataclass(frozen=True)
class Work:
    """What one call did."""

    flop: float  # useful operations
    tokens: int  # of endings


@dataclass(frozen=True)
class Turn:
    """One call, measured."""

    seconds: float
    flop: float
    tokens: int
    rate: float  # operations per second of a matrix product, the mean of just before and just after

    @property
    def over_ideal(self) -> float:
        """Its seconds over the seconds of its useful work at the rate of a matrix product: 1 is ideal."""
        return self.seconds * self.rate / self.flop


@dataclass(frozen=True)
class Summary:
    """The median of some numbers, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Summary:
        return cls(statistics.median(numbers), min(numbers), max(numbers))

    def times(self, factor: float) -> Summary:
        return Summary(self.median * factor, self.low * factor, self.high * factor)

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


Contender = Callable[[], Turn]


def matrix_rate() -> float:
    """Operations per second of the product of two fp32 matrices that are large enough to keep all threads busy."""
    left, right = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    started = time.perf_counter()
    for _ in range(REPEATS):
        left @ right
    return REPEATS * 2 * SIZE ** 3 / (time.perf_counter() - started)


def model_rate(shape: Shape) -> float:
    """The same for products of the model's own shapes, one after another."""
    weights = [torch.rand(size) for size in shape.matrices]
    rows = {weight.shape[0]: torch.rand(ROWS, weight.shape[0]) for weight in weights}
    started = time.perf_counter()
    for weight in weights:
        rows[weight.shape[0]] @ weight
    return shape.linear(ROWS) / (time.perf_counter() - started)


def timed(run: Callable[[], Work]) -> Contender:
    """A contender that runs in this process."""
    def turn() -> Turn:
        before, started = matrix_rate(), time.perf_counter()
        work = run()
        seconds = time.perf_counter() - started
        return Turn(seconds, work.flop, work.tokens, (before + matrix_rate()) / 2)
    return turn


def take_turns(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[Turn]]:
    """All contenders in turn, `rounds` times, so that a busy moment of the machine hits all; a first round warms up."""
    for contender in contenders.values():
        contender()
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            turns[name].append(contender())
    return turns


def slower(other: Sequence[Turn], ours: Sequence[Turn]) -> Summary:
    """How many times as long the other takes for the same useful work, round by round."""
    return Summary.of([theirs.over_ideal / mine.over_ideal for theirs, mine in zip(other, ours, strict=True)])


def tokens_per_second(turns: Sequence[Turn]) -> Summary:
    return Summary.of([turn.tokens / turn.seconds for turn in turns])
