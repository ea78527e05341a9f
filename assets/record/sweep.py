"""What happens when the reward is wrong? PPO at coefficients from 0 upwards, best of n, and a second round of labels.

Records what notebook 07 draws, over several seeds: each is a finished run, with a fine-tuned model, rankings and a
reward model of its own. A part is a few minutes on one core.

    SEED/coefficients      PPO at each coefficient: history, evaluation on held-out openings, a few stories
    SEED/best_of_n         the best of 1, 2, 4, ... by the reward model, and by the gold reward as the perfect judge
    SEED/length            what the fine-tuned model writes: length, gold and proxy of every ending

of the first seed only (`repairs.py` records repairs at one price over all seeds):

    SEED/adaptive          PPO with the adaptive coefficient
    SEED/second_round      the simulated panel ranks endings of the policy without a penalty; refit, and run again
    SEED/nearby_round      the same about endings of the policy with a small one
    SEED/more_of_the_same  the control: as many new rankings, but of the fine-tuned model's endings only

    make record ONLY=sweep
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rounds
import torch
from keeping import rounded, write
from stages import FinishedRun, RewardModel, made_once
from torch import Tensor
from workbench import Bench, BenchSizes, Judge, begin, by_section, evaluated, facts, listed, plain_endings, trained

from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.rankings import Ranking
from rlhf_mini.sampling import best_of_n_index, best_of_n_kl

HACKED, NEARBY, SAME = ROUNDS = ("second_round", "nearby_round", "more_of_the_same")
ASKED_ABOUT = {HACKED: 0.0, NEARBY: 0.05}  # coefficient of the policy whose endings are labelled
REFIT = "refit"  # the part of a round that its others start from


@dataclass(frozen=True)
class Sizes(BenchSizes):
    """How much is recorded; the rest is as in the run."""

    whole: tuple[int, ...] = (3,)  # seeds with the adaptive coefficient and new rounds of labels
    coefficients: tuple[float, ...] = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.3, 0.8)
    again: tuple[float, ...] = (0.0, 0.05)  # coefficients that are run again with the refitted reward model
    most: int = 64  # candidates of best of n, on `openings`; a power of two


def settings(sizes: Sizes) -> dict[str, Any]:
    """What the recording depends on, besides the runs."""
    return {"sizes": asdict(sizes), "ppo": asdict(PPOConfig()), "reward": asdict(RewardConfig())}


def parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """Seed, section and name of every part, and the parts whose models it needs."""
    names: dict[str, tuple[str, ...]] = {}
    for seed in sizes.seeds:
        names |= {f"{seed}/about": (), f"{seed}/coefficients/sft": ()}
        names |= {f"{seed}/coefficients/{kl_coef:g}": () for kl_coef in sizes.coefficients}
        if seed in sizes.whole:
            names[f"{seed}/adaptive/{PPOConfig().kl_coef:g}"] = ()
        names |= {f"{seed}/best_of_n/by": (), f"{seed}/length/endings": ()}
        for kind in ROUNDS if seed in sizes.whole else ():
            policies = {0.0, ASKED_ABOUT.get(kind, 0.0)} & set(sizes.coefficients)
            refit = f"{seed}/{kind}/{REFIT}"
            names[refit] = tuple(f"{seed}/coefficients/{kl_coef:g}" for kl_coef in sorted(policies))
            names |= {f"{seed}/{kind}/{kl_coef:g}": (refit,) for kl_coef in sizes.again}
    return names


def make(part: str, work: Path, run_of: Callable[[int], FinishedRun], sizes: Sizes) -> Any:
    """One part; `run_of` opens the finished run of a seed.

    `work` keeps the models that other parts need, and they are made again where it is lost.
    """
    seed, section, *rest = part.split("/")
    bench, name = begin(run_of(int(seed)), work, sizes), "/".join(rest)
    if section == "about":
        return {"seed": bench.run.seed, "sizes": asdict(sizes), "ppo": asdict(bench.loop.config.ppo)}
    if section == "best_of_n":
        return picked_by_each(bench, sizes.most)
    if section == "length":
        samples = plain_endings(bench)
        return listed(facts(samples, bench.first.of_samples(samples)))
    if name == "sft":
        return evaluated(bench, bench.sft, bench.first)[1]
    if section == "adaptive":
        return {"target": bench.loop.config.ppo.kl_target, **swept(bench, float(name), bench.first, adaptive=True)}
    if section == "coefficients":
        return swept(bench, float(name), bench.first)
    return second_round(bench, section) if name == REFIT else swept(bench, float(name), refitted(bench, section))


def gather(found: dict[str, Any], out: Path) -> None:
    """All parts as one file: of each seed its sections; what came of a refit stands in its section."""
    write(out, rounded({"seeds": by_section(found, merged=(REFIT,))}))


# --- PPO --------------------------------------------------------------------------------------------------------


def swept(bench: Bench, kl_coef: float, judge: Judge, adaptive: bool = False) -> dict[str, Any]:
    """PPO at a coefficient, and what came of it; a policy that will be asked about is kept."""
    policy, _, found = trained(bench, judge, kl_coef=kl_coef, adaptive=adaptive)
    if judge is bench.first and not adaptive and kl_coef in ASKED_ABOUT.values():
        made_once(policy_folder(bench, kl_coef), lambda at: save_language_model(policy.model, policy.tokenizer, at))
    return {"adaptive": adaptive, **found}


def policy_folder(bench: Bench, kl_coef: float) -> Path:
    """Where the first round's policy at a coefficient is kept."""
    return bench.work / f"policy-{kl_coef:g}"


