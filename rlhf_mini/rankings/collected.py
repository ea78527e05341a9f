"""Ranking files as they are collected from several people: load them, save records to a new one, pool them."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_mini import files
from rlhf_mini.errors import InputError
from rlhf_mini.files import NotSavedError
from rlhf_mini.rankings.durable import DamagedLine, RankingFileWarning, scan
from rlhf_mini.rankings.judgements import as_records, chronological, current, unique_by_id
from rlhf_mini.rankings.reading import as_path, not_lines, opened_file
from rlhf_mini.rankings.record import PREFERENCES, Ranking
from rlhf_mini.rankings.store import Source
from rlhf_mini.texts import listed


def load_rankings(paths: Source | Iterable[Source]) -> list[Ranking]:
    """The records of ranking files, each id once, oldest first.

    A path may be a file, a folder (all *.jsonl in it), or a pattern such as my_rankings/*.jsonl. A last line that was
    cut off is left out with a RankingFileWarning.
    Raises: InputError, one line, for a file that is missing, empty or damaged (it names the line), and where
    every judgement is skipped or undone.
    """
    given = _as_paths(paths)
    records = _read_files(given)
    if not any(record.ranking for record in current(records)):
        raise InputError(f"there is no current ranking in {', '.join(map(str, given))}: all are skipped or "
                         "undone; give a file with rankings")
    return records


def save_rankings(records: Iterable[Ranking | Mapping[str, Any]], out: Source) -> None:
    """Write records to a new ranking file. Raises: InputError if it exists; NotSavedError if not saved."""
    path = as_path("out", out)
    try:
        files.create(path, b"".join(record.to_line() for record in as_records(records)))
    except NotSavedError as error:
        if error.errno != errno.EEXIST:
            raise
        raise InputError(f"{path} exists and is not overwritten: give a new name") from error


def merge(paths: Source | Iterable[Source], out: Source) -> list[Ranking]:
    """Pool ranking files of several annotators into a new one, each id once; returns the pooled records.

    A path may be a file, a folder (all *.jsonl in it), or a pattern such as my_rankings/*.jsonl.
    Raises: InputError, one line, for a file that is missing, empty or damaged, or if `out` exists.
    """
    records = _read_files(_as_paths(paths))
    save_rankings(records, out)
    return records


def _as_paths(paths: Any) -> list[Path]:
    one = isinstance(paths, str | os.PathLike)
    given: list[Any] = [paths] if one else listed("paths", paths, "the path of a ranking file, or a list of paths")
    return [file for path in given for file in _files_at(as_path("paths" if one else "a path", path))]


def _files_at(path: Path) -> list[Path]:
    """The files in a folder, or those that a pattern matches: not every shell replaces the pattern by them."""
    if os.path.isdir(path):  # noqa: PTH112 - a Path raises where the name is too long
        found = sorted(path.glob("*.jsonl"))
    elif not os.path.lexists(path) and glob.has_magic(str(path)):
        found = sorted(map(Path, glob.glob(_pattern(path))))  # noqa: PTH207 - a Path refuses absolute patterns
    else:
        return [path]
    if not found:
        raise InputError(f"there is no *.jsonl in the folder {path}: give its files, or another folder" if path.exists()
                         else f"no file matches {path}: give the path of a ranking file, or of a folder of them")
    return found


def _pattern(path: Path) -> str:
    """The path as a pattern in which the folders that exist stand for themselves, such as one named "class [2024]"."""
    there = next((folder for folder in path.parents if os.path.lexists(folder)), Path())
    return os.path.join(glob.escape(str(there)), path.relative_to(there))  # noqa: PTH118


def _read_files(paths: list[Path]) -> list[Ranking]:
    if not paths:
        raise InputError("there is no ranking file: give at least one")
    return chronological(unique_by_id(record for path in paths for record in _read_file(path)))


def _read_file(path: Path) -> list[Ranking]:
    records, torn = [], None
    try:
        with contextlib.closing(scan(path)) as lines:
            for _, found in lines:
                if isinstance(found, Ranking):
                    records.append(found)
                elif found.torn:
                    torn = found
                else:
                    raise InputError(_other_format(path) or _damaged(found))
    except OSError as error:
        raise InputError(f"ranking file {path} cannot be read ({error.strerror}): give the path of a ranking "
                         "file") from error
    if not records:
        raise InputError(_other_format(path) or
                         f"ranking file {path} has no records: give a JSON Lines file with rankings")
    if torn:
        warnings.warn(f"{torn}; this line is left out", RankingFileWarning, stacklevel=3)
    return records


def _other_format(path: Path) -> str | None:
    """What is wrong with a ranking file that has no JSON Lines at all."""
    with opened_file(path) as file:
        told = not_lines(path, os.read(file, 32))
    return told and (f"ranking file {path} is {told}; where it has chosen and rejected answers, "
                     "rankings.load_preferences(file, annotator) reads it")


def _damaged(damage: DamagedLine) -> str:
    return f"ranking file {damage}" + ("" if damage.reason == PREFERENCES else "; fix or remove this line")
