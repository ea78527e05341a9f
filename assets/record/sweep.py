"""What happens when the reward is wrong? PPO at coefficients from 0 upwards, and best of n.

Records what notebook 07 draws, over several seeds: each is a finished run, with a fine-tuned model, rankings and a
reward model of its own. A part is a few minutes on one core. What helps against it is in `repairs.py`.

    SEED/coefficients      PPO at each coefficient: history, evaluation on held-out openings, a few stories; of the
                           first seed, what it makes of the same openings every few iterations
    SEED/adaptive          PPO with the adaptive coefficient, of the first seed only
    SEED/best_of_n         the best of 1, 2, 4, ... by the reward model, and by the gold reward as the perfect judge
    SEED/length            what the fine-tuned model writes: length, gold and proxy of every ending

    make record ONLY=sweep
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from keeping import rounded, write
from stages import FinishedRun
from torch import Tensor
from workbench import Bench, BenchSizes, begin, by_section, evaluated, facts, listed, plain_endings, trained

from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.sampling import best_of_n_index, best_of_n_kl


@dataclass(frozen=True)
class Sizes(BenchSizes):
    """How much is recorded; the rest is as in the run."""

    coefficients: tuple[float, ...] = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.15)
    further: tuple[float, ...] = (0.1, 0.3, 0.8)  # coefficients of the first seed only
    most: int = 64  # candidates of best of n, on `openings`; a power of two


def settings(sizes: Sizes) -> dict[str, Any]:
    """What the recording depends on, besides the runs."""
    return {"sizes": asdict(sizes), "ppo": asdict(PPOConfig()), "reward": asdict(RewardConfig())}


def parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """Seed, section and name of every part; none needs another."""
    names: list[str] = []
    for seed in sizes.seeds:
        first = seed == sizes.seeds[0]
        coefficients = sorted({*sizes.coefficients, *(sizes.further if first else ())})
        names += [f"{seed}/about", f"{seed}/coefficients/sft"]
        names += [f"{seed}/coefficients/{kl_coef:g}" for kl_coef in coefficients]
        names += [f"{seed}/adaptive/{PPOConfig().kl_coef:g}"] if first else []
        names += [f"{seed}/best_of_n/by", f"{seed}/length/endings"]
    return dict.fromkeys(names, ())


def make(part: str, work: Path, run_of: Callable[[int], FinishedRun], sizes: Sizes) -> Any:
    """One part; `run_of` opens the finished run of a seed."""
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
    adaptive = section == "adaptive"
    found = trained(bench, bench.first, kl_coef=float(name), adaptive=adaptive)[2]
    if bench.run.seed != sizes.seeds[0]:
        del found["told"]  # one seed tells enough
    return {"adaptive": adaptive, **({"target": bench.loop.config.ppo.kl_target} if adaptive else {}), **found}


def gather(found: dict[str, Any], out: Path) -> None:
    """All parts as one file: of each seed its sections."""
    write(out, rounded({"seeds": by_section(found)}))


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
