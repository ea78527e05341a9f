"""Can forty judgements move the storyteller? Five seeds of a simulated taste, and the same by other roads.

Every case judges 40 openings, fits the panel's reward model further to 30 of them, runs PPO with the default penalty,
and measures on held-out openings how far the taste has moved, in its own standard deviations; then twenty blind pairs.
Besides rankings by each taste in each seed there are, in the first seed: ratings in place of rankings; another
checkpoint, with a tokenizer of its own, which follows the same judgements; and nothing judged at all, so that PPO
follows the panel.

    python -m rlhf_mini run --seed 3 --out runs/3
    python assets/record/taste.py --run runs/3 --out assets/taste.json

A case that the file has already is not done again. The other checkpoint is a small GPT-2 that is fine-tuned on tales
from nothing; `--other` names another, fine-tuned already:

    python -m rlhf_mini run --base PATH --out runs/NAME
    python assets/record/taste.py --run runs/3 --out assets/taste.json --other runs/NAME/sft
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_mini import tales
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import Samples, sample_endings
from rlhf_mini.language_model import (
    encode_prompts,
    load_language_model,
    new_language_model,
    pad_id,
    save_language_model,
    train_tokenizer,
)
from rlhf_mini.metrics import evaluate_samples
from rlhf_mini.ppo import Score, start_ppo, train_ppo
from rlhf_mini.rankings import Ranking, RankingSession, to_pairs
from rlhf_mini.reward import load_reward_model, pair_accuracy
from rlhf_mini.run.json_files import read_json, write_json
from rlhf_mini.run.progress import progress, run_steps
from rlhf_mini.run.tasks import seed_for
from rlhf_mini.sft import train_sft
from rlhf_mini.tales import Annotator
from rlhf_mini.teaching.taste import (
    SIMULATED_TASTES,
    TASTE_FIT,
    blind_pairs,
    learn_taste,
    score_by_text,
    shift,
    simulate_judging,
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


QUICK = Settings(judged=8, held_out=2, normalise_on=16, samples=16, pairs=4, prompts=16, demonstrations=64,
                 fit=replace(TASTE_FIT, epochs=1), ppo=PPOConfig(iterations=1, episodes=8), other=SFTConfig(steps=2))


class Case(NamedTuple):
    """What one line of results is about."""

    taste: str
    seed: int
    judged: str  # by rankings, by ratings, or nothing
    checkpoint: str  # what tells the tales


@dataclass(frozen=True)
class Start:
    """A storyteller, and the panel's reward model with a tokenizer of its own."""

    sft: Any
    tokenizer: Any
    reward_model: Any
    reward_tokenizer: Any

    def told(self, model: Any, prompts: Sequence[str], seed: int, reference: Any = None) -> Samples:
        """One ending for each prompt, in the way of this storyteller."""
        ppo = PPOConfig()
        return sample_endings(model, self.tokenizer, prompts, max_new_tokens=ppo.max_new_tokens,
                              temperature=ppo.temperature, seed=seed, reference=reference)


def judgements(start: Start, annotator: Annotator, seed: int, settings: Settings, ratings: bool) -> list[Ranking]:
    """What a simulated taste says of endings of this storyteller."""
    openings = tales.openings(settings.judged, seed_for(seed, "openings to judge"), "train")
    items = taste_items(start.sft, start.tokenizer, openings, seed=seed_for(seed, "endings to judge"))
    scale = None
    if ratings:
        prompts, endings = zip(*((prompt, ending) for prompt, four in items for ending in four), strict=True)
        known = utilities(annotator, prompts, endings)
        scale = (known.mean().item(), known.std().item())
    return simulate_judging(RankingSession(items, annotator.name, seed=seed, simulated=True), annotator, seed, scale)


def learnt(start: Start, records: Sequence[Ranking], seed: int, settings: Settings) -> tuple[Any, dict[str, float]]:
    """The reward model fitted to all but the last judgements, and how well it, and the panel's, foresee those."""
    train, test = records[:-settings.held_out], to_pairs(records[-settings.held_out:])
    prompts = tales.openings(settings.normalise_on, seed_for(seed, "normalise"), "train")
    usual = start.told(start.sft, prompts, seed_for(seed, "endings to normalise on"))
    config = replace(settings.fit, seed=seed_for(seed, "taste"))
    model = learn_taste(start.reward_model, start.reward_tokenizer, train, prompts, usual.endings, config)
    tokenizer = start.reward_tokenizer
    return model, {"accuracy": pair_accuracy(model, tokenizer, test)[0],
                   "accuracy_of_panel": pair_accuracy(start.reward_model, tokenizer, test)[0],
                   "pairs_train": len(to_pairs(train)), "pairs_test": len(test)}


def follow(start: Start, score: Score, seed: int, settings: Settings, title: str) -> Any:
    """The storyteller after PPO."""
    config = replace(settings.ppo, seed=seed_for(seed, "ppo"))
    prompts = tales.openings(settings.prompts, seed_for(seed, "prompts"), "train")
    state = start_ppo(start.sft, config)
    training = train_ppo(state, start.sft, score, encode_prompts(start.tokenizer, prompts), config,
                         start.tokenizer.eos_token_id, pad_id(start.tokenizer))
    run_steps(training, config.iterations, title,
          lambda done: f"score {done.stats['score']:+.2f}, KL {done.stats['kl']:.2f}")
    return state.policy.language_model


def attributes(samples: Samples) -> dict[str, float]:
    """What the tales are like on average, the taste's own concern and the rest."""
    found = [tales.read(*pair).attributes for pair in zip(samples.prompts, samples.endings, strict=True)]
    return {name: sum(getattr(each, name) for each in found) / len(found) for name in ATTRIBUTES}


