"""Kill a whole run again and again, at random moments and at the calls that write files, and compare its numbers.

    PYTHONPATH=. python tests/kills.py --kills 500 --every-call

A run that was killed is resumed, until it ends; then the next begins. All must end with the metrics, the history and
the weights of a run that was never stopped, bit for bit. Half of the kills come at a random moment, the others before
or after a call of the system by which files are written. With `--every-call` they come before and after each such call
on each file of a run, even if that takes more. The kills are real: SIGKILL, to a process that was forked.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import make_base, numbers, shrink_constants, tiny_config

from rlhf_mini import pipeline
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.finished import finished_metrics

CALLS = ("open", "write", "fsync", "replace", "unlink", "mkdir", "ftruncate", "rmdir")  # `link` makes a copy for others
Deadly = Callable[[str], bool]  # whether to be killed at a call: "before write run/history.jsonl"


def deadly(name: str, real: Callable[..., Any], root: Path, chosen: Deadly, told: int) -> Callable[..., Any]:
    """The call, which may be the last that this process makes."""
    write = os.write

    def call(*args: Any, **named: Any) -> Any:
        place = place_of(args[0], root)
        for when in ("before", "after"):
            if when == "after":
                found = real(*args, **named)
            key = f"{when} {name} {place}"
            if place and chosen(key):
                write(told, key.encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return found
    return call


def place_of(file: Any, root: Path) -> str | None:
    """The path in the run's folder of a path or an open file, without the number of the process; None elsewhere."""
    path = str(Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else file)
    if not path.startswith(str(root)):
        return None
    return re.sub(r"\.\d+-[0-9a-f]{8}\.tmp", ".tmp", path.removeprefix(str(root)).removesuffix(" (deleted)"))


def run_in_child(config: RunConfig, chosen: Deadly, told: int) -> int:
    """Begin or continue a run in a new process, which is given its number; it ends with the run."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        warnings.simplefilter("ignore")
        for name in CALLS:
            setattr(os, name, deadly(name, getattr(os, name), config.out.parent, chosen, told))
        pipeline.run(config, resume=(config.out / "config.json").exists())
        os._exit(0)
    except BaseException:
        os.write(told, traceback.format_exc().encode())
        os._exit(1)


class Killer:
    """Kills runs, and counts."""

    def __init__(self, base: Path, folder: Path, seed: int) -> None:
        self.base, self.folder, self.random = base, folder, random.Random(seed)
        self.kills = self.at_calls = self.runs = 0
        self.seen: set[str] = set()  # calls at which a process was killed

    def unbroken(self) -> tuple[dict[str, Any], float]:
        """The numbers of a run that nothing stops, and its seconds."""
        started = time.perf_counter()
        self.attempt(self.folder / "unbroken" / "run", never, None)
        return numbers(self.folder / "unbroken" / "run"), time.perf_counter() - started

    def attempt(self, out: Path, chosen: Deadly, seconds: float | None) -> str:
        """One process works on the run until it is killed or done; returns the call at which it was killed, if any.

        Raises: RuntimeError, with its traceback, where the run fails.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        reader, writer = os.pipe()
        child = run_in_child(tiny_config(self.base, out), chosen, writer)
        os.close(writer)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as pipe:
            told = pipe.read()
        if os.WIFSIGNALED(status):
            self.kills += 1
            return told
        if os.WEXITSTATUS(status):
            raise RuntimeError(f"after {self.kills} kills, the run in {out} cannot go on:\n{told}")
        return ""

    def kill_until_done(self, most: int, seconds: float, every_call: bool) -> Path:
        """One run, killed until it is done, or until there were enough kills; returns its folder."""
        self.runs += 1
        out = self.folder / str(self.runs) / "run"
        while finished_metrics(out) is None:
            chosen: Deadly = never
            moment = None
            if every_call:
                chosen = self.not_seen
            elif self.kills < most and self.random.random() < 0.5:
                moment = self.random.uniform(0, 1.1 * seconds)
            elif self.kills < most:
                chosen = after(self.random.randrange(400))
            if key := self.attempt(out, chosen, moment):
                self.at_calls += 1
                self.seen.add(key)
        return out


    def not_seen(self, key: str) -> bool:
        """Chooses a call at which no process was killed yet."""
        return key not in self.seen


def never(key: str) -> bool:
    """Chooses no call."""
    return False


def after(others: int) -> Deadly:
    """Chooses the call after so many others."""
    count = itertools.count()
    return lambda key: next(count) >= others


@contextmanager
def quiet() -> Any:
    """The constants of a tiny run, one thread, and no warning."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        shrink_constants(patch)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-call", action="store_true")
    given = parser.parse_args()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        killer = Killer(make_base(Path(folder) / "base"), Path(folder), given.seed)
        expected, seconds = killer.unbroken()
        every_call = given.every_call
        while killer.kills < given.kills or every_call:
            before = len(killer.seen)
            found = numbers(killer.kill_until_done(given.kills, seconds, every_call))
            if found != expected:
                differ = [name for name in expected if expected[name] != found[name]]
                print(f"after {killer.kills} kills, a run ended with other numbers in {', '.join(differ)}")
                return 1
            every_call = every_call and len(killer.seen) > before  # a run in which every call was seen is the last
        print(f"{killer.kills} kills in {killer.runs} runs, {killer.at_calls} of them at calls ({len(killer.seen)} "
              "different): metrics, history and weights are those of a run that was never stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
