"""Record anew what is out of date, in the order of who reads whom: `make record`, or one of these from the top folder.

    python assets/record/record.py                     # everything that is out of date
    python assets/record/record.py run-3 seeds         # of these, by name or pattern ("notebooks" is all notebooks)
    python assets/record/record.py --list              # what is up to date and what is not, and why; records nothing

What is recorded stands in `recordings.py`; what makes a recording out of date, in `freshness.py`. Recordings are made
in parts (a seed, a coefficient, a fit, a notebook), each in a process of its own with one thread and no GPU, `--jobs`
of them at once. Stop it when you like, and the same command goes on: finished parts are kept in `assets/record/parts`,
which may be committed, and a whole run that was stopped continues from `runs/record`. Nobody reads parts. A set that is
whole becomes the recording, and its parts are removed.

An entry of `made.json` that says `{"kept": REASON}` is left as it is until it is named.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from keeping import MADE, Recording, read
from processes import WORK, make_part
from shelf import Shelf, list_all
from sitting import Sitting

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nothing notices two commands at once
    fcntl = None  # type: ignore[assignment]

HERE = Path(__file__).resolve().parent


def load(declared: Path) -> Any:
    """The module that declares the recordings; it finds the package and its neighbours, installed or not."""
    sys.path[:0] = [str(declared.parent), str(HERE), str(declared.parents[2])]
    spec = importlib.util.spec_from_file_location("declared_recordings", declared)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def choose(recordings: Sequence[Recording], patterns: Sequence[str]) -> list[str]:
    """The names that patterns mean; all of them where there is no pattern."""
    chosen = []
    for pattern in (given.removesuffix(".ipynb") for given in patterns):  # as a shell completes them
        found = [one.name for one in recordings if fnmatch.fnmatch(one.name, pattern)
                 or one.name.startswith(f"{pattern}/")]
        if not found:
            sys.exit(f"no recording is called {pattern!r}: there are {', '.join(one.name for one in recordings)}")
        chosen += found
    return chosen


@contextmanager
def locked() -> Iterator[None]:
    """Two commands at once would make the same parts."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w", encoding="utf-8") as lock:
        take(lock)
        yield


def take(lock: IO[str]) -> None:
    """Ends the command where another one holds the lock."""
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another command is recording: wait for it, or stop it")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="recordings, or patterns such as 'notebooks/0*' (default: all)")
    add("--list", action="store_true", help="say what is up to date and what is not, and record nothing")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="parts at once (default: as many as there are cores)")
    add("--declared", type=Path, default=HERE / "recordings.py", help=argparse.SUPPRESS)
    add("--part", nargs=2, help=argparse.SUPPRESS)
    add("--micro-run", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    declared = given.declared.resolve()
    os.chdir(declared.parents[2])  # the top folder, as declared paths begin there
    module = load(declared)
    if given.micro_run:
        print(json.dumps(module.micro_run()))
        return 0
    if given.part:
        name, part = given.part
        make_part(next(one for one in module.RECORDINGS if one.name == name), part)
        return 0
    made = read(MADE)
    if made is None and MADE.exists():
        sys.exit(f"{MADE} cannot be read: repair it, or take it from the repository")
    shelf = Shelf(declared, list(module.RECORDINGS), made or {})
    named = choose(shelf.recordings, given.names)
    chosen = named or [one.name for one in shelf.recordings]
    if given.list:
        list_all(shelf, chosen)
        return 0
    with locked():
        return Sitting(shelf, chosen, named, max(1, given.jobs)).run()


if __name__ == "__main__":
    sys.exit(main())
