"""Where progress is shown on stderr: a line of a terminal, drawn anew each half second, or lines of a pipe or file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from rlhf_mini import console, team
from rlhf_mini.run.lines import WIDTH, clock, columns, cut, escaped, fitting, joined
from rlhf_mini.run.plan import Plan

BAR = 7  # columns that a bar has at least, with its ends
TICK = 0.5  # seconds after which a line of a terminal is drawn again
SILENCE = 25.0  # seconds without a line in a pipe after which one is printed
LINES_PER_BAR = 4  # printed in a pipe


@dataclass
class Bar:
    """One row of steps that are shown: its title, how many are done, and what is told of the latest."""

    title: str
    total: int
    done: int
    told: str = ""
    lines: int = LINES_PER_BAR

    def is_mark(self) -> bool:
        """Whether a pipe gets a line after this step."""
        return self.done in {round(self.total * k / self.lines) for k in range(1, self.lines + 1)}


class Screen:
    """Progress on stderr, with a plan (`showing`) or without one."""

    def __init__(self, plan: Plan | None = None, doing: str = "") -> None:
        self.plan, self.doing = plan, doing
        self.stream = console.safe(sys.stderr)
        self.terminal = bool(self.stream.isatty())
        self._bars: list[Bar] = []
        self._since = self._spoke = self._drew = time.perf_counter()
        self._announced = False
        self.last = ""  # what was told of the last step of the bar that has the stage's title
        self._lock = threading.RLock()
        self._line: Any = tqdm(bar_format="{desc}", position=0, leave=plan is None, file=self.stream) \
            if self.terminal else None
        if self.terminal:
            self.announce()

    def announce(self) -> None:
        """Print the plan, once: in a terminal at once, elsewhere when all input was accepted."""
        with self._lock:
            if self.plan and not self._announced:
                self._announced = True
                heading, *stages = self.plan.lines()  # the heading names the folder: it is never cut
                self.say("\n".join([heading, *(cut(line, columns(self.stream)) for line in stages)]))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._spoke = time.perf_counter()
            if self._line is not None:
                self._line.clear()
            print(line, file=self.stream, flush=True)
            self.draw()

    def does(self, what: str) -> None:
        """Say what goes on now, which has no steps to count."""
        with self._lock:
            self.doing, self._since = what, time.perf_counter()
            self.draw()

    @contextmanager
    def bar(self, bar: Bar) -> Iterator[None]:
        """Show a bar; a bar within a bar hides the outer one."""
        with self._lock:
            self._bars.append(bar)
            if self.plan:
                self.plan.begin_bar(bar.title, bar.total, bar.done)
            self.draw()
        try:
            yield
        finally:
            with self._lock:
                self._bars.remove(bar)
                self.last = bar.told if head_of(self.plan).endswith(bar.title) else self.last
                if self.plan:
                    self.plan.end_bar()
                    self._tell_expected()
                self._since = time.perf_counter()

    def step(self, bar: Bar, told: str, units: int = 1) -> None:
        """One step of a bar is done, which counts for so many units."""
        with self._lock:
            bar.done, bar.told = bar.done + units, told
            if self.plan:
                self.plan.step(bar.title, units)
                self._tell_expected()
            if self._line is None and bar.is_mark():
                self.say(self.text())
            elif time.perf_counter() - self._drew > 0.1 or bar.done == bar.total:
                self.draw()

    def _tell_expected(self) -> None:
        known = self.plan.newly_known() if self.plan else {}
        told = [f"{self.plan.head(stage)} {seconds:.0f} s" for stage, seconds in known.items()
                if self.plan and seconds >= 1]
        for line in joined("expected on this machine:", told, WIDTH - 1):
            self.say(line)

    def tick(self) -> None:
        """Draw the line again, or print one in a pipe where nothing was printed for long."""
        with self._lock:
            if self.terminal:
                self.draw()
            elif time.perf_counter() - self._spoke > SILENCE:
                self.say(self.text())

    def text(self) -> str:
        """What goes on, in one line without a bar."""
        head = head_of(self.plan)
        if not self._bars:
            doing = ", ".join(filter(None, [head, self.doing])) or "working"
            return f"{doing} ... {time.perf_counter() - self._since:.0f} s"
        bar = self._bars[-1]
        title = bar.title if not head.endswith(bar.title) else ""
        begin = f"{head}: {title}".strip() if head else f"{bar.title}:"
        left = f"; {self.left()}" if self.left() else ""
        return f"{begin} {bar.done}/{bar.total} {bar.told}".rstrip() + left

    def left(self) -> str:
        """The time left, such as "3:40 left", or "over 3:40 left" where a part of it was not measured yet."""
        seconds, whole = self.plan.left() if self.plan else (0.0, False)
        if seconds < 1:
            return ""
        return f"{'' if whole else 'over '}{clock(seconds)} left"

    def draw(self) -> None:
        """Draw the line of a terminal."""
        if self._line is None:
            return
        self._drew = time.perf_counter()
        line, width = self._line, columns(self.stream)
        line.ncols = width
        if not self._bars:
            line.bar_format = escaped(cut(self.text(), width))
        else:
            bar = self._bars[-1]
            head = head_of(self.plan) or bar.title
            parts = [bar.told] if head.endswith(bar.title) else [bar.title, bar.told]
            start = f"{head} {bar.done}/{bar.total} "
            tail = fitting([part for told in parts for part in told.split(", ") if part],
                           width - len(start) - BAR, self.left())
            line.n, line.total = bar.done, bar.total
            line.bar_format = f"{escaped(start)}|{{bar}}|{escaped(tail)}"
        line.refresh()

    def close(self) -> None:
        """Leave the terminal's line as it is, or empty where there is a plan."""
        with self._lock:
            if self._line is not None:
                self._line.close()
                self._line, self.terminal = None, False


def head_of(plan: Plan | None) -> str:
    """Number and title of the stage that runs; empty where there is none."""
    return plan.head(plan.stage) if plan and plan.stage else ""


_shown: ContextVar[Screen | None] = ContextVar("the screen of the command that runs", default=None)


def screen() -> Screen | None:
    """The screen of the command that runs; None where there is none, or in all processes but the first."""
    return _shown.get()


@contextmanager
def showing(plan: Plan, doing: str) -> Iterator[None]:
    """Show this plan and its progress while the block runs; what it does first is said."""
    if not team.first():
        yield
        return
    shown, stop = Screen(plan, doing), threading.Event()

    def tick() -> None:
        while not stop.wait(TICK):
            shown.tick()

    ticking = threading.Thread(target=tick, daemon=True, name="progress")
    ticking.start()
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)
        stop.set()
        ticking.join()
        shown.close()


def write_line(line: str) -> None:
    """Print a line on stderr that stays, above the progress if there is any."""
    if shown := screen():
        shown.say(line)
    else:
        print(line, file=sys.stderr, flush=True)


def doing(what: str) -> None:
    """Say what goes on now, where progress is shown."""
    if shown := screen():
        shown.does(what)
