"""What a command is going to do, stage by stage, and how long that takes, from what was measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_mini.errors import visible
from rlhf_mini.run.config import RunConfig

RUN = {"sft": "fine-tuning", "rankings": "rankings", "reward_model": "reward model", "ppo": "PPO with KL",
       "ppo_no_kl": "PPO without KL", "evaluation": "evaluation"}
WHAT = {"sft": "the language model learns to write one ending and stop",
        "rankings": "five simulated annotators rank its endings",
        "reward_model": "a second model learns to score endings as they rank them",
        "ppo": "endings are sampled and scored; distance costs reward",
        "ppo_no_kl": "the same, but distance costs nothing",
        "evaluation": "all models end the same held-out openings; the report"}
PRETRAIN = {"tokenizer": "tokenizer", "corpus": "corpus", "training": "pretraining", "card": "model card"}
WHAT_OF_PRETRAIN = {"tokenizer": "learns its tokens from a part of the corpus", "corpus": "is written, and encoded",
                    "training": "one pass over the corpus", "card": "the loss on documents that were held out"}
STEPS = 3  # a kind of work is measured after so many steps; the first of them, which is slower, does not count


@dataclass(frozen=True)
class Work:
    """One bar's worth of work. Work of the same kind takes equally long for each unit."""

    title: str
    kind: str
    units: int | None = None  # None: not known before it begins


@dataclass
class Pace:
    """How fast one bar goes."""

    kind: str
    started: float
    steps: int = 0
    units: int = 0
    after_first: tuple[float, int] = (0.0, 0)  # when the first step was done, and its units
    latest: float = 0.0

    def step(self, now: float, units: int) -> None:
        """One step of so many units is done."""
        self.steps, self.units, self.latest = self.steps + 1, self.units + units, now
        if self.steps == 1:
            self.after_first = now, units

    def rate(self, ended: bool = False) -> float | None:
        """Seconds per unit; None where too little is done to tell."""
        since, before = self.after_first
        if self.units > before and (self.steps >= STEPS or ended):
            return (self.latest - since) / (self.units - before)
        return (self.latest - self.started) / self.units if ended and self.units else None


@dataclass
class Measured:
    """What was measured, in this plan or in earlier ones of the same command."""

    rates: dict[str, float] = field(default_factory=dict)  # seconds per unit, by kind
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)  # units that were known late, by stage and title


@dataclass
class Plan:
    """The stages of a command by name, what each will take, and how much of it is left.

    Nothing is guessed: a stage has no seconds before every kind of its work was measured.
    """

    heading: str
    titles: Mapping[str, str]
    what: Mapping[str, str]
    measured: Measured = field(default_factory=Measured)
    now: Callable[[], float] = time.perf_counter
    stage: str | None = None
    _began: float = 0.0
    _left: dict[str, dict[str, int | None]] = field(default_factory=dict)  # units, by stage and title
    _kinds: dict[str, str] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _paces: list[Pace] = field(default_factory=list)  # of the bars that are shown, the innermost last

    def lines(self) -> list[str]:
        """The plan as text: a heading, and a line for each stage."""
        width = max(map(len, self.titles.values()))
        return [self.heading, *(f"  {self.head(name)}{' ' * (width - len(title))}  {self.what[name]}"
                                for name, title in self.titles.items())]

    def head(self, stage: str) -> str:
        """Number and title of a stage, such as "1/6 fine-tuning"."""
        return f"{list(self.titles).index(stage) + 1}/{len(self.titles)} {self.titles[stage]}"

    def expect(self, work: Mapping[str, Sequence[Work]]) -> None:
        """Say what each stage is going to do."""
        self._left = {stage: {one.title: self.measured.sizes.get((stage, one.title), one.units) for one in parts}
                      for stage, parts in work.items()}
        self._kinds = {one.title: one.kind for parts in work.values() for one in parts}

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.stage, self._began = stage, self.now()

    def end(self, stage: str) -> None:
        """A stage is done, now or before."""
        self.stage = None
        self._left[stage] = {}
        self._told.add(stage)

    def begin_bar(self, title: str, total: int, done: int) -> None:
        """The work of this title begins, or goes on after what is done."""
        self._paces.append(Pace(self._kinds.get(title, title), self.now()))
        left = self._left.get(self.stage or "", {})
        if title in left:
            if left[title] is None:
                left[title] = self.measured.sizes[self.stage or "", title] = total
            self._take(title, done)

    def step(self, title: str, units: int = 1) -> None:
        """So many units more are done."""
        self._paces[-1].step(self.now(), units)
        self._measure(self._paces[-1])
        self._take(title, units)

    def end_bar(self) -> None:
        """The work that began last is done."""
        self._measure(self._paces.pop(), ended=True)

    def left(self) -> tuple[float, bool]:
        """Seconds of what is left and was measured, and whether that is all that is left."""
        seconds = {stage: self._seconds(stage) for stage in self.titles}
        known = [value for value in seconds.values() if value is not None]
        return sum(known), len(known) == len(seconds)

    def newly_known(self) -> dict[str, float]:
        """Seconds of every stage, from its beginning, whose kinds of work were all measured since the last call."""
        known = {stage: seconds for stage in self.titles if stage not in self._told
                 and (seconds := self._seconds(stage)) is not None}
        self._told |= known.keys()
        if self.stage in known:
            known[self.stage] += self.now() - self._began
        return known

    def _seconds(self, stage: str) -> float | None:
        if stage not in self._left:
            return None
        total = 0.0
        for title, units in self._left[stage].items():
            rate = 0.0 if units == 0 else self.measured.rates.get(self._kinds[title])
            if units is None or rate is None:
                return None
            total += units * rate
        return total

    def _take(self, title: str, units: int) -> None:
        left = self._left.get(self.stage or "", {})
        if (before := left.get(title)) is not None:
            left[title] = max(0, before - units)

    def _measure(self, pace: Pace, ended: bool = False) -> None:
        if (rate := pace.rate(ended)) is not None:
            self.measured.rates[pace.kind] = rate


def run_plan(config: RunConfig, resume: bool = False, measured: Measured | None = None) -> Plan:
    """The plan of a run; given rankings are read first. `measured` is what earlier runs of this command have shown."""
    heading = f"A run in six stages {'goes on' if resume else 'begins'} in {visible(config.out)}:"
    if not config.rankings:
        return Plan(heading, RUN, WHAT, measured or Measured())
    order = ["rankings", *RUN]
    return Plan(heading, {name: RUN[name] for name in order},
                WHAT | {"rankings": "the given ones are checked and copied"}, measured or Measured())


def pretrain_plan(out: Path) -> Plan:
    """The plan of `pretrain`."""
    return Plan(f"A checkpoint is made in four stages in {visible(out)}:", PRETRAIN, WHAT_OF_PRETRAIN, Measured())