def policy_of(bench: Bench, kl_coef: float) -> Any:
    """The first round's policy at one of the coefficients asked about, trained again where its folder is gone."""
    folder = policy_folder(bench, kl_coef)
    if not folder.exists():
        swept(bench, kl_coef, bench.first)
    return load_language_model(folder)[0]


# --- best of n --------------------------------------------------------------------------------------------------


def picked_by_each(bench: Bench, most: int) -> dict[str, list[dict[str, float]]]:
    """Means over what each of the two judges, reward model and panel, picks, for n = 1, 2, 4, ..."""
    openings = [opening for opening in bench.loop.task.held_out[:bench.sizes.openings] for _ in range(most)]
    samples = bench.loop.sample(bench.sft.model, openings, "best of n", score=bench.first.of_rollout)
    known = facts(samples, samples.proxy.double())
    return {by: [picked(known, by, 2 ** k) for k in range(most.bit_length())] for by in ("proxy", "gold")}


def picked(known: dict[str, Tensor], by: str, n: int) -> dict[str, float]:
    """Means over the best of every n endings in a row, by one of the columns, and the KL bound."""
    groups = known[by].view(-1, n)
    index = torch.arange(len(groups)) * n + best_of_n_index(groups)
    return {"n": n, "kl": best_of_n_kl(n), **{name: column[index].double().mean().item()
                                              for name, column in known.items()}}


# --- a second round of labels -----------------------------------------------------------------------------------


def second_round(bench: Bench, kind: str) -> dict[str, Any]:
    """New labels, a reward model fitted on old and new ones, and what it says."""
    judge = refitted(bench, kind)
    return {"labels": rounds.counted(labels_of(bench, kind)), "reward_model": compared(bench, judge),
            "length": judge.of_samples(plain_endings(bench)).tolist()}


def labels_of(bench: Bench, kind: str) -> list[Ranking]:
    """The new rankings of a round: of endings of the policy it asks about, beside the fine-tuned model's."""
    writer = policy_of(bench, ASKED_ABOUT[kind]) if kind in ASKED_ABOUT else bench.sft.model
    return rounds.new_labels(bench, writer, kind)


def refitted(bench: Bench, kind: str) -> RewardModel:
    """The reward model of a round."""
    return rounds.refitted(bench, kind, lambda: labels_of(bench, kind))


def compared(bench: Bench, judge: RewardModel) -> dict[str, Any]:
    """The first and the refitted reward model on the same texts.

    Accuracy is on the run's held-out pairs. On held-out openings the policy without a penalty and the fine-tuned model
    wrote an ending each: their scores by both, and their gold reward.
    """
    found = rounds.accuracies(bench, judge)
    for name, policy in (("hacked", policy_of(bench, 0.0)), ("sft", bench.sft.model)):
        samples = bench.loop.sample(policy, bench.loop.task.held_out[:bench.sizes.openings], "evaluation")
        known = facts(samples, bench.first.of_samples(samples)) | {"refitted": judge.of_samples(samples)}
        found[name] = listed(known)
    return found
