"""What a notebook shows and a person touches. Only notebooks and tests import this.

    store = RankingStore("my_rankings", "Ada")
    session = RankingSession(items, "Ada", store)
    RankingWidget(session)                # rank with the keyboard, by click or by drag
    RankingWidget(session, rating=True)   # or give each completion 1 to 7
    ranking_widget(session, plain=True)   # the same in plain ipywidgets, where anywidget cannot load
"""

from rlhf_mini.widgets.desk import Desk
from rlhf_mini.widgets.plain import PlainRanking
from rlhf_mini.widgets.ranking import RankingWidget, ranking_widget

__all__ = ["Desk", "PlainRanking", "RankingWidget", "ranking_widget"]
