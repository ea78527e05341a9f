"""The folder of a run: its lock, its finished stages, and the checks before it is used."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rlhf_mini import team
from rlhf_mini.errors import InputError
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.history import History
from rlhf_mini.run.json_files import read_json, write_json
from rlhf_mini.run.saved_config import check_same_settings, config_to_json, load_config

try:
    import fcntl
except ImportError:  # Windows has no flock: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

OUTPUTS = ("config.json", "settings.json", "sft", "rankings.jsonl", "reward_model", "policy", "policy_no_kl",
           "history.jsonl", "samples.json", "metrics.json", "report.html")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which the numbers depend."""
    packages = {"python": platform.python_version()}
    for name in ("rlhf_mini", "torch", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # the source tree is not installed
            packages[name] = "source tree"
    return packages


def next_folder(parent: Path = Path("runs")) -> Path:
    """The next folder in the row parent/001, parent/002, ..."""
    taken = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / f"{max(taken, default=0) + 1:03d}"


def latest_unfinished(parent: Path = Path("runs")) -> Path:
    """The latest unfinished run in `parent`. Raises: InputError if there is none."""
    started = [path for path in parent.glob("*/config.json") if not path.with_name("metrics.json").exists()]
    if not started:
        raise InputError(f"there is no unfinished run in {parent}: give its folder with --out, or leave out --resume")
    return max(started, key=lambda path: path.stat().st_mtime).parent


class RunFolder:
    """The folder of a run, locked inside a `with` block.

    Raises: InputError on entering, if the folder cannot be written to, is in use, or holds a finished run, an
    unfinished one without `resume`, or one with other settings.
    """

    def __init__(self, config: RunConfig, resume: bool = False) -> None:
        self._started = time.perf_counter()
        self.path = Path(config.out)
        self.config = config
        self.resume = resume
        self.history = History(self.path / "history.jsonl")
        self._earlier_seconds = 0.0
        self._lock: IO[str] | None = None
        self._stages: dict[str, Any] = {}

    @property
    def state(self) -> Path:
        """The folder of what a run needs to continue."""
        return self.path / "state"

    def __enter__(self) -> RunFolder:
        self.check()
        team.wait()  # nothing is made before all processes have looked
        self._open()
        team.wait()
        self._stages = read_json(self.state / "stages.json", {})
        self._earlier_seconds = self._stages.get("total", 0.0)
        return self

    @team.once
    def _open(self) -> None:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            self._lock = (self.state / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"{self.path} cannot be written to ({reason}): choose another --out") from None
        try:
            self._take_lock(self._lock)
            self._lock.truncate(0)
            self._lock.write(f"{os.getpid()}\n")
            self._lock.flush()
            self._check_contents()
            if not (self.path / "config.json").exists():
                write_json(self.path / "config.json", config_to_json(self.config))
            read_json(self.state / "stages.json", {})  # a damaged file is found while the lock can be given back
        except BaseException:
            self._lock.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()  # closing releases the lock; so does the end of the process

    def recorded_settings(self, effective: RunConfig) -> RunConfig:
        """The settings that the run was started with after they were adapted to model and data, or these, recorded."""
        path = self.path / "settings.json"
        if not path.exists():
            write_json(path, config_to_json(effective))
        team.wait()
        return load_config(self.path, path.name)

    @team.once
    def check(self) -> None:
        """Check the folder without making or locking anything. Raises: InputError, as on entering."""
        if os.access(self.state / "lock", os.R_OK | os.W_OK):
            with (self.state / "lock").open("a+", encoding="utf-8") as lock:
                self._take_lock(lock)
        self._check_contents()
        place = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not (place.is_dir() and os.access(place, os.W_OK)):
            raise InputError(f"{self.path} cannot be written to: choose another --out")

    def _check_contents(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: give --out a folder")
        if (self.path / "metrics.json").exists():
            raise InputError(f"{self.path} holds a finished run, which is not overwritten: choose another --out")
        if self.resume:
            load_config(self.path)
            check_same_settings(self.config)
        elif (self.path / "config.json").exists():
            raise InputError(f"{self.path} holds an unfinished run: continue it with --resume, or choose "
                             "another --out")
        elif present := [name for name in OUTPUTS if (self.path / name).exists()]:
            raise InputError(f"{self.path} already has a {present[0]} that a run would overwrite: choose "
                             "another --out")

    def _take_lock(self, lock: IO[str]) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise InputError(f"{self.path} is in use by process {lock.read().strip()}: wait for it, or "
                                 "choose another --out") from None
            except OSError:  # the file system has no locks
                pass

    @contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Yields whether this stage must be run; leaving the block without an error marks it as done.

        Each stage writes its results into the folder, and the next stage reads them from there. So a resumed run
        gets exactly the same numbers. Seconds are summed over all attempts.
        """
        entry = self._stages.setdefault(name, {"done": False, "seconds": 0.0})
        if entry["done"]:
            yield False
            return
        start = time.perf_counter()
        try:
            yield True
            entry["done"] = True
        finally:
            entry["seconds"] += time.perf_counter() - start
            self._stages["total"] = self.total_seconds()
            write_json(self.state / "stages.json", self._stages)
        team.wait()  # the results of the stage are there for all processes

    def total_seconds(self) -> float:
        """Seconds that this run has taken, summed over all attempts."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, of everything else (loading, writing demonstrations, the report), and their total."""
        stages = {name: entry["seconds"] for name, entry in self._stages.items() if name != "total"}
        total = self.total_seconds()
        seconds = {**stages, "other": total - sum(stages.values()), "total": total}
        return {name: round(value, 2) for name, value in seconds.items()}
