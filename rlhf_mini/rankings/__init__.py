"""Judgements of completions: the record, the durable store, the session, and what is computed from them.

    store = RankingStore("my_rankings", "Ada")
    session = RankingSession([("A prompt.", ["One ending.", "Another."])], "Ada", store, seed=0)
    session.current.shown       # the completions in the order of the screen
    session.submit([[1], [0]])  # tie groups of positions, best first; the record is on the disk when it returns
    to_pairs(store.records())   # [(prompt, chosen, rejected)]

Nothing here imports torch.
"""

from rlhf_mini.files import NotSavedError
from rlhf_mini.rankings.collected import load_rankings, merge, save_rankings
from rlhf_mini.rankings.comparison import Agreement, AnnotatorSummary, Statistic, agreement
from rlhf_mini.rankings.durable import RankingFileWarning
from rlhf_mini.rankings.formats import split_conversations
from rlhf_mini.rankings.interchange import from_dataset, load_preferences, to_dataset
from rlhf_mini.rankings.items import Item
from rlhf_mini.rankings.judgements import chronological, current, to_pairs, unique_by_id
from rlhf_mini.rankings.record import Ranking, ranking_from_ratings
from rlhf_mini.rankings.session import Progress, RankingSession, answer
from rlhf_mini.rankings.store import RankingStore

__all__ = [
    "Agreement",
    "AnnotatorSummary",
    "Item",
    "NotSavedError",
    "Progress",
    "Ranking",
    "RankingFileWarning",
    "RankingSession",
    "RankingStore",
    "Statistic",
    "agreement",
    "answer",
    "chronological",
    "current",
    "from_dataset",
    "load_preferences",
    "load_rankings",
    "merge",
    "ranking_from_ratings",
    "save_rankings",
    "split_conversations",
    "to_dataset",
    "to_pairs",
    "unique_by_id",
]
