"""The ranking store: a folder with one append-only JSON Lines file for each annotator and session."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_mini import files
from rlhf_mini.errors import InputError
from rlhf_mini.files import NotSavedError
from rlhf_mini.rankings.durable import DamagedLine, RankingFileWarning, append_line, read_lines
from rlhf_mini.rankings.judgements import chronological, current, unique_by_id
from rlhf_mini.rankings.record import Ranking, is_name

Source = str | os.PathLike[str]


class RankingStore:
    """A folder with the records of all annotators; one store appends the records of one annotator.

    Any number of stores, in any number of processes, may use one folder. A name may be any text, because it is
    never part of a path: a file's name is made of hashes of annotator and session.
    """

    def __init__(self, folder: Source, annotator: str) -> None:
        if not is_name(annotator):
            raise InputError(f"annotator is {annotator!r}: give a name, in any language")
        self.folder = Path(folder)
        self.annotator = annotator
        self._unsynced: set[Path] | None = None  # files to sync at the end of a batch; None outside a batch

    def append(self, record: Ranking | Mapping[str, Any]) -> Ranking:
        """Append a record, which is on the disk on return. Returns the record as stored.

        In a mapping, missing `id`, `annotator` and `timestamp` are filled in.
        Raises: InputError if it is not a record of this annotator; NotSavedError (an OSError) if it is not saved.
        """
        ranking = record if isinstance(record, Ranking) else Ranking.from_mapping(self._filled_in(record))
        if ranking.annotator != self.annotator:
            raise InputError(f'"annotator" is {ranking.annotator!r}, but this store writes for '
                             f"{self.annotator!r}: open a store for each annotator")
        path = self.path(ranking.session)
        append_line(path, ranking.to_line(), sync=self._unsynced is None)
        if self._unsynced is not None:
            self._unsynced.add(path)
        return ranking

    def records(self) -> list[Ranking]:
        """Every annotator's whole history in the folder, each id once, oldest first.

        A line that is not a record gives a RankingFileWarning with file and line; all others are read.
        Raises: OSError if the folder or a file in it cannot be read.
        """
        records = []
        for path in self._files():
            found, damages = read_lines(path)
            records += found
            for damage in damages:
                _warn(damage)
        return chronological(unique_by_id(records))

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".jsonl")
        except FileNotFoundError:  # nobody has written yet
            return []

    def path(self, session: str) -> Path:
        """The file of this annotator's records in one session."""
        return self.folder / f"{_hash(self.annotator)}-{_hash(session)}.jsonl"

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Sync once, at the end, instead of after every record: simulated annotators can be asked again."""
        if self._unsynced is not None:
            yield  # the outer batch syncs
            return
        self._unsynced = set()
        try:
            yield
        finally:
            paths, self._unsynced = self._unsynced, None
            for path in sorted(paths):
                files.sync(path)

    def _filled_in(self, record: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in record.items() if value is not None}
        return {"id": str(uuid.uuid4()), "annotator": self.annotator, "timestamp": timestamp_now()} | given


def load_rankings(paths: Source | Iterable[Source]) -> list[Ranking]:
    """The records of ranking files, each id once, oldest first.

    A last line that was cut off is left out with a RankingFileWarning.
    Raises: InputError, one line, for a file that is missing, empty or damaged (it names the line), and where
    every judgement is skipped or undone.
    """
    given = _as_paths(paths)
    records = _read_files(given)
    if not any(record.ranking for record in current(records)):
        raise InputError(f"there is no current ranking in {', '.join(map(str, given))}: all are skipped or "
                         "undone; give a file with rankings")
    return records


def save_rankings(records: Iterable[Ranking], out: Source) -> None:
    """Write records to a new ranking file. Raises: InputError if it exists; NotSavedError if not saved."""
    try:
        files.create(Path(out), b"".join(record.to_line() for record in records))
    except NotSavedError as error:
        if error.errno != errno.EEXIST:
            raise
        raise InputError(f"{out} exists and is not overwritten: give a new name") from error


def merge(paths: Source | Iterable[Source], out: Source) -> list[Ranking]:
    """Pool ranking files of several annotators into a new one, each id once; returns the pooled records.

    Raises: InputError, one line, for a file that is missing, empty or damaged, or if `out` exists.
    """
    records = _read_files(_as_paths(paths))
    save_rankings(records, out)
    return records


def timestamp_now() -> str:
    """The time in UTC, ISO 8601, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _as_paths(paths: Source | Iterable[Source]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]


def _read_files(paths: list[Path]) -> list[Ranking]:
    if not paths:
        raise InputError("there is no ranking file: give at least one")
    return chronological(unique_by_id(record for path in paths for record in _read_file(path)))


def _read_file(path: Path) -> list[Ranking]:
    try:
        records, damages = read_lines(path)
    except OSError as error:
        hint = f"give its files, {path}/*.jsonl" if path.is_dir() else "give the path of a ranking file"
        raise InputError(f"ranking file {path} cannot be read ({error.strerror}): {hint}") from error
    harmful = [damage for damage in damages if not damage.torn]
    if harmful:
        raise InputError(f"ranking file {harmful[0]}; fix or remove this line")
    if not records:
        raise InputError(f"ranking file {path} has no records: give a JSON Lines file with rankings")
    for torn in damages:
        _warn(torn)
    return records


def _warn(damage: DamagedLine) -> None:
    warnings.warn(f"{damage}; this line is left out", RankingFileWarning, stacklevel=3)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
