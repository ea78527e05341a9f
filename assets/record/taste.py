"""Can forty judgements move the storyteller? Five seeds of a simulated taste, and the same by other roads.

Every case judges 40 openings, fits the panel's reward model further to 30 of them, runs PPO with the default penalty,
and measures on held-out openings how far the taste has moved, in its own standard deviations; then twenty blind pairs.
Besides rankings by each taste in each seed there are, in the first seed: ratings in place of rankings; another
checkpoint, with a tokenizer of its own, which follows the same judgements (a small GPT-2 that is fine-tuned on tales
from nothing); and nothing judged at all, so that PPO follows the panel. A part is one case.

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

SEEDS = (0, 1, 2, 3, 4)
TASTES = ("gloomy",)  # the one that is furthest from the panel
ATTRIBUTES = ("kindness", "mood", "vividness", "speech", "length")
SMALL_NAME = "small GPT-2"
SMALL = {"n_layer": 3, "n_head": 4, "n_embd": 96, "n_positions": 160, "seed": 8}  # the other checkpoint


@dataclass(frozen=True)
class Settings:
    """Sizes and settings of every case."""

    judged: int = 40
    held_out: int = 10  # of the judged openings, kept from the reward model
    normalise_on: int = 512
    samples: int = 512  # endings per evaluation, on openings that nobody has seen
    pairs: int = 20
    prompts: int = 1024  # that PPO practises on
    demonstrations: int = 16_000  # that the other checkpoint learns from, several times each
    fit: RewardConfig = TASTE_FIT
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(iterations=25))
    other: SFTConfig = field(default_factory=lambda: SFTConfig(steps=1000, learning_rate=5e-3))


class Case(NamedTuple):
    """What one line of results is about."""

    taste: str
    seed: int
    judged: str  # by rankings, by ratings, or nothing
    checkpoint: str  # what tells the tales


def settings_of(settings: Settings) -> dict[str, Any]:
    """What the recording depends on, besides the run, as JSON values."""
    return {**asdict(settings), "small": SMALL}


def cases(tastes: Sequence[str] = TASTES, seeds: Sequence[int] = SEEDS) -> dict[str, Case]:
    """What is recorded, in this order, by the names of the parts."""
    first, seed = tastes[0], seeds[0]
    found = [*(Case(taste, number, "rankings", "run") for taste in tastes for number in seeds),
             Case(first, seed, "ratings", "run"), Case(first, seed, "rankings", SMALL_NAME),
             *(Case(taste, seed, "nothing", "run") for taste in tastes)]
    return {"-".join(map(str, case)).replace(" ", "-"): case for case in found}


def make(case: Case, run: FinishedRun, settings: Settings) -> dict[str, Any]:
    """One case from judgements to blind pairs; the endings that are judged are always the run's own."""
    writer = run.sft if case.checkpoint == "run" else storyteller_from_nothing(settings)
    annotator, panels = SIMULATED_TASTES[case.taste], run.reward_model
    model, found = panels.model, dict[str, float]()
    if case.judged != "nothing":
        records = judgements(run.sft, annotator, case.seed, settings, ratings=case.judged == "ratings")
        model, found = learnt(run.sft, panels, records, case.seed, settings)
    score = score_by_text(model, panels.tokenizer, writer.tokenizer)
    policy = follow(writer, score, case.seed, settings)
    return {**case._asdict(), **found, **measured(writer, policy, annotator, case.seed, settings)}


def gather(results: Mapping[str, Any], run: FinishedRun, settings: Settings, out: Path) -> None:
    """All cases as one file."""
    write(out, rounded({"run": run.seed, "settings": asdict(settings), "results": list(results.values())}))


# --- one case ---------------------------------------------------------------------------------------------------


def judgements(sft: Storyteller, annotator: Annotator, seed: int, settings: Settings, ratings: bool) -> list[Ranking]:
    """What a simulated taste says of endings of this storyteller."""
    openings = tales.openings(settings.judged, seed_for(seed, "openings to judge"), "train")
    items = taste_items(sft.model, sft.tokenizer, openings, seed=seed_for(seed, "endings to judge"))
    scale = None
    if ratings:
        prompts, endings = zip(*((prompt, ending) for prompt, four in items for ending in four), strict=True)
        known = utilities(annotator, prompts, endings)
        scale = (known.mean().item(), known.std().item())
    return simulate_judging(RankingSession(items, annotator.name, seed=seed, simulated=True), annotator, seed, scale)


def learnt(sft: Storyteller, panels: RewardModel, records: Sequence[Ranking], seed: int,
           settings: Settings) -> tuple[Any, dict[str, float]]:
    """The reward model fitted to all but the last judgements, and how well it, and the panel's, foresee those."""
    train, test = records[:-settings.held_out], to_pairs(records[-settings.held_out:])
    prompts = tales.openings(settings.normalise_on, seed_for(seed, "normalise"), "train")
    usual = sft.endings(prompts, seed_for(seed, "endings to normalise on"))
    config = replace(settings.fit, seed=seed_for(seed, "taste"))
    model = learn_taste(panels.model, panels.tokenizer, train, prompts, usual.endings, config)
    return model, {"accuracy": RewardModel(model, panels.tokenizer).accuracy(test),
                   "accuracy_of_panel": panels.accuracy(test),
                   "pairs_train": len(to_pairs(train)), "pairs_test": len(test)}


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
