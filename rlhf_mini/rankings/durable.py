"""Append records as lines of JSON; read them back and report damaged ones."""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from rlhf_mini import files
from rlhf_mini.errors import InputError
from rlhf_mini.rankings.record import Ranking, is_json, parse_line


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
    with files.opened(path, os.O_RDONLY) as file:
        with contextlib.suppress(OSError):  # a folder without locks can still be read
            files.lock(file, shared=True)  # or a line could be read while it is being written
        content = files.read(file)
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
    files.append(path, line, sync, _repair_last_line)


def _repair_last_line(file: int, path: Path) -> bytes:
    """What to write before the next line, so that it starts on a line of its own; a torn last line is moved away."""
    size = os.lseek(file, 0, os.SEEK_END)
    if size == 0 or files.read(file, size - 1) == b"\n":
        return b""
    content = files.read(file)
    start = content.rfind(b"\n") + 1
    with contextlib.suppress(InputError):
        parse_line(content[start:])
        return b"\n"  # the record is whole, only its newline is missing
    beside = path.with_name(path.name + ".torn")
    files.append(beside, content[start:] + b"\n")
    os.ftruncate(file, start)
    warnings.warn(f"{path}: the last line was cut off and is not a record; it was moved to {beside.name}",
                  RankingFileWarning, stacklevel=2)
    return b""
