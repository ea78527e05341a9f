"""One act of one annotator: the record, its checks, and the line of JSON it is stored as."""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from rlhf_mini import strict_json
from rlhf_mini.errors import InputError, first_line, shown
from rlhf_mini.rankings.reading import LONGEST_LINE
from rlhf_mini.texts import listed, plain

SCHEMA_VERSION = 1
MOST_COMPLETIONS = 9  # the keys 1 to 9 choose a completion
KINDS = ("ranking", "rating", "skip", "undo")
_ONLY_FOR = {"ranking": ("ranking", "rating"), "ratings": ("rating",), "undoes": ("undo",)}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A ranking, a rating, a skip or an undo, with the fields that a ranking file has.

    `shown_order[i]` is the completion shown at position i (empty: not known). `ranking` holds tie groups of
    completion indices, best first; for a rating it follows from `ratings`, 1 to 7 for each completion.
    `undoes` is the id of the record that an undo takes back. Fields outside the format are kept in `extra`.
    Units: `seconds` from showing to answering.
    Raises: InputError, one line, for a value that does not fit the format.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: str = "ranking"
    prompt: str = ""
    completions: list[str] = field(default_factory=list)
    shown_order: list[int] = field(default_factory=list)
    ranking: list[list[int]] = field(default_factory=list)
    ratings: list[int] | None = None
    undoes: str | None = None
    annotator: str
    session: str = ""
    timestamp: str = ""  # UTC, ISO 8601; empty: not known
    seconds: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("completions", "shown_order", "ranking"):
            self._set(name, plain(getattr(self, name)))
        self._set("ratings", plain(self.ratings, floats=True))
        self._check_act()
        self._check_item()
        self._check_answer()

    def __hash__(self) -> int:
        return hash(self.id)

    def _check_act(self) -> None:
        self._require("schema_version", "1, or update rlhf_mini to read newer files",
                      type(self.schema_version) is int and self.schema_version == SCHEMA_VERSION)
        self._require("id", "a UUID, as text", is_name(self.id))
        self._require("kind", "one of " + ", ".join(KINDS), self.kind in KINDS)
        self._require("annotator", "a name, as text", is_name(self.annotator))
        self._require("session", "a text", isinstance(self.session, str))
        self._require("timestamp", "a time in ISO 8601, as text",
                      self.timestamp == "" or self.time is not None)
        self._require("seconds", "a number that is 0 or more", self.seconds is None or (
            type(self.seconds) in (int, float) and 0 <= self.seconds <= sys.float_info.max))

    def _check_item(self) -> None:
        count = len(self.completions) if _is_list(self.completions) else 0
        self._require("prompt", "a text", isinstance(self.prompt, str))
        self._require("completions", f"a list of two or more texts, at most {MOST_COMPLETIONS}",
                      _is_list(self.completions) and all(isinstance(text, str) for text in self.completions)
                      and (2 <= count <= MOST_COMPLETIONS or (count == 0 and self.kind == "undo")))
        self._require("shown_order", f"each of the completions 0 to {count - 1} once",
                      self.shown_order == [] or _is_permutation(self.shown_order, count))

    def _check_answer(self) -> None:
        count = len(self.completions)
        if self.kind == "rating":
            self._require("ratings", f"a whole number from 1 to 7 for each of {count} completions",
                          are_ratings(self.ratings, count))
            self._set("ranking", ranking_from_ratings(self.ratings or []))
        elif self.kind == "ranking":
            self._require("ranking", f"tie groups, best first, with each of 0 to {count - 1} once",
                          are_tie_groups(self.ranking, count))
        if self.kind == "undo":
            self._require("undoes", "the id of the record that is undone", is_name(self.undoes))
        for name, kinds in _ONLY_FOR.items():
            self._require(name, f'it only with the kind {" or ".join(kinds)}', self.kind in kinds
                          or not getattr(self, name))

    def _require(self, name: str, expected: str, ok: bool) -> None:
        if not ok:
            raise InputError(f'"{name}" is {shown(getattr(self, name))}: give {expected}')

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def item(self) -> tuple[str, tuple[str, ...]]:
        """What was judged: the prompt, and the completions in sorted order."""
        return item_key(self.prompt, self.completions)

    @property
    def time(self) -> datetime | None:
        """The timestamp with its time zone (UTC where it has none); None if it is not known."""
        try:
            time = datetime.fromisoformat(self.timestamp)
        except (TypeError, ValueError):
            return None
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Ranking:
        """A record from the fields of a ranking file; a field that is null counts as missing."""
        if not isinstance(values, Mapping):
            raise InputError(f"a record is {shown(values)}: give a Ranking, or its fields as a dict")
        given = {name: value for name, value in values.items() if value is not None}
        for name in ("id", "annotator"):
            if name not in given:
                raise InputError(PREFERENCES if {"chosen", "rejected"} <= values.keys()
                                 else f'there is no "{name}": every record needs one')
        own = {name: value for name, value in given.items() if name in _FIELDS}
        return cls(**own, extra={name: value for name, value in values.items() if name not in _FIELDS})

    def to_line(self) -> bytes:
        """The record as one line of JSON in UTF-8, with its newline. Raises: InputError if no file can hold it."""
        values = {name: getattr(self, name) for name in _FIELDS if getattr(self, name) is not None}
        try:
            line = strict_json.written(values | self.extra)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"record {shown(self.id)} cannot be written as JSON: {first_line(error)}") from error
        if len(line) > LONGEST_LINE:
            raise InputError(f"record {shown(self.id)} has {len(line):,} bytes: give at most {LONGEST_LINE:,}")
        return line


