"""Sentence patterns: the small language of data/*.txt, expanded into variants that writer and reader share.

A pattern is one line of text with choices `{a|b}`, words that may be left out `[softly ]`, roles in
capitals (HERO, FRIEND, NEW, THING, PLACE, SPECIES, ADJ) and pronouns of the hero `<he>`; THE, IT and AN THING are
short for the ways to name the thing again. Marks before it: k kindness, v vividness, x how often it is chosen.
The header above it says what must be so before the sentence and what is so after it. `~ship` in it names a thread:
before the `>` the one that the tale must be in, after it the next one; a bare `~` leaves the thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from rlhf_mini.tales.lexicon import CLASS_OF_ROLE, CLASSES, DATA, FILLERS, PRONOUNS, THREADS, tokenise

THING_STATES = ("wanted", "here", "broken", "lost", "given", "eaten")
COMPANY = ("alone", "together")
MOODS = ("calm", "glad", "sad", "cross")
ORIGINS = ("found", "own")  # a found thing may belong to somebody else; what the hero gets in a tale is own
NO_THREAD = "~"
BRIEF = 34  # a brief sentence has at most so many characters
SHORTHANDS = {"AN THING": "{a ADJC|an ADJV} THING", "THE": "the [ADJ ]THING", "IT": "{it|the [ADJ ]THING}"}
_SHORTHAND = re.compile(r"\bAN THING\b|\bTHE\b|\bIT\b")


@dataclass(frozen=True)
class Token:
    """One word or mark of a variant: literal text, or a role to be filled."""

    text: str  # with its leading space
    role: str | None = None  # HERO, THING, …; PRONOUN for the hero's pronouns
    optional: int = 0  # the number of its [group]; 0 if the token is not optional


@dataclass(frozen=True)
class Variant:
    """One way to say a pattern."""

    tokens: tuple[Token, ...]
    gender: str | None  # the hero's, if a pronoun shows it
    roles: tuple[str, ...]  # the roles to fill, in the order of the text

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens).strip()


@dataclass(frozen=True, eq=False)  # patterns are compared and hashed by identity
class Pattern:
    """One sentence (an opening may have two) with its conditions, its effects and its marks."""

    text: str
    needs: frozenset[str]  # of THING_STATES, COMPANY, MOODS, ORIGINS; a kind that is not named may be anything
    sets: frozenset[str]  # new states, plus "friend" and "end"
    thread: str  # the thread that the tale must be in: "~ship", or NO_THREAD
    next_thread: str | None  # the thread after the sentence; None if it does not change
    thing_tags: frozenset[str]  # the thing must have one of these, if there are any
    place_tags: frozenset[str]
    kindness: int
    vividness: int
    weight: int  # how often it is chosen, relative to the others that may follow
    variants: tuple[Variant, ...]

    @cached_property
    def closes(self) -> bool:
        return "end" in self.sets

    @cached_property
    def brief(self) -> bool:
        """Whether it may be used in an ending of many sentences."""
        return len(self.variants[0].text) <= BRIEF


def _alternatives(text: str) -> Iterator[list[tuple[str, int]]]:
    """Expand choices and optional words into lists of (text, optional group)."""
    match = re.search(r"\{([^{}]*)\}|\[([^\[\]]*)\]", text)
    if match is None:
        yield [(text, 0)]
        return
    before, after = text[: match.start()], text[match.end() :]
    if match[1] is not None:
        for choice in match[1].split("|"):
            yield from _alternatives(before + choice + after)
    else:
        for rest in _alternatives(after):
            yield [(before, 0), *rest]
            yield [(before, 0), (match[2], match.start() + 1), *rest]


def _variant(parts: list[tuple[str, int]], gender: str) -> Variant:
    """Fill in pronouns and cut the parts into tokens."""
    tokens: list[Token] = []
    shows_gender = False
    spans, text = [], " "
    for part, group in parts:
        start = len(text)
        text += part
        spans.append((start, len(text), group))
    position = 0
    for raw in re.findall(r" ?<\w+>|" + r" ?[^\W\d_]+|'[a-z]+| ?[^\w\s]", text):
        middle = position + len(raw) - 1
        position += len(raw)
        group = next((g for a, b, g in spans if a <= middle < b), 0)
        word = raw.strip()
        if word.startswith("<"):
            pronoun = PRONOUNS[gender][word[1:-1].lower()]
            pronoun = pronoun.capitalize() if word[1].isupper() else pronoun
            tokens.append(Token(raw.replace(word, pronoun), "PRONOUN", group))
            shows_gender = True
        else:
            tokens.append(Token(raw, word if word in FILLERS else None, group))
    roles = tuple(t.role for t in tokens if t.role and t.role != "PRONOUN")
    return Variant(tuple(tokens), gender if shows_gender else None, roles)


def expand(text: str) -> tuple[Variant, ...]:
    """Every variant of a pattern's text, each once."""
    text = re.sub(r"^THE\b", "The [ADJ ]THING", text)
    text = _SHORTHAND.sub(lambda m: SHORTHANDS[m[0]], text)
    found: dict[Variant, None] = {}
    for parts in _alternatives(text):
        for gender in ("f", "m"):
            found[_variant(parts, gender)] = None
    return tuple(found)


