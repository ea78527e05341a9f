"""What a run learns from and is tested on: the embedded tales, or ranking files given by the user."""

from __future__ import annotations

import contextlib
import hashlib
import random
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_mini import files, rankings, tales, team
from rlhf_mini.errors import InputError, naming, shown
from rlhf_mini.rankings import Ranking, RankingSession
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.progress import progress
from rlhf_mini.texts import listed

TEST_SHARE = 1 / 6  # this share of the judged prompts tests the reward model
PPO_PROMPTS = 4096
TALES_SHARE = 0.25  # the reader judges a run on ranking files if this share of their completions are tales


def seed_for(seed: int, purpose: str) -> int:
    """A different seed for each purpose, so that the randomness of a stage does not depend on the stages before."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Task:
    """The prompts of training and test, the demonstrations, and the judgements if they are given."""

    prompts: list[str]  # PPO trains on these
    held_out: list[str]  # one for each evaluation sample
    demonstrations: list[tuple[str, str]]
    to_judge: list[str]  # the prompts for the simulated panel; empty where judgements are given
    test_prompts: frozenset[str]  # judgements of these prompts test the reward model
    judgements: list[Ranking]  # the given ones; empty where the panel judges
    reason: str | None = None  # why the texts cannot be judged as tales; None if they can
    panel: bool = True  # whether the simulated panel judges, whose true probabilities give the ceiling

    @property
    def tales_world(self) -> bool:
        """Whether gold reward, grammar and coherence are known."""
        return self.reason is None


def given_rankings(config: RunConfig, copy: Path | None) -> list[Ranking]:
    """The records of the user's ranking files, if any; a resumed run reads its own copy of them, if it is whole."""
    if not config.rankings:
        return []
    return rankings.load_rankings([copy] if copy else config.rankings)


def make_task(config: RunConfig, given: Sequence[Ranking]) -> Task:
    """The task of a run: the given rankings if there are any, else tales."""
    return rankings_task(config, given) if given else tales_task(config)


def tales_task(config: RunConfig) -> Task:
    """The embedded world: stories of the grammar, openings for the panel, held-out openings for every test."""
    first = seed_for(config.seed, "demonstrations") << 32
    tests = max(1, round(TEST_SHARE * config.openings))
    test_openings = tales.openings(tests, seed_for(config.seed, "test openings"), "held_out")
    judged = tales.openings(config.openings - tests, seed_for(config.seed, "judged openings"), "train")
    return Task(prompts=tales.openings(PPO_PROMPTS, seed_for(config.seed, "prompts"), "train"),
                held_out=tales.openings(config.samples, seed_for(config.seed, "evaluation"), "held_out"),
                demonstrations=[tales.write(first + i, "train") for i in range(config.demonstrations)],
                to_judge=judged + test_openings, test_prompts=frozenset(test_openings), judgements=[])


def rankings_task(config: RunConfig, records: Sequence[Ranking]) -> Task:
    """Given judgements: their prompts, and as demonstrations the completions that are ranked best.

    A ranking with a text that cannot be encoded is left out, with a note.
    Raises: InputError if there are fewer than two prompts, or if the training prompts have no preference.
    """
    judgements = sorted_judgements(records)
    broken = {number: "a text holds an unpaired surrogate, which UTF-8 cannot encode"
              for number, judged in enumerate(judgements) if not _can_be_encoded(judged)}
    with leaving_out(broken, judgements):
        return _task_of(config, without(broken, judgements))


def _task_of(config: RunConfig, judgements: list[Ranking]) -> Task:
    prompts = sorted({judgement.prompt for judgement in judgements})
    pairs = rankings.to_pairs(judgements)
    if len(prompts) < 2 or not pairs:
        raise InputError(f"there are {len(prompts)} ranked prompts and {len(pairs)} preferences: rank "
                         "at least two prompts, and not everything as tied")
    random.Random(seed_for(config.seed, "test prompts")).shuffle(prompts)
    tests = max(1, round(TEST_SHARE * len(prompts)))
    test, train = prompts[:tests], prompts[tests:]
    training = split_judgements(judgements, test)[0]
    if not rankings.to_pairs(training):
        raise InputError(f"the {len(train)} training prompts have no preference, only the {tests} test prompts have: "
                         "rank more prompts, and not everything as tied")
    best = {(judged.prompt, judged.completions[i]): None for judged in training for i in judged.ranking[0]}
    names = {annotator.name for annotator in tales.PANEL}
    return Task(prompts=train, held_out=[test[i % tests] for i in range(config.samples)],
                demonstrations=list(best), to_judge=[], test_prompts=frozenset(test), judgements=judgements,
                reason=_why_not_tales(judgements), panel={r.annotator for r in judgements} <= names)


