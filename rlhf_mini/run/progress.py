"""Progress on stderr: a bar in a terminal, a few short lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from rlhf_mini import console, team

T = TypeVar("T")
LINES_PER_STAGE = 4  # printed where there is no terminal


def progress(steps: Iterable[T], total: int, title: str, describe: Callable[[T], str],
             done: int = 0) -> Iterator[T]:
    """Yield the steps unchanged, and show how many are done and what `describe` returns for each.

    Where stderr cannot be written to, such as a closed pipe, nothing is shown and the steps go on.
    """
    if not team.first():
        yield from steps
        return
    stream = console.safe(sys.stderr)
    if stream.isatty():
        with tqdm(total=total, initial=done, desc=title, dynamic_ncols=True, leave=True, file=stream) as bar:
            for step in steps:
                bar.set_postfix_str(describe(step), refresh=False)
                bar.update()
                yield step
        return
    marks = {round(total * k / LINES_PER_STAGE) for k in range(1, LINES_PER_STAGE + 1)} | {total}
    for number, step in enumerate(steps, done + 1):
        if number in marks:
            print(f"{title}: {number}/{total} {describe(step)}", file=stream, flush=True)
        yield step


def run_steps(steps: Iterable[T], total: int, title: str, describe: Callable[[T], str]) -> None:
    """Run all steps and show progress; what they yield is not kept."""
    for _ in progress(steps, total, title, describe):
        pass
