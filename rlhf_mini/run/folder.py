"""The folder of a run: its settings, its lock, the stages that are finished, and its history."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rlhf_mini.config import PPOConfig, RewardConfig, RunConfig, SFTConfig
from rlhf_mini.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nothing notices two runs in one folder
    fcntl = None  # type: ignore[assignment]

OUTPUTS = ("config.json", "sft", "rankings.jsonl", "reward_model", "policy", "policy_no_kl", "history.jsonl",
           "samples.json", "metrics.json", "report.html")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a half."""
    scratch = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(path)


def read_json(path: Path, default: Any) -> Any:
    """What a JSON file holds, or `default` where there is no file. Raises: InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): mend or remove it, or start in another folder") from None


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    packages = {"python": platform.python_version()}
    for name in ("rlhf_mini", "torch", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            packages[name] = "source tree"
    return packages


def next_folder(parent: Path = Path("runs")) -> Path:
    """The first of parent/001, parent/002, ... after every one that is taken."""
    taken = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / f"{max(taken, default=0) + 1:03d}"


def latest_unfinished(parent: Path = Path("runs")) -> Path:
    """The newest run under `parent` that is not finished. Raises: InputError if there is none."""
    started = [path for path in parent.glob("*/config.json") if not path.with_name("metrics.json").exists()]
    if not started:
        raise InputError(f"no unfinished run under {parent}: give its folder by --out, or leave --resume out")
    return max(started, key=lambda path: path.stat().st_mtime).parent


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as JSON values, without the folder they are kept in."""
    values = asdict(config)
    del values["out"]
    return {**values, "rankings": [str(Path(path).resolve()) for path in config.rankings]}


def load_config(out: Path) -> RunConfig:
    """The settings with which the run in a folder was started. Raises: InputError if there is no run."""
    path = out / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
        values |= {name: part(**values[name]) for name, part in parts.items()}
        return RunConfig(**values | {"out": out, "rankings": tuple(map(Path, values["rankings"]))})
    except FileNotFoundError:
        raise InputError(f"{out} holds no run to resume: leave --resume out to start one") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): start a new run in another folder") from None


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    found = []
    for part in fields(old):
        before, after = getattr(old, part.name), getattr(new, part.name)
        if is_dataclass(before):
            found += _differences(before, after, f"{part.name}.")
        elif before != after and part.name != "out":
            found.append(f"{prefix}{part.name} = {before}, not {after}")
    return found


def check_same(config: RunConfig) -> None:
    """Raises: InputError where the folder holds a run that was started with other settings."""
    if not (config.out / "config.json").exists():
        return
    for difference in _differences(load_config(config.out), config):
        raise InputError(f"the run in {config.out} was started with {difference}: leave that option as it "
                         "was, or choose another --out")


class History:
    """history.jsonl: one line per PPO iteration, appended as it happens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; a last line that a crash cut short is left out."""
        if not self.path.exists():
            return []
        whole = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [json.loads(line) for line in whole]

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def keep(self, arm: str, iterations: int) -> None:
        """Drop what `arm` did after its first `iterations` iterations: they are about to be done again."""
        lines = self.read()
        mine = [line for line in lines if line["arm"] == arm]
        kept = [line for line in lines if line["arm"] != arm] + mine[:iterations]
        scratch = self.path.with_name(self.path.name + ".tmp")
        scratch.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        scratch.replace(self.path)


class RunFolder:
    """A run's folder, open and locked inside a `with` block.

    Raises: InputError on entering, where the folder is finished, in use, not writable, or holds a run that
    `resume` was not given for or that was started with other settings.
    """

    def __init__(self, config: RunConfig, resume: bool = False) -> None:
        self._started = time.perf_counter()
        self.path = Path(config.out)
        self.config = config
        self.resume = resume
        self.history = History(self.path / "history.jsonl")
        self._earlier = 0.0
        self._lock: IO[str] | None = None
        self._stages: dict[str, Any] = {}

    @property
    def state(self) -> Path:
        """Where a run keeps what it needs to continue."""
        return self.path / "state"

    def __enter__(self) -> RunFolder:
        self.check()
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
            self._stages = read_json(self.state / "stages.json", {})
        except BaseException:
            self._lock.close()
            raise
        self._earlier = self._stages.get("total", 0.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()  # the system drops the lock with the file, even when the process is killed

    def check(self) -> None:
        """A first look that makes nothing and keeps no lock. Raises: InputError as entering does."""
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
            raise InputError(f"{self.path} holds a finished run, which stays: choose another --out")
        if self.resume:
            load_config(self.path)
            check_same(self.config)
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
            except OSError:  # a file system without locks
                pass

    @contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Whether this stage is still to be done; leaving the block without an error marks it as done.

        A stage keeps what it made in the folder and the next one starts from there, done just now or before,
        so a resumed run sees the very same numbers. Seconds add up over every attempt.
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

    def total_seconds(self) -> float:
        """Seconds that this run has taken, over every attempt."""
        return self._earlier + time.perf_counter() - self._started

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, other ones (loading, writing demonstrations, the report), and their total."""
        stages = {name: entry["seconds"] for name, entry in self._stages.items() if name != "total"}
        total = self.total_seconds()
        seconds = {**stages, "other": total - sum(stages.values()), "total": total}
        return {name: round(value, 2) for name, value in seconds.items()}
