"""The ranking widget: cards side by side, ranked or rated by keyboard, click or drag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from rlhf_mini.rankings import RankingSession
from rlhf_mini.widgets.desk import Desk
from rlhf_mini.widgets.plain import PlainRanking

HERE = Path(__file__).parent


class RankingWidget(anywidget.AnyWidget):
    """Cards over a session. Every answer is on the disk before the next item is shown.

    Keys: the cards' numbers from best to worst, T ties the latest with the one before, Enter submits, S skips,
    U undoes, arrows move. With `rating`, the numbers 1 to 7 rate the card that has the focus.
    Run the cell again, after a restart of the kernel too, and it goes on where the annotator was.
    """

    _esm = HERE / "ranking.js"
    _css = HERE / "ranking.css"
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, session: RankingSession, rating: bool = False) -> None:
        self.desk = Desk(session, rating)
        super().__init__(view=self.desk.view())
        self.on_msg(self._receive)

    def act(self, **act: Any) -> dict[str, Any]:
        """Do what a person would do by hand: `act(act="submit", ranking=[[0], [1]])`; returns the view after it."""
        self.view = self.desk.do(act)
        return self.view

    def _receive(self, widget: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict):
            self.view = self.desk.do(content)
            self.send({"turn": self.desk.turn, "error": self.desk.error})  # an answer, even if nothing changed


def ranking_widget(session: RankingSession, rating: bool = False, plain: bool = False) -> RankingWidget | PlainRanking:
    """The widget for a session; `plain` makes it of ipywidgets alone, for front ends where anywidget cannot load."""
    return PlainRanking(session, rating) if plain else RankingWidget(session, rating)
