"""Measure all models of a run on the same held-out prompts, and write metrics, samples and report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from rlhf_mini import files
from rlhf_mini.evaluate import Samples, best_of_n
from rlhf_mini.metrics import DISTINCT_AMONG, evaluate_samples, example_stories
from rlhf_mini.plots import STYLES
from rlhf_mini.ppo import Score
from rlhf_mini.report import write_report
from rlhf_mini.run.context import RunContext
from rlhf_mini.run.folder import versions
from rlhf_mini.run.json_files import read_json, write_json
from rlhf_mini.run.progress import progress

BEST_OF = (4, 16)
BEST_OF_PROMPTS = DISTINCT_AMONG  # best of n samples 16 endings for each prompt, so it answers only so many prompts


def measure(context: RunContext, models: Mapping[str, PreTrainedModel], score: Score) -> dict[str, Any]:
    """Figures and stories of every model, and of best of n, on the same held-out prompts."""
    path, tales_world = context.folder.state / "evaluation.json", context.task.tales_world
    reads = ["sft", "reward_model", "ppo", "ppo_no_kl"]
    with context.folder.stage("evaluation", partial(files.digests, path), reads) as todo:
        if todo:
            pairs = evaluation_samples(context, models, score)
            samples = dict(progress(pairs, len(STYLES), "evaluation", lambda pair: STYLES[pair[0]].label))
            figures = {name: evaluate_samples(samples[name], tales_world) for name in STYLES}
            write_json(path, {"models": figures, "stories": example_stories(samples, tales_world)})
    return read_json(path, {})


def evaluation_samples(context: RunContext, models: Mapping[str, PreTrainedModel],
                       score: Score) -> Iterator[tuple[str, Samples]]:
    """The name and the endings of each model, and of best of n, on the held-out prompts."""
    for name, model in models.items():
        reference = None if name == "sft" else models["sft"]
        yield name, context.sample(model, context.task.held_out, "evaluation", reference, score)
    most = max(BEST_OF)
    repeated = [prompt for prompt in context.task.held_out[:BEST_OF_PROMPTS] for _ in range(most)]
    candidates = context.sample(models["sft"], repeated, "best of n", score=score)
    for n in BEST_OF:
        yield f"best_of_{n}", best_of_n(candidates, most, n)


def write_results(context: RunContext, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Write samples, report and metrics. The metrics come last, because they mark the run as finished."""
    samples = {"stories": measured["stories"]}
    write_json(context.folder.path / "samples.json", samples)
    metrics = {"seed": context.config.seed, **measured["models"], **metrics_so_far(context)}
    context.folder.history.tidy()
    context.folder.stories.tidy()
    write_report(context.folder.path, metrics, context.folder.history.read(), samples, context.folder.stories.read())
    metrics["seconds"] = context.folder.seconds()
    write_json(context.folder.path / "metrics.json", metrics)
    return metrics


def metrics_so_far(context: RunContext) -> dict[str, Any]:
    """The metrics that a run has at any time: seed, reward model, reasons for nulls, seconds, versions."""
    reasons: dict[str, str | None] = {}
    if not context.task.tales_world:
        reasons |= dict.fromkeys(("gold", "grammatical", "coherent"), context.task.reason)
    reward_model = read_json(context.folder.state / "reward_model.json", {})
    if reward_model and reward_model["accuracy"] is None:
        reasons |= dict.fromkeys(("accuracy", "accuracy_ceiling"),
                                 "the judgements of the test prompts have no preference")
    if not context.task.panel:
        reasons["accuracy_ceiling"] = "the true probabilities are known only for the simulated panel"
    return {"seed": context.config.seed, "reward_model": reward_model,
            "reasons": reasons, "seconds": context.folder.seconds(), "versions": versions()}
