"""Between a session and what shows it: what is to be seen now, and what a person did with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.rankings import NotSavedError, RankingSession

Act = Mapping[str, Any]  # {"act": "submit", "item": 3, "ranking": [[1], [0, 2]]}: see `Desk.do`


class Desk:
    """Takes a person's acts to the session and says what to show, so that every form behaves alike."""

    def __init__(self, session: RankingSession, rating: bool = False) -> None:
        self.session = session
        self.rating = rating
        self.turn = 0  # counts what was shown: an act that answers something older does nothing
        self.error = ""
        self.saved = ""

    def view(self) -> dict[str, Any]:
        """What is to be seen: plain values that JSON can carry.

        `shown` holds the completions in the order of their positions; `saved` says what became of the latest act,
        `error` what went wrong with it.
        """
        item = self.session.current
        done, total = self.session.progress
        return {"turn": self.turn, "rating": self.rating, "annotator": self.session.annotator,
                "prompt": item.prompt if item else "", "shown": item.shown if item else [],
                "finished": item is None, "done": done, "total": total, "can_undo": self.session.can_undo,
                "saved": self.saved, "error": self.error}

    def do(self, act: Act) -> dict[str, Any]:
        """Do what a person asked for and return the view after it.

        Acts: "submit" with `ranking` (tie groups of positions, best first) or `ratings` (1 to 7 by position), "skip",
        "undo", and "seen", with which the time for an item begins. Each carries the `turn` of the view it answers.
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
        self.saved = self._what_became(record.kind)
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

    def _what_became(self, kind: str) -> str:
        what = {"ranking": "ranking", "rating": "ratings", "skip": "skip", "undo": "undo"}[kind]
        if self.session.store is None:
            return f"{what} kept in memory only: this session has no store"
        return f"{what} saved"
