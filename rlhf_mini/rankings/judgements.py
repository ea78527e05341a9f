"""From a history of records to the current judgements, and to the preference pairs in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from rlhf_mini.errors import shown
from rlhf_mini.rankings.durable import RankingFileWarning
from rlhf_mini.rankings.record import Ranking
from rlhf_mini.texts import listed


def current(records: Iterable[Ranking | Mapping[str, Any]]) -> list[Ranking]:
    """The current records: undo applied, the latest for each annotator, prompt and completions, oldest first.

    A skip counts as an answer with an empty ranking. An undo affects only records of its own annotator, and can
    itself be undone.
    """
    latest: dict[Any, Ranking] = {}
    for record in standing(records):
        latest.pop((record.annotator, record.item), None)  # the order is that of the latest records
        latest[record.annotator, record.item] = record
    return list(latest.values())


def standing(records: Iterable[Ranking | Mapping[str, Any]]) -> list[Ranking]:
    """The answers and skips that are not undone, oldest first: an item may have several of one annotator."""
    history = chronological(unique_by_id(records))
    undone: set[tuple[str, str | None]] = set()
    for record in reversed(history):
        if record.kind == "undo" and (record.annotator, record.id) not in undone:
            undone.add((record.annotator, record.undoes))
    return [record for record in history if record.kind != "undo" and (record.annotator, record.id) not in undone]


def to_pairs(records: Iterable[Ranking | Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) for every two completions of a current ranking that are not tied.

    Two completions with the same text count as tied, wherever they were ranked.
    """
    return [(record.prompt, record.completions[better], record.completions[worse])
            for record in current(records)
            for group, lower in combinations(record.ranking, 2)
            for better in group
            for worse in lower
            if record.completions[better] != record.completions[worse]]


def unique_by_id(records: Iterable[Ranking | Mapping[str, Any]]) -> list[Ranking]:
    """The first record of each id; warns where two different records have the same id."""
    seen: dict[str, Ranking] = {}
    for record in as_records(records):
        if seen.setdefault(record.id, record) != record:
            warnings.warn(f"two different records have the id {shown(record.id)}: the first is used, by "
                          f"{shown(seen[record.id].annotator)}; the second is by {shown(record.annotator)}",
                          RankingFileWarning, stacklevel=2)
    return list(seen.values())


def chronological(records: Iterable[Ranking | Mapping[str, Any]]) -> list[Ranking]:
    """The records in order of time; records of one session keep the given order, even if its clock was set back."""
    latest: dict[tuple[str, str], datetime] = {}
    keyed = []
    for record in as_records(records):
        session = (record.annotator, record.session)
        before = latest.get(session, BEFORE_ALL)
        latest[session] = max(before, record.time or before)
        keyed.append((latest[session], record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


def as_records(records: Iterable[Ranking | Mapping[str, Any]]) -> list[Ranking]:
    """The records, which may be given as their fields. Raises: InputError for what is not several records."""
    given = listed("records", records, "a list of records, such as load_rankings(file) or store.records()")
    return [record if isinstance(record, Ranking) else Ranking.from_mapping(record) for record in given]
