"""The ranking store: a folder with one append-only JSON Lines file for each annotator and session."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rlhf_mini import files
from rlhf_mini.errors import InputError, shown
from rlhf_mini.rankings.durable import RankingFileWarning, append_line, read_lines, scan
from rlhf_mini.rankings.judgements import BEFORE_ALL, as_records, chronological, unique_by_id
from rlhf_mini.rankings.reading import as_path
from rlhf_mini.rankings.record import Ranking, is_name

Source = str | os.PathLike[str]


class RankingStore:
    """A folder with the records of all annotators; one store appends the records of one annotator.

    Any number of stores, in any number of processes, may use one folder. A name may be any text, because it is
    never part of a path: a file's name is made of hashes of annotator and session.
    """

    def __init__(self, folder: Source, annotator: str) -> None:
        if not is_name(annotator):
            raise InputError(f"annotator is {shown(annotator)}: give a name, in any language")
        self.folder = as_path("folder", folder)
        self.annotator = annotator
        self._unsynced: set[Path] | None = None  # files to sync at the end of a batch; None outside a batch
        self._read: dict[Path, int] = {}  # the part of each file whose records `_latest` knows
        self._latest = BEFORE_ALL  # the time of the annotator's latest record

    def append(self, record: Ranking | Mapping[str, Any]) -> Ranking:
        """Append a record, which is on the disk on return. Returns the record as stored.

        In a mapping, missing `id`, `annotator` and `timestamp` are filled in.
        Raises: InputError if it is not a record of this annotator; NotSavedError (an OSError) if it is not saved.
        """
        filled = self._filled_in(record) if isinstance(record, Mapping) else record
        (ranking,) = as_records([filled])
        if ranking.annotator != self.annotator:
            raise InputError(f'"annotator" is {shown(ranking.annotator)}, but this store writes for '
                             f"{shown(self.annotator)}: open a store for each annotator")
        path = self.path(ranking.session)
        append_line(path, ranking.to_line(), sync=self._unsynced is None)
        if self._unsynced is not None:
            self._unsynced.add(path)
        return ranking

    def records(self) -> list[Ranking]:
        """Every annotator's whole history in the folder, each id once, oldest first.

        A line that is not a record gives a RankingFileWarning with file and line; all others are read. So does a
        folder or a pipe with the name of a ranking file.
        Raises: OSError if the folder or a file in it cannot be read.
        """
        records: list[Ranking] = []
        for path in self._files():
            if path.exists() and not path.is_file():
                warnings.warn(f"{path} is not a file; it is left out", RankingFileWarning, stacklevel=2)
                continue
            found, damages = read_lines(path)
            records += found
            for damage in damages:
                warnings.warn(f"{damage}; this line is left out", RankingFileWarning, stacklevel=2)
        return chronological(unique_by_id(records))

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".jsonl")
        except FileNotFoundError:  # nobody has written yet
            return []

    def timestamp(self, now: str) -> str:
        """The time for the next record: `now`, or just after the annotator's latest record if that is later.

        So the order of the annotator's records is that in which they were written, even if a clock was wrong.
        """
        with contextlib.suppress(OSError):  # whoever reads or appends next is told
            self._look_for_latest()
        try:
            after = (self._latest + timedelta(microseconds=1)).astimezone(UTC)
        except OverflowError:
            return now
        return now if datetime.fromisoformat(now) >= after else after.isoformat(timespec="microseconds")

    def _look_for_latest(self) -> None:
        for path in self._files():
            start = self._read.get(path, 0)
            if path in self._read and not path.name.startswith(_hash(self.annotator)):
                continue  # what others write is read once
            self._read[path] = start
            if path.is_file() and path.stat().st_size != start:
                self._read_times(path, start if path.stat().st_size > start else 0)

    def _read_times(self, path: Path, start: int) -> None:
        for end, found in scan(path, start):
            if isinstance(found, Ranking) and found.annotator == self.annotator:
                self._latest = max(self._latest, found.time or self._latest)
            if isinstance(found, Ranking) or not found.torn:
                self._read[path] = end

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
        time = given.get("timestamp") or self.timestamp(timestamp_now())
        return {"id": str(uuid.uuid4()), "annotator": self.annotator} | given | {"timestamp": time}


def timestamp_now() -> str:
    """The time in UTC, ISO 8601, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
