"""Can thirty judgements move the storyteller, and is it the judgements that do it? Three seeds of two simulated tastes.

Every case judges 30 openings, fits the panel's reward model further to them, runs PPO with the default penalty, and
measures on held-out openings how far the taste has moved, in its own standard deviations; then twenty blind pairs. On
an exam of 160 more openings the learnt model meets the panel's with its sign turned, which has learnt nothing. Of the
two tastes, one is much like the panel's with its sign turned. In each seed there is a control, measured with both
tastes: PPO with the panel's scores turned. And in the first seed another checkpoint, with a tokenizer of its own,
follows the first taste's judgements (a small GPT-2 that is fine-tuned on tales from nothing). A part is one case.

The sizes are such that all cases take a quarter of an hour of one core that is idle, and half an hour of a busy one.

    make record ONLY=taste
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from keeping import rounded, write
from stages import FinishedRun, RewardModel, Storyteller, ppo

from rlhf_mini import tales
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.evaluate import Samples
from rlhf_mini.metrics import evaluate_samples
from rlhf_mini.ppo import Score
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.rankings import Ranking, RankingSession, to_pairs
from rlhf_mini.run.tasks import seed_for, simulate_judging
from rlhf_mini.sft import train_sft
from rlhf_mini.tales import Annotator
from rlhf_mini.teaching.measured import difference, mean_error
from rlhf_mini.teaching.taste import (
    SIMULATED_TASTES,
    TASTE_FIT,
    blind_pairs,
    learn_taste,
    score_by_text,
    shift,
    taste_items,
    utilities,
    win_rate,
)

SEEDS = (0, 1, 2)
TASTES = ("bittersweet", "gloomy")  # gloomy is nearly the panel's with its sign turned
ATTRIBUTES = ("kindness", "mood", "vividness", "speech", "length")
TURNED = "nothing, turned"
SMALL_NAME = "small GPT-2"
SMALL = {"n_layer": 3, "n_head": 4, "n_embd": 96, "n_positions": 160, "seed": 8}  # the other checkpoint


@dataclass(frozen=True)
class Settings:
    """Sizes and settings of every case."""

    judged: int = 30  # openings that the reward model learns from
    exam: int = 160  # openings whose judgements are kept from it: a gap of 5 points is two standard errors
    normalise_on: int = 384
    samples: int = 256  # endings per evaluation, on openings that nobody has seen
    pairs: int = 20
    prompts: int = 1024  # that PPO practises on
    demonstrations: int = 16_000  # that the other checkpoint learns from, several times each
    fit: RewardConfig = TASTE_FIT
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(iterations=16, episodes=96))
    other: SFTConfig = field(default_factory=lambda: SFTConfig(steps=1000, learning_rate=5e-3))


class Case(NamedTuple):
    """What one part is about."""

    tastes: tuple[str, ...]  # the one that judges; without judgements, those that it is measured with
    seed: int
    judged: str  # by rankings; or nothing, while PPO follows the panel's scores turned
    checkpoint: str  # what tells the tales


def settings_of(settings: Settings) -> dict[str, Any]:
    """What the recording depends on, besides the run, as JSON values."""
    return {**asdict(settings), "small": SMALL}


def cases(tastes: Sequence[str] = TASTES, seeds: Sequence[int] = SEEDS) -> dict[str, Case]:
    """What is recorded, in this order, by the names of the parts."""
    found = [*(Case((taste,), number, "rankings", "run") for taste in tastes for number in seeds),
             *(Case(tuple(tastes), number, TURNED, "run") for number in seeds),
             Case((tastes[0],), seeds[0], "rankings", SMALL_NAME)]
    return {f"{'+'.join(case.tastes)}-{case.seed}-{case.judged}-{case.checkpoint}".replace(" ", "-"): case
            for case in found}


def make(case: Case, run: FinishedRun, settings: Settings) -> list[dict[str, Any]]:
    """One case from judgements to blind pairs, a row for each taste; what is judged is always the run's own."""
    writer = run.sft if case.checkpoint == "run" else storyteller_from_nothing(settings)
    model, sign, found = run.reward_model.model, -1, dict[str, Any]()
    if case.judged != TURNED:
        records = judgements(run.sft, SIMULATED_TASTES[case.tastes[0]], case.seed, settings)
        (model, found), sign = learnt(run.sft, run.reward_model, records, case.seed, settings), 1
    read = score_by_text(model, run.reward_model.tokenizer, writer.tokenizer)
    policy = follow(writer, lambda rollout: sign * read(rollout), case.seed, settings)
    return [{"taste": taste, "seed": case.seed, "judged": case.judged, "checkpoint": case.checkpoint, **found,
             **measured(writer, policy, SIMULATED_TASTES[taste], case.seed, settings)} for taste in case.tastes]


