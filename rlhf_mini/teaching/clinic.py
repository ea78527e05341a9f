"""Say what is wrong with a run of PPO from its history, with the evidence: a few rules, each a line or two.

The rules were written with one seed of every fault (`clinic_cases`) and with healthy runs. They speak of this package's
logs, and of scores that start with mean 0 and standard deviation 1. A rule whose quantities are missing does not fire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError

Numbers = NDArray[np.float64]
NOT_ENOUGH = "not enough to tell"
SHORTEST = 10  # iterations: what is unusual at the end of a run needs so many
NEEDED = ("score", "kl", "value_loss")  # a run is called healthy only where these are known


class Evidence(NamedTuple):
    """A quantity, and the first iteration at which it shows what is wrong."""

    quantity: str
    iteration: int
    value: float

    def __str__(self) -> str:
        return f"{self.quantity} = {self.value:z.4g} at iteration {self.iteration}"


@dataclass(frozen=True)
class Finding:
    """A cause and what speaks for it."""

    cause: str
    evidence: Evidence | None
    why: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.evidence}): {self.why}" if self.evidence else f"{self.cause}: {self.why}"


def diagnose(history: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]) -> list[Finding]:
    """What is wrong with a run, most likely first; empty where nothing is, and "not enough to tell" where that is so.

    `history` has a dict for each iteration, or is a dict of columns. Raises: InputError where lines are of two arms.
    """
    run = Run.of(history)
    found = [Finding(cause, evidence, why) for cause, (rule, why) in RULES.items() if (evidence := rule(run))]
    missing = [key for key in NEEDED if not run.knows(key)]
    if found or not (missing or run.length < SHORTEST):
        return found
    return [Finding(NOT_ENOUGH, None, f"the history lacks {', '.join(missing)}" if missing else
                    f"there are {run.length} iterations, and {SHORTEST} are needed")]


class Run:
    """The history of one run as columns of numbers, in the order of the iterations; NaN where one is unknown."""

    def __init__(self, columns: Mapping[str, Numbers]) -> None:
        self.columns = columns
        self.iteration = columns.get("iteration", np.empty(0))
        self.length = len(self.iteration)
        self.begins = self.length > 0 and self.iteration[0] == 1  # the policy is still the reference there

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]) -> Run:
        lines: list[Mapping[str, Any]] = list(history) if not isinstance(history, Mapping) else [
            dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=False)]
        arms = {line.get("arm") for line in lines}
        if len(arms) > 1:
            raise InputError(f"the history has lines of {len(arms)} arms: give those of one")
        by_iteration = {line["iteration"]: line for line in lines
                        if math.isfinite(number(line.get("iteration")))}
        ordered = [by_iteration[i] for i in sorted(by_iteration)]
        keys = dict.fromkeys(key for line in ordered for key in line)
        return cls({key: np.array([number(line.get(key)) for line in ordered]) for key in keys})

    def knows(self, *keys: str) -> bool:
        """Whether each of these quantities is known at half of the iterations or more."""
        return all(key in self.columns and np.isfinite(self.columns[key]).mean() >= 0.5 for key in keys) \
            and self.length > 0

    def __getitem__(self, key: str) -> Numbers:
        return self.columns[key]

    def first(self, key: str, flags: Any) -> Evidence | None:
        """The quantity at the first iteration that is flagged; None where none is."""
        here = np.flatnonzero(flags & np.isfinite(self[key]))
        return Evidence(key, int(self.iteration[here[0]]), float(self[key][here[0]])) if len(here) else None


def number(value: Any) -> float:
    """A number as a float; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


# --- the rules ------------------------------------------------------------------------------------------------------


def ratio_is_off(run: Run) -> Any:
    """Where the first ratio of an update, before any step, is not 1. Shapes: -> (iterations,) bool."""
    return np.abs(run["ratio_first"] - 1) > 0.001


def sampled_kl_is_off(run: Run) -> bool:
    """Whether the two KLs of line 1 disagree: policy and reference are equal there, so both are 0."""
    return bool(abs(run["kl_k1"][0] - run["kl"][0]) > 0.01)


def temperature(run: Run) -> Evidence | None:
    known = run.begins and run.knows("ratio_first", "kl", "kl_k1")
    return run.first("ratio_first", ratio_is_off(run)) if known and sampled_kl_is_off(run) else None


