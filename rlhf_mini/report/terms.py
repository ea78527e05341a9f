"""Terms in the prose of a report: each is linked, where it first stands, to its meaning at the end of the page."""

from __future__ import annotations

import re

from rlhf_mini.glossary import GLOSSARY
from rlhf_mini.report.html import Html, join, tag

# How a term stands in a sentence, where that is not its name.
WORDS = {"KL": "KL divergence", "fine-tuned": "fine-tune", "demonstrations": "demonstration", "nats": "nat",
         "annotators": "annotator", "tokens": "token", "endings": "ending", "openings": "prompt", "opening": "prompt",
         "Score": "score", "Gold": "gold", "Best of n": "best of n", "rankings": "ranking", "policies": "policy"}
# Names of terms that a report uses in another sense.
OTHER_SENSE = ("advantage", "agreement", "mask", "value", "return", "head", "loss", "ratio", "clip", "rating",
               "baseline", "trunk", "whiten", "padding")


class Terms:
    """The terms that a page has used so far. Only prose goes through it: what a model wrote has no terms."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def linked(self, text: str) -> Html:
        """The text, with a link at each term that stands here for the first time on the page."""
        parts: list[object] = []
        end = 0
        for found in PATTERN.finditer(text):
            name = WORDS.get(found[0], found[0])
            if name not in self.used:
                self.used.append(name)
                parts += [text[end:found.start()], _link(name, found[0])]
                end = found.end()
        return join(*parts, text[end:])

    def entries(self) -> Html:
        """The meanings of all terms that were linked, in alphabetical order, with their names in Chinese."""
        return tag("dl", *(_entry(name) for name in sorted(self.used, key=str.lower)))


def _link(name: str, word: str) -> Html:
    return tag("a", word, href=f"#{_id(name)}", title=GLOSSARY[name].meaning, class_="term")


def _entry(name: str) -> Html:
    term = GLOSSARY[name]
    return tag("div", tag("dt", name, " ", tag("span", term.chinese, lang="zh")), tag("dd", term.meaning),
               id=_id(name))


def _id(name: str) -> str:
    return "term-" + re.sub(r"\W+", "-", name.lower())


def _pattern() -> re.Pattern[str]:
    words = sorted({*WORDS, *GLOSSARY} - {*OTHER_SENSE}, key=len, reverse=True)  # "KL coefficient" before "KL"
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, words)) + r")(?![\w-])")


PATTERN = _pattern()
