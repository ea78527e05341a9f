"""How many labels does a reward model need, and what does a whole ranking tell that a best-of-four does not?

Fits reward models on 25, 50, ... rankings of a finished run, each time as full rankings (Plackett-Luce), as the pairs
in them (Bradley-Terry) and as the winner alone: the same human effort, used in three ways. Fits on the same number of
rankings see each equally often. Accuracy is on the pairs of the run's held-out prompts. A part is one fit.

    make record ONLY=label_efficiency
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from keeping import rounded, write
from stages import FinishedRun, examples_of, fit

from rlhf_mini import plots, rankings
from rlhf_mini.config import RewardConfig
from rlhf_mini.rankings import Ranking
from rlhf_mini.reward import RankedExample, bradley_terry_losses, plackett_luce_losses

SIZES = (25, 50, 100, 200, 400, 800)
SEEDS = (0, 1, 2)
STEPS = 75  # at least, however few the rankings; twice as many fitted 25 and 100 no better on an earlier checkpoint


def winner(example: RankedExample) -> RankedExample:
    """The best against all others, whose order is forgotten."""
    prompt, completions, (best, *rest) = example
    others = sorted(index for group in rest for index in group)
    return prompt, completions, [best, others] if others else [best]


FORMS = {"full": (lambda example: example, plackett_luce_losses),
         "exploded": (lambda example: example, bradley_terry_losses),
         "top_1": (winner, plackett_luce_losses)}


def settings() -> dict[str, Any]:
    """What the accuracies depend on, besides the run."""
    return {"steps": STEPS, "reward": asdict(RewardConfig())}


def parts(sizes: Sequence[int] = SIZES, seeds: Sequence[int] = SEEDS) -> dict[str, tuple[str, ...]]:
    """One fit each, named by rankings, seed and form."""
    return {f"{size}-{seed}-{form}": () for size in sizes for seed in seeds for form in FORMS}


def make(part: str, run: FinishedRun) -> dict[str, Any]:
    """Accuracy on the test pairs of a reward model fitted on so many labels in this form."""
    size, seed, form = part.split("-")
    train, test = run.judgements
    one_each = list({judged.prompt: judged for judged in train if len(judged.ranking) > 1}.values())
    labels = random.Random(f"{size} {seed}").sample(one_each, int(size))
    accuracy = fitted_accuracy(run, labels, form, rankings.to_pairs(test), int(seed))
    return {"rankings": int(size), "seed": int(seed), "form": form, "accuracy": accuracy}


def fitted_accuracy(run: FinishedRun, labels: Sequence[Ranking], form: str, test: Sequence[tuple[str, str, str]],
                    seed: int) -> float:
    """Fit and measure."""
    example, losses = FORMS[form]
    config = RewardConfig(seed=seed)
    epochs = max(config.epochs, -(-STEPS * config.batch_size // len(labels)))
    examples = list(map(example, examples_of(labels)))
    return fit(run.sft, examples, replace(config, epochs=epochs), losses)[0].accuracy(test)


def gather(results: dict[str, Any], run: FinishedRun, out: Path) -> None:
    """All fits as one file, and their picture beside it."""
    recorded = rounded({"ceiling": run.metrics["reward_model"]["accuracy_ceiling"],
                        "pairs_test": len(rankings.to_pairs(run.judgements[1])), "seed_of_run": run.seed,
                        "results": list(results.values())})
    write(out, recorded)
    plots.accuracy_against_labels(recorded)
    plt.savefig(out.with_suffix(".png"), dpi=130, bbox_inches="tight")
    plt.close()
