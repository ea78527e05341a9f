"""Another round of labels: new rankings, a reward model fitted again, and what it says of the same texts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages import RewardModel, examples_of, fit, made_once
from workbench import Bench, Judge

from rlhf_mini import rankings, tales
from rlhf_mini.language_model import save_language_model
from rlhf_mini.pipeline import normalise_on_samples
from rlhf_mini.rankings import Ranking
from rlhf_mini.reward import load_reward_model
from rlhf_mini.run.settings import fits_context
from rlhf_mini.run.tasks import ask_panel, seed_for, sorted_judgements


def new_labels(bench: Bench, writer: Any, name: str) -> list[Ranking]:
    """The simulated panel's rankings of four endings for each of some training openings, one annotator each.

    Two endings of the writer stand beside two of the fine-tuned model. Four of a policy without a penalty would mostly
    be nonsense: equal to the panel, ordered by its noise, and so no lesson. Beside a sensible ending the nonsense loses
    for certain, and the two sensible ones keep the old lesson fresh. `name` gives the endings their seeds.
    """
    loop, sft = bench.loop, bench.sft
    openings = tales.openings(bench.sizes.labels, seed_for(bench.run.seed, "second round"), "train")
    four = [loop.sample(model, openings, f"{name} {half} {copy}").endings
            for half, model in enumerate((writer, sft.model)) for copy in range(2)]
    items = [(opening, list(endings)) for opening, *endings in zip(openings, *four, strict=True)]
    items = [(opening, endings) for opening, endings in items
             if all(fits_context(sft.model, sft.tokenizer, [opening] * 4, endings))]
    with tempfile.TemporaryDirectory() as folder:
        return sorted_judgements(ask_panel(items, 0, Path(folder), bench.run.seed))


def counted(labels: Sequence[Ranking]) -> dict[str, Any]:
    """How many rankings and pairs there are, in how many pairs one ending makes no sense, and how those went."""
    pairs = rankings.to_pairs(labels)
    sense = [(tales.read(opening, better).coherent, tales.read(opening, worse).coherent)
             for opening, better, worse in pairs]
    mixed = [better for better, worse in sense if better != worse]
    return {"rankings": len(labels), "pairs": len(pairs), "sense_against_nonsense": len(mixed),
            "sense_won": sum(mixed)}


def refitted(bench: Bench, name: str, labels: Callable[[], Sequence[Ranking]] = list, seed: int = 0) -> RewardModel:
    """A reward model fitted, from the fine-tuned model, on the run's rankings and new ones; kept in a folder.

    With a `seed` other than 0, the head's first weights, the order of the rankings and the dropout differ from those of
    the run's reward model.
    """
    config = bench.loop.config.reward

    def fit_again(folder: Path) -> None:
        examples = examples_of([*bench.run.judgements[0], *labels()])
        judge, _ = fit(bench.sft, examples, replace(config, seed=config.seed + seed))
        keep(bench, judge, folder)

    return kept(made_once(bench.work / f"reward_model-{name}", fit_again))


def keep(bench: Bench, judge: RewardModel, folder: Path) -> None:
    """Normalise a fitted reward model on endings of the fine-tuned model, and save it."""
    normalise_on_samples(bench.loop, bench.sft.model, judge.model, judge.tokenizer)
    save_language_model(judge.model, judge.tokenizer, folder)


def kept(folder: Path) -> RewardModel:
    """A reward model from its folder."""
    return RewardModel(*load_reward_model(folder))


def accuracies(bench: Bench, judge: Judge) -> dict[str, Any]:
    """Accuracy of the run's reward model and of another judge on the run's held-out pairs."""
    pairs = rankings.to_pairs(bench.run.judgements[1])
    return {"accuracy": {"first": bench.first.accuracy(pairs), "refitted": judge.accuracy(pairs)},
            "pairs_test": len(pairs)}