_LINE = re.compile(r"(?P<marks>(?:[kvx]\d )*)(?P<text>.*?)(?P<tags>(?: [@#]\w+)*)")


def _states(half: str) -> tuple[str | None, frozenset[str]]:
    """The thread and the states that one half of a header names."""
    words = frozenset(half.split())
    threads = [word for word in words if word.startswith(NO_THREAD)]
    if len(threads) > 1:
        raise ValueError(f"a sentence belongs to one thread, not to {sorted(threads)}")
    return (threads[0] if threads else None), words - set(threads)


def load(name: str) -> tuple[Pattern, ...]:
    """Read a pattern file."""
    patterns: list[Pattern] = []
    needs: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    thread = next_thread = None
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            before, _, after = line[1:-1].partition(">")
            (thread, needs), (next_thread, sets) = _states(before), _states(after)
            unknown = (needs | sets) - {*THING_STATES, *COMPANY, *MOODS, *ORIGINS, "friend", "end"}
            named = {name for name in (thread, next_thread) if name is not None}
            unknown |= named - {NO_THREAD, *(NO_THREAD + name for name in THREADS)}
            if unknown:
                raise ValueError(f"{name}: unknown state {sorted(unknown)} in {line}")
            continue
        match = _LINE.fullmatch(line)
        assert match is not None  # the expression matches every line
        marks = {mark[0]: int(mark[1:]) for mark in match["marks"].split()}
        tags = match["tags"].split()
        patterns.append(Pattern(
            match["text"], needs, sets, thread or NO_THREAD, next_thread,
            frozenset(t[1:] for t in tags if t[0] == "@"), frozenset(t[1:] for t in tags if t[0] == "#"),
            marks.get("k", 0), marks.get("v", 0), marks.get("x", 1), expand(match["text"])))
    return tuple(patterns)


OPENINGS = load("openings.txt")
ENDINGS = load("endings.txt")


class Trie:
    """A prefix tree over the variants of many patterns, which finds the patterns that match a list of tokens.

    Its edges are literal tokens and word classes. A node with the key None ends at least one pattern.
    """

    def __init__(self, patterns: tuple[Pattern, ...]) -> None:
        self.root: dict = {}
        for number, pattern in enumerate(patterns):
            for variant in pattern.variants:
                self._add(variant, (number, variant.roles, variant.gender))
        self.patterns = patterns

    def _add(self, variant: Variant, end: tuple[int, tuple[str, ...], str | None]) -> None:
        node = self.root
        for token in variant.tokens:
            is_role = token.role in CLASS_OF_ROLE
            key = (CLASS_OF_ROLE[token.role],) if is_role and token.role else token.text
            node = node.setdefault(key, {})
        node.setdefault(None, []).append(end)

    def matches(self, tokens: list[str], start: int, classes: list[tuple[str, ...]]) -> tuple[list, int]:
        """All patterns that match from `start`: (end, pattern, (role, word) pairs, gender); and the furthest point."""
        found = []
        furthest = start
        stack: list[tuple[dict, int, tuple[str, ...]]] = [(self.root, start, ())]
        while stack:
            node, i, words = stack.pop()
            furthest = max(furthest, i)
            for number, roles, gender in node.get(None, ()):
                found.append((i, self.patterns[number], tuple(zip(roles, words, strict=True)), gender))
            if i == len(tokens):
                continue
            literal = node.get(tokens[i])
            if literal is not None:
                stack.append((literal, i + 1, words))
            for word_class in classes[i]:
                branch = node.get((word_class,))
                if branch is not None:
                    stack.append((branch, i + 1, (*words, tokens[i][1:])))
        return found, furthest


def tokens_and_classes(text: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """The tokens of a text that begins a sentence, and the word classes of each."""
    tokens = tokenise(" " + text)
    return tokens, [CLASSES.get(t[1:], ()) if t[0] == " " else () for t in tokens]


def vocabulary() -> tuple[str, ...]:
    """Every word that can occur in a tale, sorted: fillers, and the words of the patterns."""
    words = set(CLASSES)
    for pattern in (*ENDINGS, *OPENINGS):
        for variant in pattern.variants:
            words |= {t.text.strip() for t in variant.tokens if t.role is None and t.text.strip().isalpha()}
    return tuple(sorted(words))
