"""What a history of records amounts to: the judgements that hold now, and the preference pairs in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from rlhf_mini.rankings.durable import RankingFileWarning
from rlhf_mini.rankings.record import Ranking


def current(records: Iterable[Ranking | Mapping[str, Any]]) -> list[Ranking]:
    """The records that hold now: undo applied, the latest for each annotator, prompt and completions.

    They come oldest first. A skip holds for its item as an answer does, with an empty ranking. An undo takes
    back a record of its own annotator only, and can itself be undone.
    """
    history = chronological(each_once(_as_ranking(record) for record in records))
    undone: set[tuple[str, str | None]] = set()
    for record in reversed(history):
        if record.kind == "undo" and (record.annotator, record.id) not in undone:
            undone.add((record.annotator, record.undoes))
    latest: dict[Any, Ranking] = {}
    for record in history:
        if record.kind != "undo" and (record.annotator, record.id) not in undone:
            latest.pop((record.annotator, record.item), None)  # so that the order is that of the latest
            latest[record.annotator, record.item] = record
    return list(latest.values())


def to_pairs(records: Iterable[Ranking | Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) for every two completions of a current ranking that do not tie.

    Two completions with the same text tie, wherever they were ranked.
    """
    return [(record.prompt, record.completions[better], record.completions[worse])
            for record in current(records)
            for group, lower in combinations(record.ranking, 2)
            for better in group
            for worse in lower
            if record.completions[better] != record.completions[worse]]


def each_once(records: Iterable[Ranking]) -> list[Ranking]:
    """The records with each id once, the first of them; a warning where two that share an id differ."""
    seen: dict[str, Ranking] = {}
    for record in records:
        if seen.setdefault(record.id, record) != record:
            warnings.warn(f"two different records have the id {record.id}: the first is used, by "
                          f"{seen[record.id].annotator!r}; the second is by {record.annotator!r}",
                          RankingFileWarning, stacklevel=2)
    return list(seen.values())


def chronological(records: Iterable[Ranking]) -> list[Ranking]:
    """The records in order of time; within one session the order given, whatever its clock did meanwhile."""
    latest: dict[tuple[str, str], datetime] = {}
    keyed = []
    for record in records:
        session = (record.annotator, record.session)
        before = latest.get(session, _BEFORE_ALL)
        latest[session] = max(before, record.time or before)
        keyed.append((latest[session], record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


def _as_ranking(record: Ranking | Mapping[str, Any]) -> Ranking:
    return record if isinstance(record, Ranking) else Ranking.from_mapping(record)
