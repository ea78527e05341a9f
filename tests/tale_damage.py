"""Ways to damage a tale. Whether a damaged text is still a proper tale is known from how it was built."""

from __future__ import annotations

import random
from collections.abc import Callable

from rlhf_mini.tales.grammar import Story, compose
from rlhf_mini.tales.lexicon import GENDER, NAMES, THINGS
from rlhf_mini.tales.patterns import Token, vocabulary

Damage = Callable[[Story, random.Random], "str | None"]  # None: this story cannot be damaged so
WORDS = vocabulary()  # listed once: gathering them takes longer than reading a tale


def _tokens(story: Story) -> list[Token]:
    return [token for sentence in story.sentences for token in sentence.tokens]


def _text(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens).strip()


def _is_word(token: Token) -> bool:
    return token.text.strip().isalpha()


def shuffle_words(story: Story, rng: random.Random) -> str | None:
    words = story.ending.split(" ")
    shuffled = rng.sample(words, len(words))
    return " ".join(shuffled) if shuffled != words else None


def drop_word(story: Story, rng: random.Random) -> str | None:
    """A word that must stand is dropped; one that is a whole [optional ] group by itself may go."""
    tokens = _tokens(story)
    sizes: dict[int, int] = {}
    for token in tokens:
        if token.optional:
            sizes[token.optional] = sizes.get(token.optional, 0) + 1
    places = [i for i, t in enumerate(tokens) if _is_word(t) and not (t.optional and sizes[t.optional] == 1)]
    i = rng.choice(places)
    return _text(tokens[:i] + tokens[i + 1 :])


def double_word(story: Story, rng: random.Random) -> str | None:
    tokens = _tokens(story)
    i = rng.choice([i for i, t in enumerate(tokens) if _is_word(t)])
    word = tokens[i].text if tokens[i].text.startswith(" ") else " " + tokens[i].text
    return _text([*tokens[:i + 1], Token(word), *tokens[i + 1:]])


_SWAP = {"he": "she", "him": "her", "his": "her", "himself": "herself", "she": "he", "herself": "himself"}
_PERSON = {"he": "I", "she": "you", "him": "me", "his": "my", "her": "your", "himself": "myself", "herself": "myself"}


def _swap_pronoun(story: Story, rng: random.Random, table: dict[str, str]) -> str | None:
    tokens = _tokens(story)
    places = [i for i, t in enumerate(tokens) if t.role == "PRONOUN" and t.text.strip().lower() in table]
    if not places:
        return None
    i = rng.choice(places)
    old = tokens[i].text.strip()
    new = table[old.lower()]
    new = new.capitalize() if old[0].isupper() else new
    return _text([*tokens[:i], Token(tokens[i].text.replace(old, new)), *tokens[i + 1:]])


def wrong_gender(story: Story, rng: random.Random) -> str | None:
    """The hero's pronoun in the other gender; the friend never has one in a tale."""
    her = {"her": rng.choice(["him", "his"])} if GENDER[story.scene.hero] == "f" else {}
    return _swap_pronoun(story, rng, _SWAP | her)


def wrong_person(story: Story, rng: random.Random) -> str | None:
    return _swap_pronoun(story, rng, _PERSON)


def unknown_friend(story: Story, rng: random.Random) -> str | None:
    """A name that was introduced is replaced by one that was not, wherever it comes back."""
    tokens = _tokens(story)
    places = [i for i, t in enumerate(tokens) if t.role == "FRIEND"]
    if not places:
        return None
    known = {story.scene.hero, *(t.text.strip() for t in tokens if t.role in ("FRIEND", "NEW"))}
    stranger = rng.choice([n for n in NAMES if n not in known])
    i = rng.choice(places)
    return _text([*tokens[:i], Token(" " + stranger), *tokens[i + 1:]])


def other_thing(story: Story, rng: random.Random) -> str | None:
    """Another thing than the one found, where the thing is named."""
    tokens = _tokens(story)
    places = [i for i, t in enumerate(tokens) if t.role == "THING"]
    if not places:
        return None
    i = rng.choice(places)
    other = rng.choice([t for t in THINGS if t != story.scene.thing])
    return _text([*tokens[:i], Token(" " + other), *tokens[i + 1:]])


def _cut(story: Story, rng: random.Random) -> str:
    """A beginning of the ending, without the last word at least."""
    words = story.ending.rstrip('."!?').split(" ")
    return " ".join(words[: rng.randint(1, len(words) - 1)])


def cut_off(story: Story, rng: random.Random) -> str | None:
    return _cut(story, rng)


def cut_with_full_stop(story: Story, rng: random.Random) -> str | None:
    return _cut(story, rng).rstrip('.,"!?') + "."


def two_endings(story: Story, rng: random.Random) -> str | None:
    return story.ending + " " + compose(rng.randrange(10**9)).ending


def random_words(story: Story, rng: random.Random) -> str | None:
    words = rng.choices(WORDS, k=len(story.ending.split()))
    return (" ".join(words)).capitalize() + "."


DAMAGES: dict[str, Damage] = {f.__name__: f for f in (
    shuffle_words, drop_word, double_word, wrong_gender, wrong_person, unknown_friend, other_thing, cut_off,
    cut_with_full_stop, two_endings, random_words)}
