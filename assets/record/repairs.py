"""What helps where the reward is wrong? Repairs at one price, each with its control, over several whole runs.

A part trains from the fine-tuned model, at a price at which gold falls and with as many endings as the baseline, and is
evaluated on held-out openings. It names the judge that gives the score; the run's own reward model is asked, too
(`proxy_first`). The last two questions, where the KL stands and how old endings may be, are asked at the usual price.

    SEED/baseline           PPO with the run's reward model
    SEED/second_round       refitted on old labels and new ones, of the baseline's endings beside the fine-tuned model's
    SEED/more_of_the_same   its control: as many new labels, of the fine-tuned model's endings alone
    SEED/same_labels        and another one: the old labels alone, fitted with another seed
    SEED/ENSEMBLE/members   four reward models, "fits" with different seeds or "heads" on one trunk: their accuracy, and
                            where they disagree, ending by ending; no policy is trained
    SEED/ENSEMBLE/mean      their mean as the score, and how far they disagree on the final policy's endings
    SEED/ENSEMBLE/minimum   the same with their minimum
    SEED/length             the length regressed out of the score
    SEED/kl/PLACE           REINFORCE with KL as k1 in the reward, or as k2 or k3 in the loss: only the place differs
    SEED/reused/TIMES       old endings without weights; with "TIMES truncated", they have truncated ones

About old endings. All parts of `reused` make equally many updates, each on a whole batch of 128 endings. A batch serves
1, 4 or 16 updates in a row, so the policy that wrote it lags behind by up to 0, 3 or 15 updates, and there are fewer
batches. The advantages, REINFORCE's, are of the policy that wrote. No part clips. Without weights the loss is
-advantage * logp, as if the endings were new; with them each token counts min(policy / writer, 2) times.
Sources: Espeholt et al. 2018 (truncated weights, V-trace), Yao et al. 2025 (the same for language models, TIS).

    make record ONLY=repairs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rounds
import torch
from judges import COMBINED, ENSEMBLES, Combined, disagreement, same_labels, standard, without_length
from keeping import rounded, write
from stages import FinishedRun, RewardModel, made_once
from torch import Tensor
from workbench import Bench, BenchSizes, Judge, begin, by_section, facts, listed, plain_endings, trained

from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.errors import InputError
from rlhf_mini.kl import masked_mean
from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.methods import METHODS, Batch, Method, batch_advantages, clipped_loss
from rlhf_mini.rankings import Ranking

BASELINE, SAME_LABELS = "baseline", "same_labels"
ROUNDS = ("second_round", "more_of_the_same")
PLACES = {"k1 in the reward": METHODS["REINFORCE"],
          "k2 in the loss": Method(lambda batch: batch_advantages(batch.score), partial(clipped_loss, kl_kind="k2")),
          "k3 in the loss": Method(lambda batch: batch_advantages(batch.score), partial(clipped_loss, kl_kind="k3"))}
TRUNCATED = " truncated"


@dataclass(frozen=True)
class Sizes(BenchSizes):
    """How much is recorded; the rest is as in the run."""

    iterations: int = 30  # what is to be repaired happens in the first 15 of the 60 of the sweep
    every: int = 30
    price: float = 0.002  # gold falls there in the first two seeds of the sweep; at 0 it is near its floor in most
    kl_price: float = PPOConfig().kl_coef  # where it matters: of the places of the KL, and of old endings
    reused: tuple[int, ...] = (1, 4, 16)  # how often each batch is used
    updates: int = 64  # of each part of `reused`
    truncation: float = 2.0


def settings(sizes: Sizes) -> dict[str, Any]:
    """What the recording depends on, besides the runs."""
    return {"sizes": asdict(sizes), "ppo": asdict(PPOConfig()), "reward": asdict(RewardConfig())}


def parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """The name of every part, and the parts whose models it needs."""
    names: dict[str, tuple[str, ...]] = {}
    for seed in sizes.seeds:
        baseline, same = f"{seed}/{BASELINE}", f"{seed}/{SAME_LABELS}"
        names |= {baseline: (), same: (), f"{seed}/second_round": (baseline,), f"{seed}/more_of_the_same": ()}
        for kind in ENSEMBLES:
            members = f"{seed}/{kind}/members"
            names[members] = (baseline, same)
            names |= {f"{seed}/{kind}/{how}": (members,) for how in COMBINED}
        names[f"{seed}/length"] = ()
        names |= {f"{seed}/kl/{place}": () for place in PLACES}
        names |= {f"{seed}/reused/{times}": () for times in sizes.reused}
        names |= {f"{seed}/reused/{times}{TRUNCATED}": () for times in sizes.reused if times > 1}
    return names


def make(part: str, work: Path, run_of: Callable[[int], FinishedRun], sizes: Sizes) -> Any:
    """One part; `run_of` opens the finished run of a seed.

    `work` keeps the models that other parts need, and they are made again where it is lost.
    """
    seed, section, *rest = part.split("/")
    bench, name = begin(run_of(int(seed)), work, sizes), "/".join(rest)
    if section == BASELINE:
        return baseline(bench, sizes.price)
    if section in ENSEMBLES:
        members = ENSEMBLES[section](bench)
        return known_of(bench, members, sizes.price) if name == "members" else ensemble(bench, members, name, sizes)
    if section == "length":
        shorn, slope = without_length(bench.first, plain_endings(bench))
        return {"slope": slope, **judged(bench, shorn, sizes.price)}
    if section == "kl":
        return unless_it_diverges(lambda: trained(bench, bench.first, PLACES[name], kl_coef=sizes.kl_price)[2])
    if section == "reused":
        return unless_it_diverges(lambda: reused(bench, name, sizes))
    if section == SAME_LABELS:
        return judged(bench, same_labels(bench, 1), sizes.price)
    labels = labels_of(bench, section, sizes.price)
    judge = rounds.refitted(bench, section, lambda: labels)
    return {"labels": rounds.counted(labels), **judged(bench, judge, sizes.price)}


def gather(found: dict[str, Any], sizes: Sizes, out: Path) -> None:
    """All parts as one file: the sizes, and of each seed its sections."""
    write(out, rounded({"sizes": asdict(sizes), "seeds": by_section(found)}))


# --- the baseline and other judges ------------------------------------------------------------------------------


def baseline(bench: Bench, price: float) -> dict[str, Any]:
    """PPO with the run's reward model; its policy is kept."""
    policy, _, found = trained(bench, bench.first, kl_coef=price)
    made_once(bench.work / BASELINE, lambda at: save_language_model(policy.model, policy.tokenizer, at))
    return found


