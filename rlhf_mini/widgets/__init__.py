"""What a notebook shows and a person touches. Only notebooks and tests import this.

    store = RankingStore("my_rankings", "Ada")
    session = RankingSession(items, "Ada", store)
    RankingWidget(session)                # rank with the keyboard, by click or by drag
    RankingWidget(session, rating=True)   # or give each completion 1 to 7
    ranking_widget(session, plain=True)   # the same in plain ipywidgets, where anywidget cannot load
    KLMicroscope(views, kl_coef)          # one ending token by token; `microscope.look` makes the views
"""

from typing import Any

from rlhf_mini.widgets.desk import Desk
from rlhf_mini.widgets.plain import PlainRanking
from rlhf_mini.widgets.ranking import RankingWidget, ranking_widget

__all__ = ["Desk", "KLMicroscope", "PlainRanking", "RankingWidget", "ranking_widget"]


def __getattr__(name: str) -> Any:
    """The microscope brings torch along, which takes seconds: only those who ask for it wait."""
    if name == "KLMicroscope":
        from rlhf_mini.widgets.microscope import KLMicroscope

        return KLMicroscope
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
