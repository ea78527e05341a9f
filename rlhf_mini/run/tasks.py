"""What the loop learns from and is tested on: the embedded tales, or somebody's own ranking files."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_mini import rankings, tales
from rlhf_mini.config import RunConfig
from rlhf_mini.errors import InputError
from rlhf_mini.rankings import Ranking, RankingSession
from rlhf_mini.run.progress import progress

TEST_SHARE = 1 / 6  # of the judged prompts, kept from the reward model
PPO_PROMPTS = 4096
TALES_SHARE = 0.25  # of the endings in ranking files must be tales for the reader's verdicts to mean anything


def seed_for(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, so that no stage's randomness depends on what ran before it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Task:
    """Prompts to practise on and to be tested on, demonstrations, and judgements if people gave them."""

    prompts: list[str]
    held_out: list[str]  # one per evaluation sample
    demonstrations: list[tuple[str, str]]
    to_judge: list[str]  # for the simulated panel; empty where judgements are given
    test_prompts: frozenset[str]  # their judgements test the reward model
    judgements: list[Ranking]  # given ones; empty where the panel is to judge
    reason: str | None = None  # why the reader of tales has nothing to say, if it has not
    panel: bool = True  # the simulated panel judged, so its true probabilities are the ceiling

    @property
    def tales_world(self) -> bool:
        """Whether gold reward, grammar and coherence are known."""
        return self.reason is None


def given_rankings(config: RunConfig, copy: Path) -> list[Ranking]:
    """The records of the user's ranking files, if any, or of the copy that a stopped run made."""
    if not config.rankings:
        return []
    return rankings.load_rankings([copy] if copy.exists() else config.rankings)


def make_task(config: RunConfig, given: Sequence[Ranking]) -> Task:
    """What the loop is about: the given rankings, else tales."""
    return rankings_task(config, given) if given else tales_task(config)


def tales_task(config: RunConfig) -> Task:
    """The embedded world: stories from the grammar, openings for the panel, held-out ones for every test."""
    first = seed_for(config.seed, "demonstrations") << 32
    tests = max(1, round(TEST_SHARE * config.openings))
    test_openings = tales.openings(tests, seed_for(config.seed, "test openings"), "held_out")
    judged = tales.openings(config.openings - tests, seed_for(config.seed, "judged openings"), "train")
    return Task(prompts=tales.openings(PPO_PROMPTS, seed_for(config.seed, "prompts"), "train"),
                held_out=tales.openings(config.samples, seed_for(config.seed, "evaluation"), "held_out"),
                demonstrations=[tales.write(first + i, "train") for i in range(config.demonstrations)],
                to_judge=judged + test_openings, test_prompts=frozenset(test_openings), judgements=[])


def rankings_task(config: RunConfig, records: Sequence[Ranking]) -> Task:
    """Somebody's own judgements: their prompts, and as demonstrations the completions they ranked best.

    Raises: InputError if those to learn from prefer nothing to anything, if all are about a single prompt, or if one
    of their texts cannot be written.
    """
    judgements = in_order(records)
    _check_texts(judgements)
    prompts = sorted({judgement.prompt for judgement in judgements})
    pairs = rankings.to_pairs(judgements)
    if len(prompts) < 2 or not pairs:
        raise InputError(f"there are {len(prompts)} ranked prompts and {len(pairs)} preferences: rank "
                         "at least two prompts, and not everything as tied")
    random.Random(seed_for(config.seed, "test prompts")).shuffle(prompts)
    tests = max(1, round(TEST_SHARE * len(prompts)))
    test, train = prompts[:tests], prompts[tests:]
    practise = divide(judgements, test)[0]
    if not rankings.to_pairs(practise):
        raise InputError(f"the {len(train)} prompts to learn from hold no preference, and the {tests} of the test "
                         "do: rank more prompts, and not everything as tied")
    best = {(judged.prompt, judged.completions[i]): None for judged in practise for i in judged.ranking[0]}
    names = {annotator.name for annotator in tales.PANEL}
    return Task(prompts=train, held_out=[test[i % tests] for i in range(config.samples)],
                demonstrations=list(best), to_judge=[], test_prompts=frozenset(test), judgements=judgements,
                reason=_not_tales(judgements), panel={r.annotator for r in judgements} <= names)


def ask_panel(items: Sequence[tuple[str, Sequence[str]]], by_all: int, folder: Path,
              seed: int) -> list[Ranking]:
    """Let the simulated panel rank the items, through the same session as a person.

    Every annotator ranks the first `by_all` of them, one each the others. What a stopped run already has in
    `folder` is not asked again.
    """
    panel = progress(tales.PANEL, len(tales.PANEL), "judging", lambda annotator: annotator.name)
    for number, annotator in enumerate(panel):
        mine = [item for i, item in enumerate(items) if i < by_all or i % len(tales.PANEL) == number]
        store = rankings.RankingStore(folder, annotator.name)
        let_judge(rankings.RankingSession(mine, annotator.name, store, seed, simulated=True), annotator, seed)
    return rankings.RankingStore(folder, "all").records()


def let_judge(session: RankingSession, annotator: tales.Annotator, seed: int = 0,
              scale: tuple[float, float] | None = None) -> list[Ranking]:
    """Let a simulated annotator judge what is left, through the session that a person uses; returns its records.

    It ranks. With a `scale`, the mean and standard deviation of what it thinks of endings, it gives 1 to 7 points.
    """
    def rng(prompt: str) -> random.Random:
        return random.Random(f"{seed} {annotator.name} {prompt}")

    if scale is None:
        return rankings.answer(session, lambda prompt, shown: annotator.rank(prompt, shown, rng(prompt)))
    with session.store.batch() if session.store else contextlib.nullcontext():
        while (item := session.current) is not None:
            session.rate(own_marks(annotator.impressions(item.prompt, item.shown, rng(item.prompt)), *scale))
    return session.records


def own_marks(impressions: Iterable[float], mean: float, deviation: float) -> list[int]:
    """1 to 7 points, half a standard deviation apart, 4 for what is usual: everybody rates on a scale of their own."""
    return [max(1, min(7, 4 + round(2 * (x - mean) / deviation))) for x in impressions]


def in_order(records: Iterable[Ranking]) -> list[Ranking]:
    """The judgements that hold, in an order that does not depend on when they were given."""
    held = [record for record in rankings.current(records) if record.ranking]  # no skips
    return sorted(held, key=lambda record: (record.prompt, record.annotator, record.completions))


def divide(judgements: Iterable[Ranking], test: Collection[str]) -> tuple[list[Ranking], list[Ranking]]:
    """Judgements to learn from and, of the prompts in `test`, to be tested on."""
    parts: tuple[list[Ranking], list[Ranking]] = ([], [])
    for judged in judgements:
        parts[judged.prompt in test].append(judged)
    return parts


def _check_texts(judgements: Sequence[Ranking]) -> None:
    """Raises: InputError naming a record with half a character in it, a lone surrogate: UTF-8 has no place for it."""
    for judged in judgements:
        for text in (judged.prompt, *judged.completions):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InputError(f"the ranked text {text[:60]!r} (record {judged.id}) holds half a character: mend "
                                 "that line, or remove it") from None


def _not_tales(judgements: Sequence[Ranking]) -> str | None:
    """Why the reader cannot judge this text, or None where enough of it are tales."""
    read = [tales.read(r.prompt, completion).grammatical for r in judgements for completion in r.completions]
    if sum(read) >= TALES_SHARE * len(read):
        return None
    return f"the ranked text is not tales: the reader understands {sum(read)} of {len(read)} completions"
