"""What files asks of the system: open without following a link, lock, write all, sync, move."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FileSystemWarning(UserWarning):
    """The file system lacks something that keeps files safe."""


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A file's number, to be used in the block alone; a link is not followed when something is to be written."""
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    flags |= getattr(os, "O_BINARY", 0)  # Windows would change the line endings
    flags |= getattr(os, "O_NOFOLLOW", 0) if writes else 0
    file = os.open(path, flags, 0o666)
    try:
        yield file
    finally:
        os.close(file)  # releases the lock


def lock(file: int, shared: bool = False, wait: bool = True) -> None:
    """Lock the file until it is closed; warns once where the file system has no locks.

    Raises: BlockingIOError where another process has it locked and this one is not to wait.
    """
    if sys.platform == "win32":  # two processes in one file are not kept apart there
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if not shared and not _TOLD:
            _TOLD.append("no locks")
            warnings.warn("this file system has no locks: what one process saves is safe; do not let two processes "
                          "write one run, or one annotator's rankings, at the same time", FileSystemWarning,
                          stacklevel=3)


_TOLD: list[str] = []  # what this process has been warned of


def read(file: int, start: int = 0) -> bytes:
    """The content of an open file from `start` on."""
    os.lseek(file, start, os.SEEK_SET)
    with os.fdopen(file, "rb", closefd=False) as reader:
        return reader.read()


def move(beside: Path, path: Path) -> None:
    """Give a file the name `path`, or each file of a folder its name in the folder `path`."""
    if not (beside.is_dir() and path.is_dir()):
        beside.replace(path)
        return
    for file in sorted(beside.iterdir()):
        move(file, path / file.name)
    sync_folder(path)


def sync_all(path: Path) -> None:
    """Sync a file, or a folder with everything in it."""
    if path.is_dir():
        for below in path.iterdir():
            sync_all(below)
        sync_folder(path)
        return
    with opened(path, os.O_RDWR) as file:
        os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: without its name, a synced file is lost."""
    if sys.platform == "win32":  # Windows cannot sync a folder
        return
    with opened(folder, os.O_RDONLY) as names:
        try:
            os.fsync(names)
        except OSError as error:
            # Some network folders do not support this call, and a read-only disk cannot hold a new name.
            if error.errno not in (errno.EINVAL, errno.EROFS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def write_new(path: Path, content: bytes) -> None:
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
        write_all(file, content)
        os.fsync(file)


def write_or_restore(file: int, content: bytes, sync: bool) -> None:
    size = os.lseek(file, 0, os.SEEK_END)
    try:
        write_all(file, content)
        if sync:
            os.fsync(file)
    except BaseException:
        with contextlib.suppress(OSError):  # if this fails too, the next append repairs the torn line
            os.ftruncate(file, size)
        raise


def write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content):]
