"""Progress on stderr: a bar in a terminal, a few short lines elsewhere. A plan adds the stage and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rlhf_mini import team
from rlhf_mini.run.plan import Work
from rlhf_mini.run.screen import Bar, Screen, screen

T = TypeVar("T")


def progress(steps: Iterable[T], total: int, title: str, describe: Callable[[T], str],
             done: int = 0) -> Iterator[T]:
    """Yield the steps unchanged, and show how many are done and what `describe` returns for each.

    Where stderr cannot be written to, such as a closed pipe, nothing is shown and the steps go on.
    """
    if not team.first():
        yield from steps
        return
    with _on_screen(Bar(title, total, done)) as (shown, bar):
        for step in steps:
            shown.step(bar, describe(step))
            yield step


def run_steps(steps: Iterable[T], total: int, title: str, describe: Callable[[T], str]) -> None:
    """Run all steps and show progress; what they yield is not kept."""
    for _ in progress(steps, total, title, describe):
        pass


def batches_shown(starts: range, title: str) -> Iterator[int]:
    """Yield where each batch of rows starts. With a plan and more than one batch, show how many rows are done."""
    if not screen() or len(starts) < 2:
        yield from starts
        return
    with _on_screen(Bar(title, starts.stop, 0, lines=1)) as (shown, bar):
        for start in starts:
            yield start
            shown.step(bar, "", min(starts.step, starts.stop - start))


@contextmanager
def _on_screen(bar: Bar) -> Iterator[tuple[Screen, Bar]]:
    shown = screen() or Screen()
    try:
        with shown.bar(bar):
            yield shown, bar
    finally:
        if shown is not screen():
            shown.close()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """One stage of the plan: say at its end how long it took."""
    shown = screen()
    if shown is None or shown.plan is None:
        yield
        return
    shown.announce()
    start, plan = time.perf_counter(), shown.plan
    plan.begin(name)
    shown.last = ""
    shown.does("")
    yield
    told = f"; {shown.last}" if shown.last and shown.terminal and name != list(plan.titles)[-1] else ""
    passed(name, f"done in {time.perf_counter() - start:.0f} s{told}")


def passed(name: str, how: str = "done before") -> None:
    """Say that a stage of the plan is done."""
    shown = screen()
    if shown is None or shown.plan is None:
        return
    shown.announce()
    shown.plan.end(name)
    shown.doing = "writing the results" if name == list(shown.plan.titles)[-1] else "loading"
    shown.say(f"{shown.plan.head(name)}: {how}")


def expect(work: Mapping[str, Sequence[Work]]) -> None:
    """Say what each stage of the plan is going to do. All input was accepted, so the plan is printed everywhere."""
    shown = screen()
    if shown and shown.plan:
        shown.announce()
        shown.plan.expect(work)
