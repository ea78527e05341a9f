"""A session of judging without a user interface: a widget, a script or a simulated annotator drives it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_mini.errors import InputError, shown
from rlhf_mini.rankings.items import Item, make_items
from rlhf_mini.rankings.judgements import standing
from rlhf_mini.rankings.record import Ranking, are_ratings, are_tie_groups, is_name
from rlhf_mini.rankings.store import RankingStore, timestamp_now
from rlhf_mini.texts import plain

Judge = Callable[[str, list[str]], Sequence[Sequence[int]]]


class Progress(NamedTuple):
    """How many items are answered or skipped, and how many there are."""

    done: int
    total: int


class RankingSession:
    """One annotator judges items one by one; each answer is in the store before the next item is shown.

    The session continues where the same annotator stopped: items with an answer or a skip in the store are done.
    An item is a prompt with its completions: a pair of them, or what has fields of these names.
    The order on the screen depends only on seed, annotator and item. With `simulated`, the ids depend only on seed
    and answers, and no seconds are counted, so that a run can be repeated.
    Raises: InputError unless every item is a prompt with 2 to 9 completions, given once.
    """

    def __init__(self, items: Iterable[tuple[str, Sequence[str]] | Mapping[str, Any]], annotator: str,
                 store: RankingStore | None = None, seed: int = 0, session: str | None = None,
                 simulated: bool = False) -> None:
        if store is not None and not isinstance(store, RankingStore):
            raise InputError(f"store is {shown(store)}: give a RankingStore(folder, annotator)")
        if not is_name(annotator) or (store is not None and store.annotator != annotator):
            expected = f"{shown(store.annotator)}, as the store does" if store else "a name, in any language"
            raise InputError(f"annotator is {shown(annotator)}: give {expected}")
        if session is not None and not isinstance(session, str):
            raise InputError(f"session is {shown(session)}: give a text, or leave it out")
        self.annotator = annotator
        self.store = store
        self.seed = seed
        self.simulated = simulated
        self.session = session or (f"simulated-{seed}" if simulated else str(uuid.uuid4()))
        self.records: list[Ranking] = []  # written by this session, oldest first
        self.watchers: list[Callable[[], None]] = []  # called after each act, whoever acted: forms show the new item
        self._items = make_items(items, annotator, seed)
        self._index: int | None = None  # the item to judge now; None when all are done
        self._shown_at: float | None = None  # when it was first asked for
        self._resume()

    def _resume(self) -> None:
        """Continue the annotator's history; `_acts` holds (item, id) of what can be undone, oldest first."""
        history = self.store.records() if self.store else []
        own = [record for record in history if record.annotator == self.annotator]
        place = {item.key: index for index, item in enumerate(self._items)}
        self._earlier = len(own)
        self._acts = [(place[record.item], record.id) for record in standing(own) if record.item in place]
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
        return Progress(len({index for index, _ in self._acts}), len(self._items))

    def submit(self, ranking: Sequence[Sequence[int]]) -> Ranking:
        """Rank the current item: tie groups of positions on the screen, best first; returns the saved record.

        Raises: InputError if a position is missing or given twice; NotSavedError if the record is not saved. After
        an error the same item is still the current one.
        """
        item = self._items[self._current_index()]
        given = plain(ranking)
        if not are_tie_groups(given, len(item.completions)):
            raise InputError(f"ranking is {shown(ranking)}: give tie groups, best first, such as [[1], [0]], "
                             f"with each position 0 to {len(item.completions) - 1} once")
        groups = [sorted(item.shown_order[position] for position in group) for group in given]
        return self._answer("ranking", ranking=groups)

    def rate(self, ratings: Sequence[int]) -> Ranking:
        """Rate the current item: 1 (worst) to 7 for each position on the screen; equal ratings tie.

        Raises: InputError if they are not whole numbers from 1 to 7; NotSavedError if the record is not saved.
        """
        item = self._items[self._current_index()]
        given = plain(ratings, floats=True)
        if not are_ratings(given, len(item.completions)):
            raise InputError(f"ratings are {shown(ratings)}: give a whole number from 1 to 7 "
                             f"for each of {len(item.completions)} positions")
        by_index = [rating for _, rating in sorted(zip(item.shown_order, given, strict=True))]
        return self._answer("rating", ratings=by_index)

    def skip(self) -> Ranking:
        """Skip the current item. Raises: NotSavedError if the record is not saved."""
        return self._answer("skip")

    def undo(self) -> Ranking:
        """Take back the latest answer or skip and return to its item; repeated calls go back to the first.

        Where the item has an older answer, that one holds until the item is judged again.

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
        time_now = self.store.timestamp(timestamp_now()) if self.store else timestamp_now()
        record = Ranking(id=self._new_id(kind, item, answer), kind=kind, prompt=item.prompt,
                         completions=item.completions, shown_order=item.shown_order, annotator=self.annotator,
                         session=self.session, timestamp=time_now, seconds=round(seconds, 3), **answer)
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
