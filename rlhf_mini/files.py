"""The one module that writes files: whole or not at all, on the disk on return, and never through a link to a file.

New content is written under another name, synced, and renamed. So whoever looks, after a kill or a power cut too, finds
the old file or the new one. What another library writes is made in the same way (`put`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf_mini import disk
from rlhf_mini.errors import visible

UNFINISHED = re.compile(r".+\.\d+-[0-9a-f]{8}\.tmp")  # the names under which new content is written
IN_THE_WAY = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)  # a link, a folder or a file stands there
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # hard links are not supported


class NotSavedError(OSError):
    """Something could not be written, and nothing that was saved before has been lost; one line says what to do."""


# --- files and folders ------------------------------------------------------------------------------------------


def put(path: Path, make: Callable[[Path], Any]) -> None:
    """Let `make` write a file or a folder under another name, and then give it the name `path`.

    A file takes the place of an old one. So does each file of a folder: others that are there already are kept.
    Raises: NotSavedError.
    """
    with saving(path):
        make_folder(path.parent)
        beside = _beside(path)
        try:
            make(beside)
            disk.sync_all(beside)
            disk.move(beside, path)
            disk.sync_folder(path.parent)
        finally:
            remove(beside)


def write(path: Path, content: bytes) -> None:
    """Write a file in the place of an old one, if there is one. Raises: NotSavedError."""
    put(path, lambda beside: disk.write_new(beside, content))


def create(path: Path, content: bytes) -> None:
    """Write a new file. Raises: NotSavedError if it cannot be written (its errno is EEXIST if there is one)."""
    with saving(path):
        make_folder(path.parent)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        beside = _beside(path)
        try:
            disk.write_new(beside, content)
            try:
                os.link(beside, path)  # unlike a rename, this overwrites nothing
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                beside.replace(path)
            disk.sync_folder(path.parent)
        finally:
            remove(beside)


def append(path: Path, content: bytes, sync: bool = True,
           repair: Callable[[int, Path], bytes] = lambda file, path: b"") -> None:
    """Append to a file, which is created if it does not exist; with `sync` it is on the disk on return.

    `repair` sees the file first, and says what is to be written before the content. If the content cannot be written
    whole, the file is restored.
    Raises: NotSavedError.
    """
    with saving(path):
        make_folder(path.parent)
        with disk.opened(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
            disk.lock(file)
            if sync:  # sync the file's name first: if that fails, nothing is written
                disk.sync_folder(path.parent)
            disk.write_or_restore(file, repair(file, path) + content, sync)


def sync(path: Path) -> None:
    """Put a file's content and its name on the disk. Raises: NotSavedError."""
    with saving(path):
        disk.sync_all(path)
        disk.sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it points to) or a folder, if it is there. Raises: NotSavedError."""
    with saving(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make the folder and, once per process, sync its name and its parents' names. Raises: NotSavedError.

    A process that was killed may have made them without syncing.
    """
    folder = folder.absolute()
    if folder in _ON_DISK and folder.exists():
        return
    with saving(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:  # it, or a folder above it, is a file
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        for above in folder.parents:
            with contextlib.suppress(PermissionError):  # a folder that we may not read existed before
                disk.sync_folder(above)
    _ON_DISK.add(folder)


_ON_DISK: set[Path] = set()  # folders whose names this process has synced


def digests(*paths: Path) -> dict[str, str]:
    """The SHA-256 of each file that is there, and of each file in each folder, by its path in the folder above."""
    found = {}
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as content:
                    found[file.relative_to(path.parent).as_posix()] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def left_by_a_kill(folder: Path) -> list[Path]:
    """What a process that was killed while it wrote has left in the folder, and in the folders in it."""
    found = (path for pattern in ("*.tmp", "*/*.tmp") for path in folder.glob(pattern))
    return [path for path in found if UNFINISHED.fullmatch(path.name)]


def _beside(path: Path) -> Path:
    """A name that nobody else uses, beside a file or a new folder, or in a folder that is there.

    The folder may be a disk of its own, or stand in one where we may not write.
    """
    place = path if path.is_dir() else path.parent
    return place / f"{path.name or 'new'}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


# --- errors -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def saving(path: Path | str) -> Iterator[None]:
    """Turn whatever says that something cannot be written into a NotSavedError that names the path."""
    try:
        yield
    except NotSavedError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        cause = "it is a link" if number == errno.ELOOP else os.strerror(number) if number else str(error)
        advice = "remove what is there" if number in IN_THE_WAY else "free disk space or permit writing there"
        not_saved = NotSavedError(visible(f"not saved: {path} cannot be written ({cause}); what was saved before is "
                                          f"kept; {advice}, then try again"))
        not_saved.errno = number
        raise not_saved from error


def _error_number(error: Exception) -> int | None:
    """The number of a system error, which libraries in Rust put into the text of their own kinds of exception."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None