def ask_panel(items: Sequence[tuple[str, Sequence[str]]], by_all: int, folder: Path,
              seed: int) -> list[Ranking]:
    """Let the simulated panel rank the items in the same kind of session as a person.

    Every annotator ranks the first `by_all` items; each other item is ranked by one annotator. What `folder` already
    holds from a stopped run is not asked again.
    """
    items = listed("items", items, "a list of (prompt, completions)")
    panel = progress(tales.PANEL, len(tales.PANEL), "judging", lambda annotator: annotator.name)
    for number, annotator in enumerate(panel):
        mine = [item for i, item in enumerate(items) if i < by_all or i % len(tales.PANEL) == number]
        store = rankings.RankingStore(folder, annotator.name)
        simulate_judging(rankings.RankingSession(mine, annotator.name, store, seed, simulated=True), annotator, seed)
    return rankings.RankingStore(folder, "all").records()


def simulate_judging(session: RankingSession, annotator: tales.Annotator, seed: int = 0,
                     scale: tuple[float, float] | None = None) -> list[Ranking]:
    """Let a simulated annotator judge the remaining items in the session that a person uses; returns its records.

    It ranks. With a `scale`, the mean and standard deviation of its utilities, it gives 1 to 7 points instead.
    """
    def rng(prompt: str) -> random.Random:
        return random.Random(f"{seed} {annotator.name} {prompt}")

    if scale is None:
        return rankings.answer(session, lambda prompt, shown: annotator.rank(prompt, shown, rng(prompt)))
    with session.store.batch() if session.store else contextlib.nullcontext():
        while (item := session.current) is not None:
            session.rate(ratings_on_own_scale(annotator.impressions(item.prompt, item.shown, rng(item.prompt)), *scale))
    return session.records


def ratings_on_own_scale(impressions: Iterable[float], mean: float, deviation: float) -> list[int]:
    """1 to 7 points, half a standard deviation apart, 4 at the mean: each annotator has their own scale."""
    return [max(1, min(7, 4 + round(2 * (x - mean) / deviation))) for x in impressions]


def sorted_judgements(records: Iterable[Ranking]) -> list[Ranking]:
    """The current judgements, sorted by their content, so that the order does not depend on when they were made."""
    judged = [record for record in rankings.current(records) if record.ranking]  # without skips
    return sorted(judged, key=lambda record: (record.prompt, record.annotator, record.completions))


def split_judgements(judgements: Iterable[Ranking], test: Collection[str]) -> tuple[list[Ranking], list[Ranking]]:
    """The judgements for training, and those for the test: the ones whose prompt is in `test`."""
    parts: tuple[list[Ranking], list[Ranking]] = ([], [])
    for judged in judgements:
        parts[judged.prompt in test].append(judged)
    return parts


def without(left_out: Mapping[int, str], items: Iterable[Any]) -> list[Any]:
    """The items, without those whose numbers are left out."""
    return [item for number, item in enumerate(items) if number not in left_out]


@contextlib.contextmanager
def leaving_out(reasons: Mapping[int, str], items: Sequence[Any], kind: str = "rankings") -> Iterator[None]:
    """Say in one note how many items are left out, and name the first; an error in the block names it too.

    `reasons` are by the number of the item, which is a prompt, a ranking or a (prompt, ending).
    """
    if not reasons:
        yield
        return
    number, reason = next(iter(reasons.items()))
    item = items[number]
    prompt = item.prompt if isinstance(item, Ranking) else item if isinstance(item, str) else item[0]
    record = f" (record {item.id})" if isinstance(item, Ranking) else ""
    note = (f"{len(reasons)} of {len(items)} {kind} are left out, the first with the prompt {shown(prompt)}{record}: "
            f"{reason}")
    with naming(note):
        yield
    warnings.warn(note, stacklevel=4)


def _can_be_encoded(judged: Ranking) -> bool:
    """Whether no text has half a character in it; two halves in two texts make no character."""
    try:
        "\n".join([judged.prompt, *judged.completions]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _why_not_tales(judgements: Sequence[Ranking]) -> str | None:
    """Why the completions cannot be judged as tales; None if enough of them are tales."""
    read = [tales.read(r.prompt, completion).grammatical for r in judgements for completion in r.completions]
    if sum(read) >= TALES_SHARE * len(read):
        return None
    return f"the ranked text is not tales: the reader can read {sum(read)} of {len(read)} completions"


def rankings_digest(records: Sequence[Ranking]) -> str:
    """The SHA-256 of the given rankings, by which a resumed run knows whether they are still the same."""
    return hashlib.sha256(b"".join(record.to_line() for record in records)).hexdigest()


@team.once
def save_copy(records: Sequence[Ranking], path: Path) -> None:
    """Write the run's own copy of its rankings, in the place of a damaged one. Raises: NotSavedError."""
    files.write(path, b"".join(record.to_line() for record in records))
