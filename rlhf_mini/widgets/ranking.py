"""The ranking widget: cards side by side, which are ranked or rated by keyboard, click or drag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from rlhf_mini.rankings import RankingSession
from rlhf_mini.widgets.controller import RankingController
from rlhf_mini.widgets.plain import PlainRanking

HERE = Path(__file__).parent


class RankingWidget(anywidget.AnyWidget):
    """Cards for the items of a session. Every answer is on the disk before the next item is shown.

    Keys: the numbers of the cards from best to worst, T ties the latest card with the one before, Backspace takes the
    latest back, Enter submits, S skips, U undoes, arrows move. With `rating`, the numbers 1 to 7 rate the card that
    has the focus. Where a keyboard has no such digit or letter, the key in its place does the same.
    When the session and the widget are made again, after a restart of the kernel too, the annotator continues where
    they stopped.
    """

    _esm = HERE / "ranking.js"
    _css = HERE / "ranking.css"
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, session: RankingSession, rating: bool = False) -> None:
        self.controller = RankingController(session, rating)
        super().__init__(view=self.controller.view())
        self.controller.changed = self._redraw
        self.on_msg(self._receive)

    def act(self, **act: Any) -> dict[str, Any]:
        """Do the same as a person's act, as in `act(act="submit", ranking=[[0], [1]])`; returns the view after it."""
        self.view = self.controller.handle(act)
        return self.view

    def _redraw(self) -> None:
        self.view = self.controller.view()

    def _receive(self, widget: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict):
            self.view = self.controller.handle(content)
            # Always reply, even if the view has not changed.
            self.send({"act": content.get("act"), "to": content.get("turn"), "error": self.controller.error})


def ranking_widget(session: RankingSession, rating: bool = False, plain: bool = False) -> RankingWidget | PlainRanking:
    """The widget for a session; `plain` uses ipywidgets alone, for front ends that cannot load anywidget."""
    return PlainRanking(session, rating) if plain else RankingWidget(session, rating)