def measured(start: Start, policy: Any, annotator: Annotator, seed: int, settings: Settings) -> dict[str, Any]:
    """Before and after on openings that nobody has seen, and blind pairs on yet others."""
    openings = tales.openings(settings.samples + settings.pairs, seed_for(seed, "evaluation"), "held_out")
    before = start.told(start.sft, openings, seed_for(seed, "before"))
    after = start.told(policy, openings, seed_for(seed, "after"), reference=start.sft)
    was, now = (utilities(annotator, openings, told.endings) for told in (before, after))
    blind = slice(settings.samples, None)
    test = blind_pairs(openings[blind], before.endings[blind], after.endings[blind], seed)
    session = RankingSession(test.items, annotator.name, seed=seed, simulated=True)
    outcome = test.outcome(simulate_judging(session, annotator, seed))
    figures = {f"{name}_{when}": evaluate_samples(told)[f"{name}{mean}"]
               for when, told in (("before", before), ("after", after))
               for name, mean in (("gold", "_mean"), ("coherent", ""), ("distinct", ""))}
    return {"mean_before": was.mean().item(), "sd_before": was.std().item(), "mean_after": now.mean().item(),
            "shift": shift(was, now), **outcome._asdict(), **win_rate(*outcome)._asdict(), "kl": after.kl, **figures,
            "attributes_before": attributes(before), "attributes_after": attributes(after)}


def result(case: Case, start: Start, labelled: Start, settings: Settings) -> dict[str, Any]:
    """One case from judgements to blind pairs; `labelled` told the endings that are judged, which may be another."""
    began = time.perf_counter()
    annotator, model = SIMULATED_TASTES[case.taste], start.reward_model
    found: dict[str, float] = {}
    if case.judged != "nothing":
        records = judgements(labelled, annotator, case.seed, settings, ratings=case.judged == "ratings")
        model, found = learnt(labelled, records, case.seed, settings)
    score = score_by_text(model, start.reward_tokenizer, start.tokenizer)
    policy = follow(start, score, case.seed, settings, " ".join(map(str, case)))
    return {**case._asdict(), **found, **measured(start, policy, annotator, case.seed, settings),
            "seconds": round(time.perf_counter() - began, 1)}


def storyteller_from_nothing(settings: Settings, folder: Path) -> tuple[Any, Any]:
    """A small GPT-2 fine-tuned on tales without any pretraining, kept in `folder`."""
    if not folder.exists():
        model, tokenizer = small_gpt2()
        demonstrations = [tales.write(seed_for(8, "other") + i, "train") for i in range(settings.demonstrations)]
        run_steps(train_sft(model, tokenizer, demonstrations, settings.other), settings.other.steps, "other checkpoint",
              lambda step: f"loss {step['loss']:.3f}")
        save_language_model(model, tokenizer, folder)
    return load_language_model(folder)


def small_gpt2() -> tuple[Any, Any]:
    """A GPT-2 of another shape with random weights, and a tokenizer of its own."""
    texts = [" ".join(tales.write(seed, "train")) for seed in range(5_000)]
    tokenizer = train_tokenizer(texts, vocab_size=1200)
    return new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, **SMALL), tokenizer


def named(folder: Path) -> str:
    """What a checkpoint is called in the record: by its run, where it comes from one, or else by its folder."""
    run = folder.resolve().parent.name
    return {"sft": run, "policy": f"{run} after PPO"}.get(folder.name, folder.name)


def cases(tastes: Sequence[str], seeds: Sequence[int], other: str) -> list[Case]:
    """What is to be recorded, in this order."""
    first, seed = tastes[0], seeds[0]
    return [*(Case(taste, number, "rankings", "run") for taste in tastes for number in seeds),
            Case(first, seed, "ratings", "run"), Case(first, seed, "rankings", other),
            *(Case(taste, seed, "nothing", "run") for taste in tastes)]


def opened(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the file has already. Raises: InputError where it was recorded with other settings."""
    recorded = read_json(out, {**about, "results": []})
    kept = {name: value for name, value in recorded.items() if name != "results"}
    if kept != json.loads(json.dumps(about)):
        raise InputError(f"{out} was recorded from another run or with other settings: give another --out")
    return recorded


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run: sft/ and reward_model/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--other", type=Path, help="folder of another fine-tuned GPT-2, which goes the same way")
    parser.add_argument("--tastes", nargs="+", default=TASTES, choices=sorted(SIMULATED_TASTES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    given = parser.parse_args(arguments)
    settings, other = QUICK if given.quick else Settings(), named(given.other) if given.other else SMALL_NAME

    reward_model, reward_tokenizer = load_reward_model(given.run / "reward_model")
    run = Start(*load_language_model(given.run / "sft"), reward_model, reward_tokenizer)
    recorded = opened(given.out, {"run": json.loads((given.run / "metrics.json").read_text())["seed"],
                                  "settings": asdict(settings)})
    done = {tuple(row[name] for name in Case._fields) for row in recorded["results"]}
    todo = [case for case in cases(given.tastes, given.seeds, other) if case not in done]
    for case in progress(todo, len(todo), "tastes", lambda case: " ".join(map(str, case))):
        start = run
        if case.checkpoint != "run":
            folder = given.out.with_name(f"{given.out.stem}-{SMALL_NAME.replace(' ', '-')}")
            model, tokenizer = (load_language_model(given.other) if given.other
                                else storyteller_from_nothing(settings, folder))
            start = Start(model, tokenizer, reward_model, reward_tokenizer)
        recorded["results"].append(result(case, start, run, settings))
        write_json(given.out, recorded)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
