"""The same run with several seeds: the median and range of each figure, and how often each check passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.finished import finished_metrics
from rlhf_mini.run.json_files import write_json
from rlhf_mini.run.saved_config import check_same_settings
from rlhf_mini.tables import COLUMNS, MODELS

Metrics = Mapping[str, Any]
Check = Callable[[Metrics, Metrics, Metrics, Metrics], bool]  # SFT, best of 4, with KL, without KL
CHECKS: dict[str, Check] = {
    "with KL: gold up by one standard deviation of SFT's": lambda sft, best_of_4, ppo, no_kl:
        ppo["gold_mean"] - sft["gold_mean"] >= sft["gold_std"],
    "with KL: gold above best of 4": lambda sft, best_of_4, ppo, no_kl: ppo["gold_mean"] > best_of_4["gold_mean"],
    "with KL: at most 6 nats per ending": lambda sft, best_of_4, ppo, no_kl: ppo["kl"] <= 6,
    "with KL: grammatical within 3 points of SFT": lambda sft, best_of_4, ppo, no_kl:
        ppo["grammatical"] >= sft["grammatical"] - 0.03,
    "with KL: coherent within 3 points of SFT": lambda sft, best_of_4, ppo, no_kl:
        ppo["coherent"] >= sft["coherent"] - 0.03,
    "with KL: distinct at least 60 % of SFT's": lambda sft, best_of_4, ppo, no_kl:
        ppo["distinct"] >= 0.6 * sft["distinct"],
    "without KL: proxy higher than with": lambda sft, best_of_4, ppo, no_kl: no_kl["proxy_mean"] > ppo["proxy_mean"],
    "without KL: KL at least five times larger": lambda sft, best_of_4, ppo, no_kl: no_kl["kl"] >= 5 * ppo["kl"],
    "without KL: gold lower than with": lambda sft, best_of_4, ppo, no_kl: no_kl["gold_mean"] < ppo["gold_mean"],
    "without KL: coherent under 50 %": lambda sft, best_of_4, ppo, no_kl: no_kl["coherent"] < 0.5,
    "without KL: distinct under 20 % of SFT's": lambda sft, best_of_4, ppo, no_kl:
        no_kl["distinct"] < 0.2 * sft["distinct"],
}


def run_seeds(run: Callable[[RunConfig, bool], Metrics], configs: Sequence[RunConfig], out: Path) -> dict[str, Any]:
    """Call `run` for every config that is not finished, then write the figures of all of them into `out`/seeds.json."""
    finished = {}
    for config in configs:  # before the first run, which takes long
        check_same_settings(config)
    for config in configs:
        metrics = finished_metrics(config.out)
        finished[config.seed] = metrics or run(config, (config.out / "config.json").exists())
    gathered = gather(finished)
    write_json(out / "seeds.json", gathered)
    return gathered


def gather(finished: Mapping[int, Metrics]) -> dict[str, Any]:
    """The figures of each seed, their medians and ranges, and the checks that each seed passes."""
    runs = list(finished.values())
    ratios = [_share_of_ceiling(run["reward_model"]) for run in runs]
    return {
        "seeds": list(finished),
        "models": {model: {key: _summary([run[model][key] for run in runs]) for key in (*COLUMNS, "gold_std")}
                   for model in MODELS},
        "reward_model": {**{key: _summary([run["reward_model"][key] for run in runs])
                            for key in ("accuracy", "accuracy_ceiling")},
                         "share_of_ceiling": _summary(ratios)},
        "seconds": {stage: _summary([run["seconds"].get(stage) for run in runs])
                    for stage in runs[0]["seconds"]},
        "checks": {name: [_passes(check, run) for run in runs] for name, check in CHECKS.items()},
        "versions": runs[0]["versions"],
    }


def _share_of_ceiling(reward_model: Metrics) -> float | None:
    """The share of what can be learnt that was learnt: (accuracy - 1/2) / (ceiling - 1/2)."""
    accuracy, ceiling = reward_model["accuracy"], reward_model["accuracy_ceiling"]
    if accuracy is None or ceiling is None or ceiling <= 0.5:
        return None
    return (accuracy - 0.5) / (ceiling - 0.5)


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"values": list(values), "median": None, "min": None, "max": None}
    return {"values": list(values), "median": median(known), "min": min(known), "max": max(known)}


def _passes(check: Check, run: Metrics) -> bool | None:
    models = [run[name] for name in ("sft", "best_of_4", "ppo", "ppo_no_kl")]
    return None if models[0]["gold_mean"] is None else bool(check(*models))


def markdown(gathered: Mapping[str, Any]) -> str:
    """The table of the page of results: the median and, in brackets, the range over the seeds."""
    heads = ["model", *(head for head, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for model, name in MODELS.items():
        cells = [_cell(gathered["models"][model][key], form) for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    reward = gathered["reward_model"]
    lines += ["", f"Seeds {', '.join(map(str, gathered['seeds']))}: median (range). Reward model: accuracy "
              f"{_cell(reward['accuracy'], '{:.1%}')}, ceiling "
              f"{_cell(reward['accuracy_ceiling'], '{:.1%}')}, share of what can be learnt, "
              f"(accuracy - 1/2) / (ceiling - 1/2), "
              f"{_cell(reward['share_of_ceiling'], '{:.2f}')}. Seconds for a run: "
              f"{_cell(gathered['seconds']['total'], '{:.0f}')}.", "",
              "What is expected of the two arms, and in how many seeds it holds:", ""]
    for name, passed in gathered["checks"].items():
        known = [value for value in passed if value is not None]
        lines.append(f"- {name}: {sum(known)} of {len(known)}")
    return "\n".join(lines)


def _cell(summary: Mapping[str, Any], form: str) -> str:
    if summary["median"] is None:
        return "-"
    low, high = form.format(summary["min"]), form.format(summary["max"])
    middle = form.format(summary["median"])
    return middle if low == high else f"{middle} ({low} to {high})"
