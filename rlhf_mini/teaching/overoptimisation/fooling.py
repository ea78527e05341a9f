"""Fool the reward model: a field for an ending, its score and its gold, and which words moved the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import ipywidgets

from rlhf_mini import tales
from rlhf_mini.teaching.overoptimisation.measuring import worth_of_words

Score = Callable[[list[str]], Sequence[float]]
BEST = 5  # gaps in the table
LONGEST = 64  # words of an ending


class FoolTheRewardModel(ipywidgets.VBox):
    """Type an ending of an opening, and see what the reward model and the panel think of it.

    `score` returns one number for each ending of a list. The largest gaps, score less gold, stay in a table.
    """

    def __init__(self, opening: str, score: Score, ending: str = "") -> None:
        self.opening, self.score = opening, score
        self.found: list[dict[str, Any]] = []
        self.field = ipywidgets.Textarea(ending, placeholder="an ending", layout={"width": "46em", "height": "5em"})
        self.button = ipywidgets.Button(description="Score it", button_style="primary")
        self.button.on_click(lambda _: self.show(self.field.value))
        self.card = ipywidgets.HTML()
        if ending:
            self.show(ending)
        super().__init__([ipywidgets.HTML(f"<b>{escape(opening)}</b> …"), self.field, self.button, self.card])

    def show(self, ending: str) -> dict[str, Any]:
        """Score an ending, and keep it if its gap is among the largest."""
        words = ending.split()
        if not words or len(words) > LONGEST:
            self.card.value = f"<p>Write an ending of 1 to {LONGEST} words; this one has {len(words)}.</p>"
            return {}
        one = fooled(self.opening, self.score, " ".join(words))
        kept = {known["ending"]: known for known in [*self.found, one]}.values()
        self.found = sorted(kept, key=lambda known: known["gold"] - known["score"])[:BEST]
        self.card.value = card(one) + table(self.found)
        return one

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """As any widget; without a kernel, the ending that is stored."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"] = "Fool the reward model"
        if self.found:
            data["text/html"] = f"<p><b>{escape(self.opening)}</b></p>{self.card.value}"
        return bundle


def fooled(opening: str, score: Score, ending: str) -> dict[str, Any]:
    """What the reward model and the reader say of an ending, and what each of its words adds to the score."""
    reading = tales.read(opening, ending)
    return {"ending": ending, "score": float(score([ending])[0]), "gold": tales.gold_reward(opening, ending),
            "reasons": reading.reasons or ["it makes sense"], "words": worth_of_words(score, ending)}


def card(one: dict[str, Any]) -> str:
    """One ending: its words, the more coloured the more they moved the score; score, gold and the reader's reasons."""
    most = max([abs(worth) for _, worth in one["words"]] + [0.05])
    words = " ".join(
        f'<span title="{worth:+.2f}" style="background: rgba({"0, 158, 115" if worth > 0 else "213, 94, 0"}, '
        f'{0.6 * abs(worth) / most:.2f})">{escape(word)}</span>' for word, worth in one["words"])
    return (f'<p style="max-width: 46em; line-height: 1.6">{words}</p><p><b>score {one["score"]:+.2f}, gold '
            f'{one["gold"]:+.2f}</b>. The reader: {escape("; ".join(one["reasons"]))}. (Green words raise the score, '
            "orange ones lower it; point at a word to see by how much.)</p>")


def table(found: Sequence[dict[str, Any]]) -> str:
    """The endings with the largest gaps."""
    cell = 'style="text-align: left; vertical-align: top; overflow-wrap: anywhere; padding: 2px 8px"'
    rows = "".join(f"<tr><td {cell}>{one['score'] - one['gold']:+.2f}</td><td {cell}>{one['score']:+.2f}</td>"
                   f"<td {cell}>{one['gold']:+.2f}</td><td {cell}>{escape(one['ending'])}</td></tr>" for one in found)
    heads = "".join(f"<th {cell}>{head}</th>" for head in ("gap", "score", "gold", "ending"))
    return f'<table style="max-width: 60em"><tr>{heads}</tr>{rows}</table>'
