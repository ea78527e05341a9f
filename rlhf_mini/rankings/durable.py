"""Append records as lines of JSON; read them back and report damaged ones."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from rlhf_mini import disk, files
from rlhf_mini.errors import InputError, visible
from rlhf_mini.rankings.reading import LONGEST_LINE, binary_lines, opened_file
from rlhf_mini.rankings.record import Ranking, is_json, parse_line

MOST_NAMED = 100  # damaged lines of a file that are named one by one; the others are counted


class RankingFileWarning(UserWarning):
    """Part of a ranking file cannot be used and was left out; the rest was read."""

    def __init__(self, message: object) -> None:
        super().__init__(visible(message))


@dataclass(frozen=True)
class DamagedLine:
    """A line that is not a record; `torn` if it is the last one and writing it was interrupted."""

    path: Path
    line: int  # counted from 1
    reason: str
    torn: bool

    def __str__(self) -> str:
        what = "cut off, the last line" if self.torn else "damaged"
        return visible(f"{self.path}, line {self.line} is {what}: {self.reason}")


def scan(path: Path, start: int = 0) -> Generator[tuple[int, Ranking | DamagedLine], None, None]:
    """Each record and each damaged line of one file, and up to where the file is read then; from the place `start` on.

    The file is locked until the end, or until the iterator is closed.
    Raises: OSError if it cannot be read, or is not a file.
    """
    with opened_file(path) as file:
        with contextlib.suppress(OSError):  # a folder without locks can still be read
            disk.lock(file, shared=True)  # or a line could be read while it is being written
        for number, (end, line) in enumerate(binary_lines(file, start), start=1):
            if line is None:
                yield end, DamagedLine(path, number, f"it has more than {LONGEST_LINE:,} bytes", False)
            elif line.strip():
                try:
                    yield end, parse_line(line.removesuffix(b"\n"))
                except InputError as error:
                    torn = not line.endswith(b"\n") and not is_json(line)  # a whole line without its newline is whole
                    yield end, DamagedLine(path, number, str(error), torn)


def read_lines(path: Path) -> tuple[list[Ranking], list[DamagedLine]]:
    """The records of one file, and its damaged lines. Raises: OSError if it cannot be read, or is not a file."""
    records: list[Ranking] = []
    damages: list[DamagedLine] = []
    more = 0
    for _, found in scan(path):
        if isinstance(found, Ranking):
            records.append(found)
        elif len(damages) < MOST_NAMED:
            damages.append(found)
        else:
            more, last = more + 1, found
    if more:
        damages.append(DamagedLine(path, last.line, f"{last.reason}; so are {more - 1} others before it", last.torn))
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
    if size == 0 or disk.read(file, size - 1) == b"\n":
        return b""
    first = max(0, size - LONGEST_LINE)
    content = disk.read(file, first)
    start = content.rfind(b"\n") + 1
    if first and not start:
        return b"\n"  # it is too long to be moved; whoever reads the file names it
    with contextlib.suppress(InputError):
        parse_line(content[start:])
        return b"\n"  # the record is whole, only its newline is missing
    beside = path.with_name(path.name + ".torn")
    files.append(beside, content[start:] + b"\n")
    os.ftruncate(file, first + start)
    warnings.warn(f"{path}: the last line was cut off and is not a record; it was moved to {beside.name}",
                  RankingFileWarning, stacklevel=2)
    return b""
