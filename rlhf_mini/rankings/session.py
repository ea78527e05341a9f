"""A session of judging without a user interface: a widget, a script or a simulated annotator drives it."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_mini.errors import InputError
from rlhf_mini.rankings.judgements import current
from rlhf_mini.rankings.record import Ranking, are_ratings, are_tie_groups, is_name, item_key
from rlhf_mini.rankings.store import RankingStore, timestamp_now

Judge = Callable[[str, list[str]], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Item:
    """A prompt and its completions; `shown_order[i]` is the completion shown at position i."""

    prompt: str
    completions: list[str]
    shown_order: list[int]

    @property
    def shown(self) -> list[str]:
        """The completions in the order in which they are shown."""
        return [self.completions[index] for index in self.shown_order]


class Progress(NamedTuple):
    """How many items are answered or skipped, and how many there are."""

    done: int
    total: int


class RankingSession:
    """One annotator judges items one by one; each answer is in the store before the next item is shown.

    The session continues where the same annotator stopped: items with an answer or a skip in the store are done.
    The order on the screen depends only on seed, annotator and item. With `simulated`, the ids depend only on seed
    and answers, and no seconds are counted, so that a run can be repeated.
    Raises: InputError unless every item is a prompt with 2 to 9 completions, given once.
    """

    def __init__(self, items: Sequence[tuple[str, Sequence[str]]], annotator: str,
                 store: RankingStore | None = None, seed: int = 0, session: str | None = None,
                 simulated: bool = False) -> None:
        if not is_name(annotator) or (store is not None and store.annotator != annotator):
            expected = f"{store.annotator!r}, as the store does" if store else "a name, in any language"
            raise InputError(f"annotator is {annotator!r}: give {expected}")
        self.annotator = annotator
        self.store = store
        self.seed = seed
        self.simulated = simulated
        self.session = session or (f"simulated-{seed}" if simulated else str(uuid.uuid4()))
        self.records: list[Ranking] = []  # written by this session, oldest first
        self.watchers: list[Callable[[], None]] = []  # called after each act, whoever acted: forms show the new item
        self._items = _make_items(items, annotator, seed)
        self._index: int | None = None  # the item to judge now; None when all are done
        self._shown_at: float | None = None  # when it was first asked for
        self._resume()

    def _resume(self) -> None:
        """Continue the annotator's history; `_acts` holds (item, id) of what can be undone, oldest first."""
        history = self.store.records() if self.store else []
        own = [record for record in history if record.annotator == self.annotator]
        place = {item_key(item.prompt, item.completions): index for index, item in enumerate(self._items)}
        self._earlier = len(own)
        self._acts = [(place[record.item], record.id) for record in current(own) if record.item in place]
        self._show_next()

    @property
    def current(self) -> Item | None:
        """The item to judge now, None when all are done. Its clock starts at the first access."""
        if self._index is None:
            return None
        if self._shown_at is None:
            self._shown_at = time.monotonic()
        return self._items[self._index]

    def restart_clock(self) -> None:
        """Count the current item's time from now, when a person first sees it."""
        self._shown_at = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether every item has an answer or a skip."""
        return self._index is None

    @property
    def can_undo(self) -> bool:
        """Whether there is an answer or a skip to take back."""
        return bool(self._acts)

    @property
    def progress(self) -> Progress:
        """How many items the annotator has done."""
        return Progress(len(self._acts), len(self._items))

    def submit(self, ranking: Sequence[Sequence[int]]) -> Ranking:
        """Rank the current item: tie groups of positions on the screen, best first; returns the saved record.

        Raises: InputError if a position is missing or given twice; NotSavedError if the record is not saved. After
        an error the same item is still the current one.
        """
        item = self._items[self._current_index()]
        if not are_tie_groups(ranking, len(item.completions)):
            raise InputError(f"ranking is {ranking!r}: give tie groups, best first, "
                             f"with each position 0 to {len(item.completions) - 1} once")
        groups = [sorted(item.shown_order[position] for position in group) for group in ranking]
        return self._answer("ranking", ranking=groups)

    def rate(self, ratings: Sequence[int]) -> Ranking:
        """Rate the current item: 1 (worst) to 7 for each position on the screen; equal ratings tie.

        Raises: InputError if they are not whole numbers from 1 to 7; NotSavedError if the record is not saved.
        """
        item = self._items[self._current_index()]
        if not are_ratings(ratings, len(item.completions)):
            raise InputError(f"ratings are {ratings!r}: give a whole number from 1 to 7 "
                             f"for each of {len(item.completions)} positions")
        by_index = [rating for _, rating in sorted(zip(item.shown_order, ratings, strict=True))]
        return self._answer("rating", ratings=by_index)

    def skip(self) -> Ranking:
        """Skip the current item. Raises: NotSavedError if the record is not saved."""
        return self._answer("skip")

    def undo(self) -> Ranking:
        """Take back the latest answer or skip and return to its item; repeated calls go back to the first.

        Raises: InputError if there is nothing to undo; NotSavedError if the record is not saved.
        """
        if not self._acts:
            raise InputError("there is nothing to undo: answer or skip an item first")
        index, undone = self._acts[-1]
        record = self._save("undo", self._items[index], undoes=undone)
        self._acts.pop()
        self._show(index)
        self._tell_watchers()
        return record

    def _current_index(self) -> int:
        if self._index is None:
            raise InputError(f"all {len(self._items)} items are done: undo, or start a session with new items")
        return self._index

    def _answer(self, kind: str, **answer: Any) -> Ranking:
        index = self._current_index()
        record = self._save(kind, self._items[index], **answer)
        self._acts.append((index, record.id))
        self._show_next()
        self._tell_watchers()
        return record

    def _save(self, kind: str, item: Item, **answer: Any) -> Ranking:
        seconds = 0.0 if self.simulated or self._shown_at is None else time.monotonic() - self._shown_at
        record = Ranking(id=self._new_id(kind, item, answer), kind=kind, prompt=item.prompt,
                         completions=item.completions, shown_order=item.shown_order, annotator=self.annotator,
                         session=self.session, timestamp=timestamp_now(), seconds=round(seconds, 3), **answer)
        if self.store is not None:
            self.store.append(record)
        self.records.append(record)
        return record

    def _new_id(self, kind: str, item: Item, answer: dict[str, Any]) -> str:
        if not self.simulated:
            return str(uuid.uuid4())
        act = self._earlier + len(self.records)  # the same answer given twice makes two records
        parts = (self.seed, self.annotator, self.session, act, kind, item, answer)
        return str(uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)))

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            watcher()

    def _show_next(self) -> None:
        done = {index for index, _ in self._acts}
        self._show(next((index for index in range(len(self._items)) if index not in done), None))

    def _show(self, index: int | None) -> None:
        self._index = index
        self._shown_at = None


def answer(session: RankingSession, judge: Judge) -> list[Ranking]:
    """Let a simulated annotator answer all remaining items; returns the records that the session has written.

    `judge(prompt, shown)` returns tie groups of positions in `shown`, best first. The file is synced once, at the
    end.
    """
    with session.store.batch() if session.store else contextlib.nullcontext():
        while (item := session.current) is not None:
            session.submit(judge(item.prompt, item.shown))
    return session.records


def _make_items(items: Sequence[tuple[str, Sequence[str]]], annotator: str, seed: int) -> list[Item]:
    made: dict[Any, Item] = {}
    for number, (prompt, completions) in enumerate(items):
        texts = list(completions)
        if not all(isinstance(text, str) for text in (prompt, *texts)):
            raise InputError(f"item {number} is not text: give a prompt and its completions, each a str")
        if not 2 <= len(texts) <= 9:  # the keys 1 to 9 choose a completion
            raise InputError(f"item {number} has {len(texts)} completions: give 2 to 9")
        if item_key(prompt, texts) in made:
            raise InputError(f"item {number} is given twice: give each prompt with its completions once")
        made[item_key(prompt, texts)] = Item(prompt, texts, _shuffled(prompt, texts, annotator, seed))
    return list(made.values())


def _shuffled(prompt: str, texts: list[str], annotator: str, seed: int) -> list[int]:
    order = list(range(len(texts)))
    random.Random(repr((seed, annotator, prompt, texts))).shuffle(order)
    return order
