"""Progress on stderr: a bar on a terminal, a few short lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINES = 4  # how many lines a stage prints where there is no terminal


def progress(steps: Iterable[T], total: int, title: str, describe: Callable[[T], str],
             done: int = 0) -> Iterator[T]:
    """Hand the steps on one by one while showing how far they are and what `describe` says of each."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=title, dynamic_ncols=True, leave=True) as bar:
            for step in steps:
                bar.set_postfix_str(describe(step), refresh=False)
                bar.update()
                yield step
        return
    marks = {round(total * k / LINES) for k in range(1, LINES + 1)} | {total}
    for number, step in enumerate(steps, done + 1):
        if number in marks:
            print(f"{title}: {number}/{total} {describe(step)}", file=sys.stderr, flush=True)
        yield step


def watch(steps: Iterable[T], total: int, title: str, describe: Callable[[T], str]) -> None:
    """Run the steps to their end for what they do, showing how far they are."""
    for _ in progress(steps, total, title, describe):
        pass
