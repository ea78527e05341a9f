"""Lines that are on the disk when a call returns, and reading that names what is damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_mini.errors import InputError
from rlhf_mini.rankings.record import Ranking, is_json, parse_line

if sys.platform != "win32":
    import fcntl


class NotSavedError(OSError):
    """A record is not on the disk; what was saved earlier is unharmed."""


class RankingFileWarning(UserWarning):
    """A ranking file holds something that could not be used; everything else in it was."""


@dataclass(frozen=True)
class Damage:
    """A line that is no record; `torn` if it is the last and was cut off while it was written."""

    path: Path
    line: int  # the first is 1
    reason: str
    torn: bool

    def __str__(self) -> str:
        what = "cut off, the last line" if self.torn else "damaged"
        return f"{self.path}, line {self.line} is {what}: {self.reason}"


def read_lines(path: Path) -> tuple[list[Ranking], list[Damage]]:
    """The records of one file and the lines that are none. Raises: OSError if it cannot be read."""
    with _opened(path, os.O_RDONLY) as file:
        with contextlib.suppress(OSError):  # a folder without locks can still be read
            _lock(file, shared=True)  # so that no line is seen half-written
        content = _read(file)
    records, damages = [], []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_line(line))
        except InputError as error:
            torn = number == len(lines) and not is_json(line)  # without its newline, yet whole: not cut off
            damages.append(Damage(path, number, str(error), torn))
    return records, damages


def append_line(path: Path, line: bytes, sync: bool = True) -> None:
    """Add one line to a file, made if there is none; with `sync` it is on the disk on return.

    A last line that was cut off moves to a file beside it, with a warning, so that ours starts afresh. If the
    line cannot be written whole, the file is put back as it was.
    Raises: NotSavedError (make room or permit writing, and try again).
    """
    with _told_if_not_saved(path):
        _make_folder(path.parent)
        with _opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
            _lock(file)
            if sync:  # the name before the line: if it cannot be kept, nothing is written
                _sync_folder(path.parent)
            _write_or_restore(file, _mend_last_line(file, path) + line, sync)


def create_file(path: Path, content: bytes) -> None:
    """Write a new file; it is on the disk on return, or not there at all.

    Raises: NotSavedError if it cannot be written (its errno is EEXIST if it exists).
    """
    with _told_if_not_saved(path), _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        try:
            _write_all(file, content)
            os.fsync(file)
            _sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Put what was written to a file, and its name, on the disk. Raises: NotSavedError."""
    with _told_if_not_saved(path):
        with _opened(path, os.O_RDWR) as file:
            os.fsync(file)
        _sync_folder(path.parent)


@contextlib.contextmanager
def _told_if_not_saved(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = error.strerror or error
        told = NotSavedError(f"not saved: {path} cannot be written ({cause}); what was saved earlier is "
                             "unharmed; make room or permit writing there, then try again")
        told.errno = error.errno
        raise told from error


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)  # Windows would change the line ends
    try:
        yield file
    finally:
        os.close(file)  # lets go of the lock


def _lock(file: int, shared: bool = False) -> None:
    """Wait until no other process writes the file."""
    if sys.platform != "win32":  # there, two kernels in one session of one annotator are not kept apart
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _make_folder(folder: Path) -> None:
    """Make the folder; once in a process, sync its name and those above it, which a killed writer may have left."""
    folder = folder.absolute()
    if folder in _ON_DISK and folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for above in folder.parents:
        with contextlib.suppress(PermissionError):  # not ours to read, so it was there before us
            _sync_folder(above)
    _ON_DISK.add(folder)


_ON_DISK: set[Path] = set()  # folders whose names this process has synced


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a synced file whose name is lost is lost."""
    if sys.platform == "win32":  # has no such call
        return
    with _opened(folder, os.O_RDONLY) as names:
        try:
            os.fsync(names)
        except OSError as error:
            # Some network folders know no such call, and a read-only disk holds no new name: no more can be done.
            if error.errno not in (errno.EINVAL, errno.EROFS):
                raise


def _mend_last_line(file: int, path: Path) -> bytes:
    """What to write before the next line so that it starts afresh; a torn last line is moved away."""
    size = os.lseek(file, 0, os.SEEK_END)
    if size == 0 or _read(file, size - 1) == b"\n":
        return b""
    content = _read(file)
    start = content.rfind(b"\n") + 1
    with contextlib.suppress(InputError):
        parse_line(content[start:])
        return b"\n"  # a whole record: only its newline is missing
    beside = path.with_name(path.name + ".torn")
    with _opened(beside, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as aside:
        _write_or_restore(aside, content[start:] + b"\n", sync=True)
    _sync_folder(path.parent)
    os.ftruncate(file, start)
    warnings.warn(f"{path}: the last line was cut off and is no record; it was moved to {beside.name}",
                  RankingFileWarning, stacklevel=2)
    return b""


def _write_or_restore(file: int, line: bytes, sync: bool) -> None:
    size = os.lseek(file, 0, os.SEEK_END)
    try:
        _write_all(file, line)
        if sync:
            os.fsync(file)
    except BaseException:
        with contextlib.suppress(OSError):  # if even this fails, the next append mends the torn line
            os.ftruncate(file, size)
        raise


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content):]


def _read(file: int, start: int = 0) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    with os.fdopen(file, "rb", closefd=False) as reader:
        return reader.read()