def baseline_policy(bench: Bench, price: float) -> Any:
    """The baseline's policy, trained again where its folder is gone."""
    if not (bench.work / BASELINE).exists():
        baseline(bench, price)
    return load_language_model(bench.work / BASELINE)[0]


def judged(bench: Bench, judge: Judge, price: float) -> dict[str, Any]:
    """PPO with another judge, and how that one does on the run's held-out pairs."""
    return {"reward_model": rounds.accuracies(bench, judge), **trained(bench, judge, kl_coef=price)[2]}


def labels_of(bench: Bench, kind: str, price: float) -> list[Ranking]:
    """The new labels of a round, or of its control."""
    writer = baseline_policy(bench, price) if kind == "second_round" else bench.sft.model
    return rounds.new_labels(bench, writer, kind)


# --- ensembles --------------------------------------------------------------------------------------------------


def known_of(bench: Bench, members: tuple[RewardModel, ...], price: float) -> dict[str, Any]:
    """Each member's accuracy; and on held-out openings, what the fine-tuned model and the baseline wrote.

    `proxy` is the run's reward model, which the baseline has learnt from; `disagreement` the members' deviation.
    """
    openings = bench.loop.task.held_out[:bench.sizes.openings]
    found: dict[str, Any] = {
        "accuracy": [rounds.accuracies(bench, member)["accuracy"]["refitted"] for member in members]}
    for name, writer in (("sft", bench.sft.model), (BASELINE, baseline_policy(bench, price))):
        samples = bench.loop.sample(writer, openings, "evaluation")
        known = facts(samples, bench.first.of_samples(samples))
        found[name] = listed(known | {"disagreement": disagreement(members, samples)})
    return found


def ensemble(bench: Bench, members: tuple[RewardModel, ...], how: str, sizes: Sizes) -> dict[str, Any]:
    """PPO on the members' mean or minimum, and how far they disagree on what the policy writes in the end."""
    judge = standard(Combined(members, COMBINED[how]), plain_endings(bench))
    _, samples, found = trained(bench, judge, kl_coef=sizes.price)
    each = disagreement(members, samples)
    return {"reward_model": rounds.accuracies(bench, judge), **found,
            "disagreement": {"mean": each.mean().item(), "std": each.std().item()}}


def unless_it_diverges(train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What came of a training; of one that ends in numbers that are not finite, when and how: that is a result, too."""
    try:
        return train()
    except InputError as error:
        if "iteration " not in str(error):
            raise
        return {"diverged": str(error)}


# --- old endings ------------------------------------------------------------------------------------------------


def reused(bench: Bench, name: str, sizes: Sizes) -> dict[str, Any]:
    """REINFORCE that uses each batch several times, without weights or with truncated ones."""
    times = int(name.removesuffix(TRUNCATED))
    truncation = sizes.truncation if name.endswith(TRUNCATED) else None
    method = Method(METHODS["REINFORCE"].advantages, partial(stale_loss, truncation=truncation))
    return trained(bench, bench.first, method, kl_coef=sizes.kl_price, iterations=max(1, sizes.updates // times),
                   epochs=times, minibatches=1)[2]


def stale_loss(logp: Tensor, batch: Batch, advantages: Tensor, truncation: float | None) -> Tensor:
    """-advantage * logp of each token, times min(policy / writer, truncation) where there is one; the mean over tokens.

    The weights have no gradient. Shapes: (B, T), B endings, (B,) -> scalar.
    """
    weight = torch.ones_like(logp)
    if truncation is not None:
        weight = (logp.detach() - batch.rollout.logp).exp().clamp(max=truncation)
    return masked_mean(-advantages[:, None] * weight * logp, batch.rollout.mask, batch.tokens)
