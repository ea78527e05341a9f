"""Every number that a run logs: its unit, what it is, and what it was in the recorded runs (notebook 09).

The healthy range of a number is not a rule. It is the range of five recorded seeds with the KL penalty, each a whole
run; a number that was recorded for one seed only says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlhf_mini import plots
from rlhf_mini.errors import InputError
from rlhf_mini.teaching.alarms import seed_histories
from rlhf_mini.teaching.recorded import five_seeds, recorded_history

LAST, TINY, INDENT = 10, 1e-5, "    "  # iterations that count as the end; what is printed as 0


class Quantity(NamedTuple):
    """One logged number."""

    unit: str
    meaning: str


HISTORY = {  # the keys of a line of history.jsonl
    "arm": Quantity("name", "the run that the line belongs to"),
    "iteration": Quantity("count", "from 1"),
    "episodes": Quantity("endings", "sampled so far, this iteration's included"),
    "learning_rate": Quantity("no unit", "step size of the trunk in this iteration"),
    "seconds": Quantity("s", "that the iteration took"),
    "score": Quantity("s.d. of SFT endings", "mean of the reward model's scores"),
    "score_std": Quantity("s.d. of SFT endings", "standard deviation of the scores in the batch"),
    "reward": Quantity("s.d. of SFT endings", "mean of score - kl_coef x kl_k1"),
    "kl": Quantity("nats per ending", "sum over tokens of the exact KL(policy || reference)"),
    "kl_k1": Quantity("nats per ending", "sum over tokens of logp - logp_ref"),
    "kl_coef": Quantity("score per nat", "what one nat costs"),
    "ratio_first": Quantity("no unit", "mean ratio in the first gradient step"),
    "clip_fraction": Quantity("fraction of tokens", "|ratio - 1| > clip"),
    "approx_kl": Quantity("nats per token", "k3 of KL(old policy || new policy)"),
    "grad_norm": Quantity("no unit", "length of the gradient before it is cut to max_grad_norm"),
    "value_loss": Quantity("squared score", "mean of (value - return)^2 / 2, clipped"),
    "explained_variance": Quantity("fraction", "1 - Var(returns - values) / Var(returns)"),
    "policy_loss": Quantity("no unit", "-mean of min(ratio x A, clipped ratio x A), A whitened"),
    "entropy": Quantity("nats per token", "mean of -sum p ln p, at the sampling temperature"),
    "length": Quantity("tokens", "mean, the end-of-text token included"),
    "ended": Quantity("fraction", "of endings that stopped by themselves within the limit"),
    "gold": Quantity("s.d. of the tales", "mean of the simulated panel's utility, without noise"),
    "grammatical": Quantity("fraction", "of endings that the reader can parse"),
    "coherent": Quantity("fraction", "of endings that are grammatical and fit their opening")}
MODELS = {  # of each model in metrics.json
    "gold_mean": Quantity("s.d. of the tales", "mean gold"),
    "gold_std": Quantity("s.d. of the tales", "standard deviation of gold over endings"),
    "proxy_mean": Quantity("s.d. of SFT endings", "mean score"),
    "kl": Quantity("nats per ending", "exact; for best of n the bound ln n - (n-1)/n"),
    "grammatical": Quantity("fraction", "as in the history"), "coherent": Quantity("fraction", "as in the history"),
    "ended": Quantity("fraction", "as in the history"),
    "length_tokens": Quantity("tokens", "mean, the end-of-text token included"),
    "distinct": Quantity("fraction", "different endings among the first 512, names set aside"),
    "samples": Quantity("endings", "that were measured")}
STAGES = ("sft", "rankings", "reward_model", "ppo", "ppo_no_kl", "evaluation", "other", "total")
QUANTITIES = {
    **HISTORY, **{f"MODEL.{key}": one for key, one in MODELS.items()},
    "reward_model.accuracy": Quantity("fraction", "of held-out pairs in the annotators' order"),
    "reward_model.accuracy_ceiling": Quantity("fraction", "mean of max(p, 1 - p), p the panel's true odds"),
    "reward_model.pairs_train": Quantity("pairs", "in the rankings that it learned from"),
    "reward_model.pairs_test": Quantity("pairs", "in the held-out rankings"),
    "reward_model.calibration.predicted": Quantity("probability", "mean sigmoid(margin) in a bin"),
    "reward_model.calibration.observed": Quantity("fraction", "of its pairs in which the first was preferred"),
    "reward_model.calibration.count": Quantity("pairs", "in the bin"),
    "seed": Quantity("count", "everything random follows from it"),
    "reasons": Quantity("words", "why something is null; empty in the world of tales"),
    "versions": Quantity("words", "of Python and the libraries"),
    **{f"seconds.{stage}": Quantity("s", "that it took") for stage in STAGES}}


class Page:
    """Explains quantities, and remembers which: at the end, none may be left out."""

    def __init__(self) -> None:
        self.explained: set[str] = set()

    def explain(self, *keys: str) -> None:
        """Print the unit and the meaning of each quantity and, where known, its range in the recorded runs.

        Raises: InputError for a name that no run logs.
        """
        for key in keys:
            if key not in QUANTITIES:
                raise InputError(f"no run logs {key!r}: choose from {', '.join(QUANTITIES)}")
            print(f"{key}  [{QUANTITIES[key].unit}]  {QUANTITIES[key].meaning}")
            if found := recorded_range(key):
                print(INDENT + found)
        self.explained.update(keys)


def recorded_range(key: str) -> str:
    """The range over five seeds with the KL penalty (healthy) and, for the history, without it; "" if unknown."""
    model, _, name = key.rpartition(".")
    if model == "MODEL" and name != "samples":
        policy, start = (span(five_seeds(one, name)) for one in ("ppo", "sft"))
        return f"healthy, PPO with KL: {policy}; fine-tuned model: {start}"
    if key in ("reward_model.accuracy", "reward_model.accuracy_ceiling"):
        return f"healthy: {span(five_seeds('reward_model', name))}"
    if key not in HISTORY or key in ("arm", "iteration", "episodes", "learning_rate", "seconds", "kl_coef"):
        return ""
    seeds = seed_histories()
    if key in seeds[3]["ppo"]:
        columns = {arm: [one[arm][key] for one in seeds.values()] for arm in plots.ARMS}
        note = ""
    else:
        columns = {arm: [plots.series(recorded_history(), arm, key)[1].tolist()] for arm in plots.ARMS}
        note = " (one seed)"
    first = span([column[0] for column in columns["ppo"]])
    late, free = (span([float(np.mean(column[-LAST:])) for column in columns[arm]]) for arm in plots.ARMS)
    return f"healthy: {first} on line 1, {late} at the end; without KL penalty: {free}{note}"


def span(values: Iterable[float]) -> str:
    """The lowest and the highest of some numbers, or the one if they are the same to three digits."""
    found = sorted(values)
    low, high = (_plain(x) for x in (found[0], found[-1]))
    return low if low == high else f"{low} to {high}"


def _plain(x: float) -> str:
    """Three digits, two where the number is small, without an exponent."""
    shown = 0.0 if abs(x) < TINY else float(x)
    return np.format_float_positional(shown, precision=3 if abs(shown) >= 0.01 else 2, fractional=False, trim="-")


def logged_names(thing: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all numbers in metrics.json; the six models share theirs."""
    for key, value in thing.items():
        name = prefix + ("MODEL" if key in plots.STYLES and not prefix else key)
        inner = value[0] if isinstance(value, list) else value
        if isinstance(inner, dict) and key not in ("versions", "reasons"):
            yield from logged_names(inner, name + ".")
        else:
            yield name
