"""Between a session and its user interface: what to show now, and what to do when a person acts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.rankings import Item, NotSavedError, Ranking, RankingSession

Act = Mapping[str, Any]  # {"act": "submit", "item": 3, "ranking": [[1], [0, 2]]}: see `RankingController.handle`
NEXT = "Next: run the cells below this one, one after the other (Shift + Enter)."


class RankingController:
    """Passes a person's acts to the session and returns what to show; all widgets share it, so they behave alike.

    `changed` is called when somebody else acts on the session: a program, or another widget.
    """

    def __init__(self, session: RankingSession, rating: bool = False) -> None:
        self.session = session
        self.rating = rating
        self.turn = 0  # the number of the current view; an act on an older view is ignored
        self.error = ""
        self.saved = ""
        self.before: dict[str, Any] | None = None  # the answer that was just taken back, to be corrected
        self.changed: Callable[[], None] = lambda: None
        self._acting = False
        session.watchers.append(self._notice)

    def view(self) -> dict[str, Any]:
        """What to show, as JSON values.

        `shown` holds the completions by position. `saved` says how the latest act was saved, and `error` why it
        failed. `before` has the `ranking` or the `ratings` by position that an undo took back, or is None. `closing`
        is the message at the end.
        """
        item = self.session.current
        done, total = self.session.progress
        return {"turn": self.turn, "rating": self.rating, "annotator": self.session.annotator,
                "prompt": item.prompt if item else "", "shown": item.shown if item else [],
                "finished": item is None, "done": done, "total": total, "can_undo": self.session.can_undo,
                "saved": self.saved, "error": self.error, "before": self.before,
                "closing": "" if item else self._closing(total)}

    def handle(self, act: Act) -> dict[str, Any]:
        """Do one act of a person, and return the view after it.

        Acts: "submit" with `ranking` (tie groups of positions, best first) or `ratings` (1 to 7 by position), "skip",
        "undo", and "seen", which starts the clock of an item. Each has the `turn` of the view that it belongs to.
        """
        if act.get("turn", self.turn) != self.turn:
            return self.view()
        if act.get("act") == "seen":
            self.session.restart_clock()
            return self.view()
        self._acting = True
        try:
            record = self._answer(act)
        except (InputError, NotSavedError) as error:
            self.error, self.saved = str(error), ""
            return self.view()
        finally:
            self._acting = False
        self.saved = self._saved_text(record.kind)
        self.before = self._taken_back(record) if record.kind == "undo" else None
        return self.view()

    def _notice(self) -> None:
        """The session shows another item: an act on the one before must not reach it."""
        self.turn += 1
        self.error = self.saved = ""
        self.before = None
        if not self._acting:
            self.changed()

    def _answer(self, act: Act) -> Ranking:
        match act.get("act"):
            case "submit" if self.rating:
                return self.session.rate(act.get("ratings") or [])
            case "submit":
                return self.session.submit(act.get("ranking") or [])
            case "skip":
                return self.session.skip()
            case "undo":
                return self.session.undo()
            case other:
                raise InputError(f"act is {other!r}: give submit, skip, undo or seen")

    def _taken_back(self, undo: Ranking) -> dict[str, Any] | None:
        """The answer that an undo took back, by position on the screen; None for a skip."""
        known = list(self.session.records)
        with suppress(InputError, OSError):  # the undo holds, even where the files of earlier sessions cannot be read
            known += self.session.store.records() if self.session.store else []
        undone = next((record for record in known if record.id == undo.undoes), None)
        item = self.session.current
        return by_position(undone, item) if undone and undone.ranking and item else None

    def _saved_text(self, kind: str) -> str:
        what = {"ranking": "ranking", "rating": "ratings", "skip": "skip", "undo": "undo"}[kind]
        if self.session.store is None:
            return f"{what} kept in memory only, because this session has no store"
        return f"{what} saved"

    def _closing(self, total: int) -> str:
        if not total:
            return f"There is nothing to rank. {NEXT}"
        where = "saved" if self.session.store else "kept in memory only"
        return f"All {total} are done and {where}. {NEXT}"


def by_position(record: Ranking, item: Item) -> dict[str, Any]:
    """The `ranking` of a record as positions on the screen, and its `ratings` by position if it has them."""
    free: dict[str, list[int]] = defaultdict(list)  # equal texts stand at several positions
    for position, text in enumerate(item.shown):
        free[text].append(position)
    position_of = [free[text].pop(0) for text in record.completions]
    answer: dict[str, Any] = {"ranking": [sorted(position_of[index] for index in group) for group in record.ranking]}
    if record.ratings:
        answer["ratings"] = [rating for _, rating in sorted(zip(position_of, record.ratings, strict=True))]
    return answer
