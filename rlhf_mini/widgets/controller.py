"""Between a session and its user interface: what to show now, and what to do when a person acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.rankings import NotSavedError, RankingSession

Act = Mapping[str, Any]  # {"act": "submit", "item": 3, "ranking": [[1], [0, 2]]}: see `RankingController.handle`


class RankingController:
    """Passes a person's acts to the session and returns what to show; all widgets share it, so they behave alike."""

    def __init__(self, session: RankingSession, rating: bool = False) -> None:
        self.session = session
        self.rating = rating
        self.turn = 0  # the number of the current view; an act on an older view is ignored
        self.error = ""
        self.saved = ""

    def view(self) -> dict[str, Any]:
        """What to show, as JSON values.

        `shown` holds the completions by position. `saved` says how the latest act was saved, and `error` why it failed.
        """
        item = self.session.current
        done, total = self.session.progress
        return {"turn": self.turn, "rating": self.rating, "annotator": self.session.annotator,
                "prompt": item.prompt if item else "", "shown": item.shown if item else [],
                "finished": item is None, "done": done, "total": total, "can_undo": self.session.can_undo,
                "saved": self.saved, "error": self.error}

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
        try:
            record = self._answer(act)
        except (InputError, NotSavedError) as error:
            self.error, self.saved = str(error), ""
            return self.view()
        self.turn += 1
        self.error = ""
        self.saved = self._saved_text(record.kind)
        return self.view()

    def _answer(self, act: Act) -> Any:
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

    def _saved_text(self, kind: str) -> str:
        what = {"ranking": "ranking", "rating": "ratings", "skip": "skip", "undo": "undo"}[kind]
        if self.session.store is None:
            return f"{what} kept in memory only, because this session has no store"
        return f"{what} saved"
