"""The folder of a run: its lock, its finished stages, and the checks before it is used."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

from rlhf_mini import disk, files, team
from rlhf_mini.errors import InputError
from rlhf_mini.run.config import RunConfig, can_be_utf_8
from rlhf_mini.run.finished import finished_metrics
from rlhf_mini.run.history import History
from rlhf_mini.run.json_files import read_json, write_json
from rlhf_mini.run.progress import passed
from rlhf_mini.run.progress import stage as shown_stage
from rlhf_mini.run.saved_config import check_same_settings, config_to_json, load_config
from rlhf_mini.run.stages import Contents, Stage, Stages
from rlhf_mini.run.story_log import StoryLog

OUTPUTS = ("config.json", "settings.json", "sft", "rankings.jsonl", "reward_model", "policy", "policy_no_kl",
           "history.jsonl", "stories.jsonl", "samples.json", "metrics.json", "report.html")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which the numbers depend."""
    packages = {"python": platform.python_version()}
    for name in ("rlhf_mini", "torch", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # the source tree is not installed
            packages[name] = "source tree"
    return packages


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
        self.stories = StoryLog(self.path / "stories.jsonl")
        self.stages = Stages(self.state / "stages.json")
        self.given = ""  # a digest of base and given rankings, from which every stage is made
        self._held = ExitStack()  # the lock

    @property
    def state(self) -> Path:
        """The folder of what a run needs to continue."""
        return self.path / "state"

    def __enter__(self) -> RunFolder:
        self.check()
        team.wait()  # nothing is made before all processes have looked
        self._open()
        team.wait()
        self.stages.load()
        return self

    @team.once
    def _open(self) -> None:
        with ExitStack() as held:  # gives the lock back where a check fails
            try:
                files.make_folder(self.state)
                lock = held.enter_context(disk.opened(self.state / "lock", os.O_RDWR | os.O_CREAT))
                self._take_lock(lock)
                os.ftruncate(lock, 0)
                os.write(lock, f"{os.getpid()}\n".encode())
            except OSError as error:
                raise self._not_writable(error) from None
            self._check_contents()
            if not (self.path / "config.json").exists():
                write_json(self.path / "config.json", config_to_json(self.config))
            for left in (*files.left_by_a_kill(self.path), *files.left_by_a_kill(self.state)):
                files.remove(left)
            self._held = held.pop_all()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._held.close()  # closing releases the lock; so does the end of the process

    def recorded_settings(self, effective: RunConfig) -> RunConfig:
        """The settings that the run was started with after they were adapted to model and data, or these, recorded.

        Where base or rankings are others than when they were recorded, they no longer fit.
        """
        path, mark = self.path / "settings.json", self.state / "given.json"
        recorded = None
        if path.exists() and self._is_as_given(mark):
            try:
                recorded = load_config(self.path, path.name)
            except InputError as error:
                warnings.warn(f"{error}: it is written again", stacklevel=2)
        team.wait()  # all have looked
        if recorded is None:
            write_json(path, config_to_json(effective))
            write_json(mark, self.given)
            team.wait()
        return recorded or load_config(self.path, path.name)

    def _is_as_given(self, mark: Path) -> bool:
        with suppress(InputError):
            return bool(read_json(mark, None) == self.given)
        return False

    @team.once
    def check(self) -> None:
        """Check the folder without making or locking anything. Raises: InputError, as on entering."""
        try:
            with disk.opened(self.state / "lock", os.O_RDWR) as lock:
                self._take_lock(lock)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._not_writable(error) from None
        self._check_contents()
        if not can_be_utf_8(self.path):
            raise InputError(f"{self.path} is not UTF-8, and no tokenizer can be saved there: choose another --out")
        place = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not (place.is_dir() and os.access(place, os.W_OK)):
            raise InputError(f"{self.path} cannot be written to: choose another --out")

    def _not_writable(self, error: OSError) -> InputError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return InputError(f"{self.path} cannot be written to ({reason}): choose another --out")

    def _check_contents(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: give --out a folder")
        if finished_metrics(self.path) is not None:
            raise InputError(f"{self.path} holds a finished run, which is not overwritten: choose another --out")
        ours = [self.path / name for name in (*OUTPUTS, self.state.name)]
        if links := [path for one in ours for path in (one, *one.rglob("*")) if path.is_symlink()]:
            raise InputError(f"{links[0]} is a link, and a run does not write through links: remove it, or choose "
                             "another --out")
        if self.resume:
            load_config(self.path)
            check_same_settings(self.config)
        elif (self.path / "config.json").exists():
            raise InputError(f"{self.path} holds an unfinished run: continue it with --resume, or choose "
                             "another --out")
        elif present := [name for name in (*OUTPUTS, "state") if self._would_be_overwritten(self.path / name)]:
            raise InputError(f"{self.path} already has a {present[0]} that a run would overwrite: choose "
                             "another --out")

    def _would_be_overwritten(self, path: Path) -> bool:
        if path == self.state and path.is_dir():  # a process that was killed at once leaves a lock in it
            return any(below.name != "lock" for below in path.iterdir())
        return path.exists()

    def _take_lock(self, lock: int) -> None:
        try:
            disk.lock(lock, wait=False)
        except BlockingIOError:
            raise InputError(f"{self.path} is in use by process {disk.read(lock).decode(errors='replace').strip()}: "
                             "wait for it, or choose another --out") from None

    @contextmanager
    def stage(self, name: str, contents: Contents, reads: Sequence[str] = ()) -> Iterator[bool]:
        """Yields whether this stage must be run; leaving the block without an error marks it as done.

        Each stage writes its results into the folder, and the next stages read them from there. So a resumed run
        gets exactly the same numbers. `contents` gives the digests of the results. A stage is done again where they
        are not on the disk as it made them, or where what it reads has changed: the results of other stages, the
        settings, or the base. What a stopped attempt left in state/`name` is used only if it was made from the same.
        """
        stage, read = self.stages.by_name.setdefault(name, Stage()), self._made_from(reads)
        changed, damage = stage.read not in ("", read), stage.damage(contents)
        team.wait()  # all have looked
        if stage.made is not None and not changed and damage is None:
            passed(name)
            yield False
            return
        if stage.made is not None and team.first():
            why = f"{damage} is missing or has changed" if damage else "what it was made from has changed"
            warnings.warn(f"{self.path}: the stage {name!r} is done again, as {why}", stacklevel=3)
        if stage.read != read:
            self._forget(name)
            team.wait()
        stage.read, stage.made = read, None
        self._save_stages()
        start = time.perf_counter()
        try:
            with shown_stage(name):
                yield True
        except BaseException:
            stage.seconds += time.perf_counter() - start
            with suppress(files.NotSavedError, InputError):  # the error that is on its way says more
                self._save_stages()
            raise
        team.wait()  # the results of the stage are there for all processes
        stage.seconds += time.perf_counter() - start
        stage.made = contents()
        self._save_stages()

    def _save_stages(self) -> None:
        self.require_place()
        self.stages.save(self.total_seconds())

    @team.once
    def require_place(self) -> None:
        """Raises: InputError where the run's folder was moved or removed: another would be made in its place."""
        if not (self.path / "config.json").exists():
            raise InputError(f"{self.path / 'config.json'} is gone: the run's folder was moved or removed while the "
                             "run went on; move it back, or give --resume --out where it is now")

    def is_done(self, name: str, contents: Contents) -> bool:
        """Whether a stage that reads no other is done; to be asked before the run begins."""
        with warnings.catch_warnings(action="ignore"):  # the run itself says what is damaged
            self.stages.load()
        stage = self.stages.by_name.get(name, Stage())
        return stage.made is not None and stage.damage(contents) is None

    def _made_from(self, reads: Sequence[str]) -> str:
        settings = self.path / "settings.json"
        return self.stages.digest(reads, self.given.encode(), settings.read_bytes() if settings.exists() else b"")

    @team.once
    def _forget(self, name: str) -> None:
        """Remove what a stopped attempt at a stage has left."""
        files.remove(self.state / name)
        self.history.keep(name, 0)
        self.stories.keep(name, 0)

    def total_seconds(self) -> float:
        """Seconds that this run has taken, summed over all attempts."""
        return self.stages.seconds + time.perf_counter() - self._started

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, of everything else (loading, writing demonstrations, the report), and their total."""
        stages = {name: stage.seconds for name, stage in self.stages.by_name.items()}
        total = self.total_seconds()
        seconds = {**stages, "other": total - sum(stages.values()), "total": total}
        return {name: round(value, 2) for name, value in seconds.items()}
