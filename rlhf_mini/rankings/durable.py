"""Write lines that are on the disk when the call returns; read them back and report damaged ones."""

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
    """A record is not on the disk; earlier records are intact."""


class RankingFileWarning(UserWarning):
    """Part of a ranking file cannot be used and was left out; the rest was read."""


@dataclass(frozen=True)
class DamagedLine:
    """A line that is not a record; `torn` if it is the last one and writing it was interrupted."""

    path: Path
    line: int  # counted from 1
    reason: str
    torn: bool

    def __str__(self) -> str:
        what = "cut off, the last line" if self.torn else "damaged"
        return f"{self.path}, line {self.line} is {what}: {self.reason}"


def read_lines(path: Path) -> tuple[list[Ranking], list[DamagedLine]]:
    """The records of one file, and its damaged lines. Raises: OSError if the file cannot be read."""
    with _opened(path, os.O_RDONLY) as file:
        with contextlib.suppress(OSError):  # a folder without locks can still be read
            _lock(file, shared=True)  # or a line could be read while it is being written
        content = _read(file)
    records, damages = [], []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(parse_line(line))
        except InputError as error:
            torn = number == len(lines) and not is_json(line)  # a whole line without its newline is not torn
            damages.append(DamagedLine(path, number, str(error), torn))
    return records, damages


def append_line(path: Path, line: bytes, sync: bool = True) -> None:
    """Append one line to a file, which is created if it does not exist; with `sync` it is on the disk on return.

    A torn last line is first moved to a file beside it, with a warning. If the line cannot be written whole, the
    file is restored.
    Raises: NotSavedError; free disk space or permit writing, then try again.
    """
    with _not_saved_error(path):
        _make_folder(path.parent)
        with _opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
            _lock(file)
            if sync:  # sync the file's name first: if that fails, nothing is written
                _sync_folder(path.parent)
            _write_or_restore(file, _repair_last_line(file, path) + line, sync)


def create_file(path: Path, content: bytes) -> None:
    """Write a new file; on return it is on the disk, or it does not exist.

    Raises: NotSavedError if it cannot be written (its errno is EEXIST if it exists).
    """
    with _not_saved_error(path), _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        try:
            _write_all(file, content)
            os.fsync(file)
            _sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def sync_file(path: Path) -> None:
    """Put a file's content and its name on the disk. Raises: NotSavedError."""
    with _not_saved_error(path):
        with _opened(path, os.O_RDWR) as file:
            os.fsync(file)
        _sync_folder(path.parent)


@contextlib.contextmanager
def _not_saved_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = error.strerror or error
        not_saved = NotSavedError(f"not saved: {path} cannot be written ({cause}); earlier records are intact; "
                                  "free disk space or permit writing there, then try again")
        not_saved.errno = error.errno
        raise not_saved from error


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)  # Windows would change the line endings
    try:
        yield file
    finally:
        os.close(file)  # releases the lock


def _lock(file: int, shared: bool = False) -> None:
    """Wait until no other process is writing the file."""
    if sys.platform != "win32":  # on Windows, two kernels in one session of one annotator are not kept apart
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _make_folder(folder: Path) -> None:
    """Make the folder and, once per process, sync its name and its parents' names.

    A process that was killed may have made them without syncing.
    """
    folder = folder.absolute()
    if folder in _ON_DISK and folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for above in folder.parents:
        with contextlib.suppress(PermissionError):  # a folder that we may not read existed before
            _sync_folder(above)
    _ON_DISK.add(folder)


_ON_DISK: set[Path] = set()  # folders whose names this process has synced


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: without its name, a synced file is lost."""
    if sys.platform == "win32":  # Windows cannot sync a folder
        return
    with _opened(folder, os.O_RDONLY) as names:
        try:
            os.fsync(names)
        except OSError as error:
            # Some network folders do not support this call, and a read-only disk cannot hold a new name.
            if error.errno not in (errno.EINVAL, errno.EROFS):
                raise


def _repair_last_line(file: int, path: Path) -> bytes:
    """What to write before the next line, so that it starts on a line of its own; a torn last line is moved away."""
    size = os.lseek(file, 0, os.SEEK_END)
    if size == 0 or _read(file, size - 1) == b"\n":
        return b""
    content = _read(file)
    start = content.rfind(b"\n") + 1
    with contextlib.suppress(InputError):
        parse_line(content[start:])
        return b"\n"  # the record is whole, only its newline is missing
    beside = path.with_name(path.name + ".torn")
    with _opened(beside, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as aside:
        _write_or_restore(aside, content[start:] + b"\n", sync=True)
    _sync_folder(path.parent)
    os.ftruncate(file, start)
    warnings.warn(f"{path}: the last line was cut off and is not a record; it was moved to {beside.name}",
                  RankingFileWarning, stacklevel=2)
    return b""


def _write_or_restore(file: int, line: bytes, sync: bool) -> None:
    size = os.lseek(file, 0, os.SEEK_END)
    try:
        _write_all(file, line)
        if sync:
            os.fsync(file)
    except BaseException:
        with contextlib.suppress(OSError):  # if this fails too, the next append repairs the torn line
            os.ftruncate(file, size)
        raise


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content):]


def _read(file: int, start: int = 0) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    with os.fdopen(file, "rb", closefd=False) as reader:
        return reader.read()
