"""How many labels does a reward model need, and what does a whole ranking tell that a best-of-four does not?

Fits reward models on the first 25, 50, ... rankings of a finished run, each time as full rankings (Plackett-Luce), as
the pairs in them (Bradley-Terry) and as the winner alone: the same human effort, used in three ways. Fits on the
same number of rankings see each equally often. Accuracy is on the pairs of the run's held-out prompts.

    python -m rlhf_mini run --seed 3 --out runs/3
    python assets/record/label_efficiency.py --run runs/3 --out assets/label_efficiency.json
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from rlhf_mini import plots, rankings
from rlhf_mini.config import RewardConfig, RunConfig
from rlhf_mini.language_model import load_language_model
from rlhf_mini.metrics import reward_model_metrics
from rlhf_mini.rankings import Ranking
from rlhf_mini.reward import RankedExample, bradley_terry_losses, fit_reward, plackett_luce_losses, reward_model_from
from rlhf_mini.run.tasks import make_task, split_judgements

SIZES = (25, 50, 100, 200, 400, 800)
SEEDS = (0, 1, 2)
STEPS = 75  # at least, however few the rankings; twice as many fitted 25 and 100 no better on an earlier checkpoint


def whole(judged: Ranking) -> RankedExample:
    """The ranking as it is."""
    return judged.prompt, judged.completions, judged.ranking


def winner(judged: Ranking) -> RankedExample:
    """The best against all others, whose order is forgotten."""
    best, *rest = judged.ranking
    others = sorted(index for group in rest for index in group)
    return judged.prompt, judged.completions, [best, others] if others else [best]


FORMS = {"full": (whole, plackett_luce_losses), "exploded": (whole, bradley_terry_losses),
         "top_1": (winner, plackett_luce_losses)}


def fitted_accuracy(sft: Any, tokenizer: Any, labels: Sequence[Ranking], form: str,
                    test: Sequence[tuple[str, str, str]], seed: int) -> float:
    """Accuracy on the test pairs of a reward model fitted on these labels in this form."""
    example, losses = FORMS[form]
    config = RewardConfig(seed=seed)
    epochs = max(config.epochs, -(-STEPS * config.batch_size // len(labels)))
    model, own_tokenizer = reward_model_from(sft, tokenizer, seed)
    for _ in fit_reward(model, own_tokenizer, list(map(example, labels)), replace(config, epochs=epochs), losses):
        pass
    return float(reward_model_metrics(model, own_tokenizer, test, scale=1.0, panel=False)["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run on the embedded checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()

    metrics = json.loads((arguments.run / "metrics.json").read_text())
    sft, tokenizer = load_language_model(arguments.run / "sft")
    judgements = rankings.current(rankings.load_rankings(arguments.run / "rankings.jsonl"))
    task = make_task(RunConfig(seed=metrics["seed"]), [])
    train, test = split_judgements(judgements, task.test_prompts)
    train = list({judged.prompt: judged for judged in train if len(judged.ranking) > 1}.values())  # one label each
    pairs = rankings.to_pairs(test)
    results = []
    for size in arguments.sizes:
        for seed in arguments.seeds:
            labels = random.Random(f"{size} {seed}").sample(train, size)
            for form in FORMS:
                accuracy = fitted_accuracy(sft, tokenizer, labels, form, pairs, seed)
                results.append({"rankings": size, "seed": seed, "form": form, "accuracy": accuracy})
                print(json.dumps(results[-1]), flush=True)
    recorded = {"ceiling": metrics["reward_model"]["accuracy_ceiling"], "pairs_test": len(pairs),
                "seed_of_run": metrics["seed"], "results": results}
    arguments.out.write_text(json.dumps(recorded, indent=1) + "\n")
    plots.accuracy_against_labels(recorded)
    plt.savefig(arguments.out.with_suffix(".png"), dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
