"""Read files that others made: whole files only, as a stream, within stated limits, and in the usual encodings."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rlhf_mini import disk
from rlhf_mini.errors import InputError, shown

LONGEST_LINE = 10_000_000  # bytes of a ranking file, characters of a preference file
LONGEST_ARRAY = 100_000_000  # characters of a JSON array, which cannot be read line by line
MOST_TEXT = 1_000_000_000  # characters of a preference file, after unpacking
MOST_LINES = 1_000_000  # of a preference file

GZIP = b"\x1f\x8b"
ENCODINGS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
             (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # what a file begins with
OTHER_FORMATS = (
    (b"version https://git-lfs", "a pointer of Git LFS: get the file itself with git lfs pull"),
    (b"PAR1", "Parquet: give from_dataset(pandas.read_parquet(file), annotator)"),
    (b"PK\3\4", "a zip archive or a spreadsheet: unpack it, or export JSON Lines"),
    (b"BZh", "packed by bzip2: unpack it"), (b"\xfd7zXZ", "packed by xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it"))
TABLES = {".csv": "CSV: give from_dataset(pandas.read_csv(file), annotator)",
          ".tsv": 'a table: give from_dataset(pandas.read_csv(file, sep="\\t"), annotator)'}


def as_path(name: str, value: Any) -> Path:
    """The value as a path. Raises: InputError for what is not one path."""
    try:
        good = isinstance(value, str | os.PathLike) and str(value).strip() and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        good = False
    if not good or isinstance(os.fspath(value), bytes):
        raise InputError(f"{name} is {shown(value)}: give the path of a file, as a text or a Path")
    return Path(value)


@contextmanager
def opened_file(path: Path) -> Iterator[int]:
    """The number of a file that is open for reading.

    Raises: OSError, also for a folder, and for a pipe or a device: they can be without an end, or never begin.
    """
    with disk.opened(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)) as file:
        mode = os.fstat(file).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe" if stat.S_ISFIFO(mode) else "it is a device, not a file")
        yield file


def binary_lines(file: int, start: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Up to where a file is read, and the line with its newline that ends there, from the place `start` on.

    In the place of a line above LONGEST_LINE stands None, as soon as so much of it is read.
    """
    os.lseek(file, start, os.SEEK_SET)
    with os.fdopen(file, "rb", closefd=False) as reader:
        end = start
        while line := reader.readline(LONGEST_LINE + 1):
            end += len(line)
            is_long = len(line) > LONGEST_LINE
            yield end, None if is_long else line
            while is_long and line and not line.endswith(b"\n"):
                line = reader.readline(LONGEST_LINE)
                end += len(line)


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a file of JSON Lines or with one JSON array, gzipped or not, each with a name such as "line 3".

    An InputError stands in the place of a row that is not JSON.
    Raises: InputError, one line, for a file that cannot be read, or that is above a limit.
    """
    try:
        with opened_file(path) as file, _text(file, path) as text:
            yield from _rows(text, path)
    except UnicodeError as error:
        raise InputError(f"preference file {path} is neither UTF-8 nor marked as UTF-16 ({error}): save it as "
                         "UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"preference file {path} cannot be read ({why}): give JSON Lines, gzipped or not") from error


def other_format(path: Path, head: bytes) -> str | None:
    """What a file that begins with `head` is, and what to do, where it has neither JSON Lines nor a JSON array."""
    told = next((told for mark, told in OTHER_FORMATS if head.startswith(mark)), None)
    return told or (None if head.lstrip().startswith((b"{", b"[")) else TABLES.get(path.suffix.lower()))


def not_lines(path: Path, head: bytes) -> str | None:
    """What a file that begins with `head` is, and what to do, where it is not JSON Lines in UTF-8."""
    encoding = encoding_of(head)
    if not encoding.startswith("utf-8"):
        return f"{encoding.upper()} text: save it as UTF-8"
    if head.startswith(GZIP):
        return "packed by gzip: unpack it"
    if head.lstrip().startswith(b"["):
        return "a JSON array: write one object a line"
    return other_format(path, head)


def encoding_of(head: bytes) -> str:
    """The encoding of text that begins with `head`."""
    return next((name for mark, name in ENCODINGS if head.startswith(mark)), "utf-8")


@contextmanager
def _text(file: int, path: Path) -> Iterator[IO[str]]:
    """The text of a file, unpacked and decoded as far as it is read."""
    with os.fdopen(file, "rb", closefd=False) as packed:
        unpacked = gzip.GzipFile(fileobj=packed) if packed.peek(2).startswith(GZIP) else None
        content = io.BufferedReader(cast(io.RawIOBase, unpacked)) if unpacked else packed
        head = content.peek(32)
        if told := other_format(path, head):
            raise InputError(f"preference file {path} is {told}")
        yield io.TextIOWrapper(content, encoding_of(head), newline="\n")  # JSON may hold a lone \r


def _rows(text: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    read, blank = 0, True
    for number in itertools.count(1):
        line = text.readline(LONGEST_LINE + 1)
        read += len(line)
        if len(line) > LONGEST_LINE or read > MOST_TEXT or number > MOST_LINES:
            raise InputError(f"preference file {path} is too large: give at most {MOST_LINES:,} lines of at most "
                             f"{LONGEST_LINE:,} characters, and at most {MOST_TEXT:,} in all")
        if blank and line.lstrip().startswith("["):
            yield from _array(line + text.read(LONGEST_ARRAY), path)
            return
        if line.strip():
            blank = False
            yield f"line {number}", _parsed(line)
        if not line:
            return


def _array(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parsed(text)
    if len(text) > LONGEST_ARRAY or not isinstance(rows, list):
        raise InputError(f"preference file {path} is not one whole JSON array of at most {LONGEST_ARRAY:,} characters: "
                         "give JSON Lines, with one object a line")
    yield from ((f"entry {number}", row) for number, row in enumerate(rows, start=1))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return InputError("it is not a line of JSON")