def gather(results: Mapping[str, Any], run: FinishedRun, settings: Settings, out: Path) -> None:
    """All cases as one file."""
    rows = [row for rows in results.values() for row in rows]
    write(out, rounded({"run": run.seed, "settings": asdict(settings), "results": rows}))


# --- one case ---------------------------------------------------------------------------------------------------


def judgements(sft: Storyteller, annotator: Annotator, seed: int, settings: Settings) -> list[Ranking]:
    """What a simulated taste says of endings of this storyteller."""
    openings = tales.openings(settings.judged + settings.exam, seed_for(seed, "openings to judge"), "train")
    items = taste_items(sft.model, sft.tokenizer, openings, seed=seed_for(seed, "endings to judge"))
    return simulate_judging(RankingSession(items, annotator.name, seed=seed, simulated=True), annotator, seed)


def learnt(sft: Storyteller, panels: RewardModel, records: Sequence[Ranking], seed: int,
           settings: Settings) -> tuple[Any, dict[str, Any]]:
    """The reward model fitted to the first judgements, and its exam on the others."""
    train, test = records[:settings.judged], to_pairs(records[settings.judged:])
    prompts = tales.openings(settings.normalise_on, seed_for(seed, "normalise"), "train")
    usual = sft.endings(prompts, seed_for(seed, "endings to normalise on"))
    config = replace(settings.fit, seed=seed_for(seed, "taste"))
    model = learn_taste(panels.model, panels.tokenizer, train, prompts, usual.endings, config)
    return model, {"pairs_train": len(to_pairs(train)), "pairs_test": len(test),
                   "exam": exam(RewardModel(model, panels.tokenizer), panels, test)}


def exam(mine: RewardModel, panels: RewardModel, pairs: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, Any]]:
    """The share of pairs that a learnt model puts in the right order, and the panel's with its sign turned.

    Units: shares; errors are standard errors over openings, that of `more` of the paired difference.
    """
    opening = [prompt for prompt, *_ in pairs]
    right = (mine.margins(pairs) > 0).double()
    turned = (panels.margins(pairs) < 0).double()
    return {"learnt": asdict(mean_error(right, opening)), "turned": asdict(mean_error(turned, opening)),
            "more": asdict(difference(right, turned, opening))}


def follow(writer: Storyteller, score: Score, seed: int, settings: Settings) -> Storyteller:
    """The storyteller after PPO."""
    prompts = tales.openings(settings.prompts, seed_for(seed, "prompts"), "train")
    policy, training = ppo(writer, score, prompts, replace(settings.ppo, seed=seed_for(seed, "ppo")))
    for _ in training:
        pass
    return policy


def attributes(samples: Samples) -> dict[str, float]:
    """What the tales are like on average, the taste's own concern and the rest."""
    found = [tales.read(*pair).attributes for pair in zip(samples.prompts, samples.endings, strict=True)]
    return {name: sum(getattr(each, name) for each in found) / len(found) for name in ATTRIBUTES}


def measured(writer: Storyteller, policy: Storyteller, annotator: Annotator, seed: int,
             settings: Settings) -> dict[str, Any]:
    """Before and after on openings that nobody has seen, and blind pairs on yet others."""
    openings = tales.openings(settings.samples + settings.pairs, seed_for(seed, "evaluation"), "held_out")
    before = writer.endings(openings, seed_for(seed, "before"))
    after = policy.endings(openings, seed_for(seed, "after"), reference=writer.model)
    was, now = (utilities(annotator, openings, samples.endings) for samples in (before, after))
    blind = slice(settings.samples, None)
    test = blind_pairs(openings[blind], before.endings[blind], after.endings[blind], seed)
    session = RankingSession(test.items, annotator.name, seed=seed, simulated=True)
    outcome = test.outcome(simulate_judging(session, annotator, seed))
    figures = {f"{name}_{when}": evaluate_samples(samples)[f"{name}{mean}"]
               for when, samples in (("before", before), ("after", after))
               for name, mean in (("gold", "_mean"), ("coherent", ""), ("distinct", ""))}
    return {"mean_before": was.mean().item(), "sd_before": was.std().item(), "mean_after": now.mean().item(),
            "shift": shift(was, now), **outcome._asdict(), **win_rate(*outcome)._asdict(), "kl": after.kl, **figures,
            "attributes_before": attributes(before), "attributes_after": attributes(after)}


# --- the other checkpoint ---------------------------------------------------------------------------------------


def storyteller_from_nothing(settings: Settings) -> Storyteller:
    """A small GPT-2 of another shape and with a tokenizer of its own, fine-tuned on tales without any pretraining."""
    texts = [" ".join(tales.write(seed, "train")) for seed in range(5_000)]
    tokenizer = train_tokenizer(texts, vocab_size=1200)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, **SMALL)
    demonstrations = [tales.write(seed_for(8, "other") + i, "train") for i in range(settings.demonstrations)]
    for _ in train_sft(model, tokenizer, demonstrations, settings.other):
        pass
    return Storyteller(model, tokenizer)
