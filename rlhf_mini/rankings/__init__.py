"""Judgements of completions: the record, a store that loses nothing, the session, and what follows.

    store = RankingStore("my_rankings", "Ada")
    session = RankingSession([("A prompt.", ["One ending.", "Another."])], "Ada", store, seed=0)
    session.current.shown       # the completions as a person sees them
    session.submit([[1], [0]])  # positions in tie groups, best first; on disk when it returns
    to_pairs(store.records())  # [(prompt, chosen, rejected)]

Nothing here imports torch.
"""

from rlhf_mini.rankings.comparison import Agreement, Annotator, Figure, agreement
from rlhf_mini.rankings.durable import NotSavedError, RankingFileWarning
from rlhf_mini.rankings.interchange import from_dataset, load_preferences, split_conversations, to_dataset
from rlhf_mini.rankings.judgements import chronological, current, each_once, to_pairs
from rlhf_mini.rankings.record import Ranking, ranking_from_ratings
from rlhf_mini.rankings.session import Item, Progress, RankingSession, answer
from rlhf_mini.rankings.store import RankingStore, load_rankings, merge, save_rankings

__all__ = [
    "Agreement",
    "Annotator",
    "Figure",
    "Item",
    "NotSavedError",
    "Progress",
    "Ranking",
    "RankingFileWarning",
    "RankingSession",
    "RankingStore",
    "agreement",
    "answer",
    "chronological",
    "current",
    "each_once",
    "from_dataset",
    "load_preferences",
    "load_rankings",
    "merge",
    "ranking_from_ratings",
    "save_rankings",
    "split_conversations",
    "to_dataset",
    "to_pairs",
]