def dropout(run: Run) -> Evidence | None:
    known = run.begins and run.knows("ratio_first", "kl", "kl_k1")
    return run.first("ratio_first", ratio_is_off(run)) if known and not sampled_kl_is_off(run) else None


def learning_rate(run: Run) -> Evidence | None:
    known = run.knows("ratio_first", "clip_fraction") and not ratio_is_off(run)[0]
    return run.first("clip_fraction", run["clip_fraction"] > 0.25) if known else None


def score_at_the_pad(run: Run) -> Evidence | None:
    if not (run.begins and run.knows("score", "score_std")):
        return None
    first = run.iteration == 1
    return (run.first("score_std", first & ((run["score_std"] < 0.7) | (run["score_std"] > 1.4)))
            or run.first("score", first & (np.abs(run["score"]) > 0.5)))


def own_reference(run: Run) -> Evidence | None:
    known = run.length > 3 and run.knows("kl", "clip_fraction")
    still = known and np.nanmax(np.abs(run["kl"])) < 1e-3 and np.nanmax(run["clip_fraction"]) > 0
    return run.first("kl", run.iteration > run.iteration[0]) if still else None


def no_kl(run: Run) -> Evidence | None:
    if run.knows("kl_coef"):
        free = np.nanmax(np.abs(run["kl_coef"])) == 0
        return run.first("kl_coef", np.isfinite(run["kl_coef"])) if free else None
    if not run.knows("score", "reward", "kl"):
        return None
    far = run["kl"] > 0.5  # there, a price would show
    paid = np.abs(run["score"] - run["reward"]) > 1e-3 * run["kl"]
    return run.first("reward", far) if far.sum() > 2 and not (far & paid).any() else None


def kl_sign(run: Run) -> Evidence | None:
    if run.length < 4 or not run.knows("reward", "kl", "kl_coef") or not np.nanmin(run["kl_coef"]) > 0:
        return None
    worse = (run["reward"] < run["reward"][0] - 1) & (run["kl"] > 10)
    return run.first("reward", worse) if worse[-3:].any() and not worse[1] else None  # it grows, it does not jump


def kl_per_token(run: Run) -> Evidence | None:
    if run.length < 4 or not run.knows("kl", "kl_coef"):
        return None
    falls = np.append(np.diff(run["kl_coef"]) < 0, False)  # what the controller made of this iteration's KL
    wrong = falls & (run["kl"] > 1.1 * PPOConfig().kl_target)
    return run.first("kl_coef", wrong) if wrong.sum() > 2 else None


def whitened_returns(run: Run) -> Evidence | None:
    if run.length < SHORTEST or not run.knows("value_loss"):
        return None
    stuck = np.nanmin(run["value_loss"]) > 0.45 and np.nanmax(run["value_loss"]) < 0.55
    return run.first("value_loss", run.iteration > run.iteration[run.length // 2 - 1]) if stuck else None


def eos_masked(run: Run) -> Evidence | None:
    if run.length < SHORTEST or not run.knows("policy_loss", "ratio_first") or ratio_is_off(run).any():
        return None
    late = run.iteration > run.iteration[-1 - run.length // 4]  # the learning rate is almost 0 there
    biased = abs(np.nanmean(run["policy_loss"][late])) > 0.005
    return run.first("policy_loss", late & (np.abs(run["policy_loss"]) > 0.005)) if biased else None


# Those that need one line come first, and those that need a whole run last
RULES: dict[str, tuple[Callable[[Run], Evidence | None], str]] = {
    "temperature": (temperature, "the first ratio must be 1; the old log-probabilities are wrong, as kl_k1 shows"),
    "dropout": (dropout, "the first ratio must be 1; the old log-probabilities are right, so the update's are wrong"),
    "learning rate": (learning_rate, "one update moves the policy much too far"),
    "score at the pad": (score_at_the_pad, "the fine-tuned model's scores have mean 0 and standard deviation 1"),
    "own reference": (own_reference, "the policy changes and its KL stays 0"),
    "no KL": (no_kl, "nothing is charged for the KL"),
    "KL sign": (kl_sign, "the reward falls while the KL grows: PPO maximises something else"),
    "KL per token": (kl_per_token, "the coefficient falls while the KL is above its target"),
    "whitened returns": (whitened_returns, "the value loss does not move"),
    "EOS masked": (eos_masked, "the loss is no mean over the tokens whose advantages were whitened"),
}