PREFERENCES = ('it is not a record but a preference with "chosen" and "rejected": read the file with '
                "rankings.load_preferences(file, annotator), and write rankings with rankings.save_rankings")
_FIELDS = {entry.name: entry for entry in fields(Ranking) if entry.name != "extra"}  # in file order


def parse_line(line: bytes) -> Ranking:
    """The record in one line of a ranking file. Raises: InputError if the line is not a record."""
    try:
        values = _decode(line)
    except ValueError as error:
        raise InputError(f"not a line of JSON ({first_line(error)})") from error
    if not isinstance(values, dict):
        raise InputError(f"a record is a JSON object, this is {shown(values)}")
    return Ranking.from_mapping(values)


def is_json(line: bytes) -> bool:
    """Whether a line is whole, even if it is not a record: a line that was cut off is not valid JSON."""
    try:
        _decode(line)
    except ValueError:
        return False
    return True


def _decode(line: bytes) -> Any:
    return strict_json.read(line.removeprefix(codecs.BOM_UTF8))  # some editors put it before the first line


def item_key(prompt: str, completions: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Equal for two items with the same prompt and the same completions, in any order."""
    return prompt, tuple(sorted(completions))


def ranking_from_ratings(ratings: Sequence[int]) -> list[list[int]]:
    """Tie groups of indices, best first: equal ratings tie. Raises: InputError for what is not a list of numbers."""
    numbers = plain(listed("ratings", ratings, "a list of numbers"))
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise InputError(f"ratings are {shown(numbers)}: give a number for each completion")
    return [[index for index, rating in enumerate(numbers) if rating == level]
            for level in sorted(set(numbers), reverse=True)]


def are_tie_groups(groups: Any, count: int) -> bool:
    """Whether `groups` is a list of non-empty lists that together hold each of 0 to count - 1 once."""
    return (_is_list(groups) and all(_is_list(group) and len(group) > 0 for group in groups)
            and _is_permutation([index for group in groups for index in group], count))


def are_ratings(ratings: Any, count: int) -> bool:
    """Whether `ratings` holds a whole number from 1 to 7 for each of `count` completions."""
    return (_is_list(ratings) and len(ratings) == count
            and all(type(rating) is int and 1 <= rating <= 7 for rating in ratings))


def is_name(value: Any) -> bool:
    """Whether `value` is a text with more than white space in it."""
    return isinstance(value, str) and value.strip() != ""


def _is_permutation(values: Any, count: int) -> bool:
    return (_is_list(values) and all(type(value) is int for value in values)
            and sorted(values) == list(range(count)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
