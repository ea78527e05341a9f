"""Widgets for notebooks. Only notebooks and tests import this.

    store = RankingStore("my_rankings", "Ada")
    session = RankingSession(items, "Ada", store)
    RankingWidget(session)                # rank with the keyboard, by click or by drag
    RankingWidget(session, rating=True)   # or give each completion 1 to 7
    ranking_widget(session, plain=True)   # the same in plain ipywidgets, for front ends that cannot load anywidget
    KLMicroscope(views, kl_coef)          # one ending token by token; `token_views.view_tokens` makes the views
"""

from typing import Any

from rlhf_mini.widgets.controller import RankingController
from rlhf_mini.widgets.plain import PlainRanking
from rlhf_mini.widgets.ranking import RankingWidget, ranking_widget

__all__ = ["KLMicroscope", "PlainRanking", "RankingController", "RankingWidget", "ranking_widget"]


def __getattr__(name: str) -> Any:
    """Import the microscope on first use: it imports torch, which takes seconds."""
    if name == "KLMicroscope":
        from rlhf_mini.widgets.microscope import KLMicroscope

        return KLMicroscope
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
