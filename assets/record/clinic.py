"""Runs with one fault each, and healthy ones: the patients of notebook 10.

A part is a short training by PPO from the kept run's fine-tuned model and reward model. Its fault is a setting, or a
function of the package that is replaced for as long as the training lasts. Seeds differ in the openings' order and in
every random number; the fine-tuned model and the reward model are the same.

    CASE/SEED    the history, and a few endings of the last iteration

The rules of `rlhf_mini.teaching.clinic` were written with the first seed, the references, and the five healthy runs of
`assets/seed_histories.json`.

    make clinic
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from keeping import rounded, write
from stages import FinishedRun, RewardModel, loop_of, ppo
from torch import nn
from workbench import DEMONSTRATIONS

import rlhf_mini.ppo as core
from rlhf_mini import pipeline, sampling
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.kl import live, masked_whiten
from rlhf_mini.language_model import context_length, decode_endings
from rlhf_mini.ppo import PPOIteration, Score
from rlhf_mini.reward import score_tokens
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.context import RunContext
from rlhf_mini.sampling import Rollout

HEALTHY = "healthy"
DROPPED = 0.1
HISTORY = ("iteration", "score", "score_std", "reward", "gold", "coherent", "grammatical", "kl", "kl_k1", "kl_coef",
           "entropy", "length", "ended", "explained_variance", "value_loss", "policy_loss", "ratio_first",
           "clip_fraction", "approx_kl", "grad_norm", "learning_rate")


@dataclass(frozen=True)
class Sizes:
    """How much is recorded; the rest is as in the run."""

    seeds: tuple[int, ...] = (1, 2)  # of every case; the first is what a student sees
    references: tuple[int, ...] = (11, 12)  # healthy runs that a case is compared with
    iterations: int = 20
    episodes: int = 64
    learning_rate: float = 4e-4  # twice the usual one, as in notebooks 06 and 07
    samples: int = 3


@dataclass(frozen=True)
class Fault:
    """Wrong settings, and what is replaced in the package while it trains."""

    changes: Callable[[PPOConfig], dict[str, Any]] = lambda config: {}
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext
    score: Callable[[RewardModel], Score] = lambda reward_model: reward_model.of_rollout


# --- the faults -------------------------------------------------------------------------------------------------


@contextmanager
def replaced(module: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """For the block, a function of a module is what `make` makes of the right one."""
    right = getattr(module, name)
    setattr(module, name, make(right))
    try:
        yield
    finally:
        setattr(module, name, right)


def kl_sign(right: Any) -> Any:
    """`shaped_rewards` that pays for KL instead of charging for it."""
    return lambda score, logp, logp_ref, mask, kl_coef: right(score, logp, logp_ref, mask, -kl_coef)


@contextmanager
def kl_per_token() -> Iterator[None]:
    """The controller gets nats per token, and its target is in nats per ending."""
    lengths = [1.0]

    def remembering(right: Any) -> Any:
        def rollout_of(*args: Any) -> Rollout:
            rollout = right(*args)
            lengths[0] = rollout.lengths.float().mean().item()
            return rollout
        return rollout_of

    with replaced(core, "rollout_of", remembering), \
         replaced(core, "adapt_kl_coef", lambda right: lambda coef, kl, *rest: right(coef, kl / lengths[0], *rest)):
        yield


def untempered(right: Any) -> Any:
    """`token_logprobs` of sampling, without the temperature at which it samples."""
    return lambda logits, tokens, temperature: right(logits, tokens)


def without_eos(right: Any) -> Any:
    """`update` on a mask that leaves out the last token of every ending that has ended."""
    def update(state: Any, rollout: Rollout, *rest: Any) -> Any:
        last = torch.arange(rollout.mask.shape[1]) == rollout.lengths[:, None] - 1
        return right(state, replace(rollout, mask=rollout.mask & ~(last & rollout.ended[:, None])), *rest)
    return update


def at_the_pad(reward_model: RewardModel) -> Score:
    """The score is read in the last column, of rows that are filled with EOS to the length of the context."""
    return padded(reward_model, reward_model.tokenizer.eos_token_id, context_length(reward_model.model))


def near_the_end(reward_model: RewardModel) -> Score:
    """The same, of rows that are filled with the pad token to the length of the longest."""
    return padded(reward_model, reward_model.tokenizer.pad_token_id)


def padded(reward_model: RewardModel, fill: int, length: int = 0) -> Score:
    """A score that is read in the last column of padded rows."""
    def score(rollout: Rollout) -> torch.Tensor:
        rows = rollout.rows
        longest = max([length, *map(len, rows)])
        with torch.no_grad():
            return score_tokens(reward_model.model, [[*row, *[fill] * (longest - len(row))] for row in rows])
    return score


def whitened_returns(right: Any) -> Any:
    """`gae` whose returns are made of whitened advantages."""
    def gae(rewards: Any, values: Any, mask: Any, *rest: Any) -> Any:
        whitened = masked_whiten(right(rewards, values, mask, *rest)[0], mask)
        return whitened, live(whitened + values, mask)
    return gae


def own_reference(right: Any) -> Any:
    """`compare_to_reference` that gets the policy as the reference."""
    return lambda policy, reference, rollout, temperature: right(policy, policy, rollout, temperature)


def with_dropout(right: Any) -> Any:
    """`update` with dropout on."""
    def update(state: Any, *rest: Any) -> Any:
        layers = [layer for layer in state.policy.modules() if isinstance(layer, nn.Dropout)]
        for layer in layers:
            layer.p = DROPPED
            layer.train()
        try:
            return right(state, *rest)
        finally:
            for layer in layers:
                layer.eval()
    return update


FAULTS = {
    HEALTHY: Fault(),
    "KL sign": Fault(patch=lambda: replaced(core, "shaped_rewards", kl_sign)),
    "KL per token": Fault(lambda config: {"adaptive": True, "kl_coef": config.kl_coef / 3}, kl_per_token),
    "temperature": Fault(patch=lambda: replaced(sampling, "token_logprobs", untempered)),
    "EOS masked": Fault(patch=lambda: replaced(core, "update", without_eos)),
    "score at the pad": Fault(score=at_the_pad),
    "whitened returns": Fault(patch=lambda: replaced(core, "gae", whitened_returns)),
    "learning rate": Fault(lambda config: {"learning_rate": 50 * config.learning_rate}),
    "no KL": Fault(lambda config: {"kl_coef": 0.0}),
    "own reference": Fault(patch=lambda: replaced(core, "compare_to_reference", own_reference)),
    "dropout": Fault(patch=lambda: replaced(core, "update", with_dropout)),
}


# --- the recording ----------------------------------------------------------------------------------------------


HARMLESS = {"score at a near pad": Fault(score=near_the_end)}  # real, and it hardly changes a score: see 10


def settings(sizes: Sizes) -> dict[str, Any]:
    """What the recording depends on, besides the run."""
    return {"sizes": asdict(sizes), "ppo": asdict(PPOConfig()), "faults": [*FAULTS, *HARMLESS], "dropped": DROPPED}


def parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """Case and seed of every part, the references first; none needs another."""
    cases = [f"{case}/{seed}" for seed in sizes.seeds for case in FAULTS]
    return dict.fromkeys([*(f"{HEALTHY}/{seed}" for seed in sizes.references), *cases,
                          *(f"{case}/{sizes.seeds[0]}" for case in HARMLESS)], ())


def make(part: str, run: FinishedRun, sizes: Sizes) -> dict[str, Any]:
    """One part: the history of a short training with its fault in it, and some endings of its last iteration."""
    case, seed = part.split("/")
    fault, loop = {**FAULTS, **HARMLESS}[case], begin(run, int(seed), sizes)
    config = replace(loop.config.ppo, **fault.changes(loop.config.ppo))
    torch.manual_seed(int(seed))  # dropout draws from the global generator
    lines: list[dict[str, Any]] = []
    last: list[Rollout] = []
    found: dict[str, Any] = {}
    with fault.patch():
        _, training = ppo(run.sft, fault.score(run.reward_model), loop.task.prompts, config)
        try:
            lines.extend(pipeline.history_lines(loop, "ppo", remembered(training, last)))
        except InputError as error:
            if "iteration " not in str(error):
                raise
            found["stopped"] = str(error)
    return {"history": {key: [line[key] for line in lines] for key in HISTORY}, **found,
            "samples": told(loop, last[0], sizes.samples)}


def begin(run: FinishedRun, seed: int, sizes: Sizes) -> RunContext:
    """The loop with the settings of a run of this seed, but for the sizes."""
    config = RunConfig(out=Path("nowhere"), seed=seed, samples=2, demonstrations=DEMONSTRATIONS)
    ppo_config = replace(config.ppo, iterations=sizes.iterations, episodes=sizes.episodes,
                         learning_rate=sizes.learning_rate)
    return loop_of(replace(config, ppo=ppo_config), run.sft)


def remembered(training: Iterator[PPOIteration], last: list[Rollout]) -> Iterator[PPOIteration]:
    """The same iterations; `last` always holds the endings of the latest."""
    for iteration in training:
        last[:] = [iteration.rollout]
        yield iteration


def told(loop: RunContext, rollout: Rollout, count: int) -> list[dict[str, Any]]:
    """The first endings of a rollout, with their openings."""
    few = rollout.select(torch.arange(min(count, len(rollout.mask))))
    endings = decode_endings(loop.tokenizer, few.tokens, few.mask)
    openings = [loop.tokenizer.decode(prompt) for prompt in few.prompts]
    return [{"opening": opening, "ending": ending, "ended": ended}
            for opening, ending, ended in zip(openings, endings, few.ended.tolist(), strict=True)]


def gather(found: dict[str, Any], sizes: Sizes, out: Path) -> None:
    """All parts as one file. The cases have numbers in a mixed order, and which is which is not readable at a glance.

    `cases` is what a student sees; `again` are the histories of the other seeds, by number; `healthy` are references.
    """
    order = list(FAULTS)
    random.Random(20).shuffle(order)  # easy ones first, as it happens
    first, *others = sizes.seeds
    key = base64.b64encode(json.dumps(order).encode()).decode()
    again = {seed: {number: found[f"{case}/{seed}"]["history"] for number, case in enumerate(order, 1)}
             for seed in others}
    write(out, rounded({"sizes": asdict(sizes), "sealed": key,
                        "cases": {number: found[f"{case}/{first}"] for number, case in enumerate(order, 1)},
                        "healthy": {seed: found[f"{HEALTHY}/{seed}"]["history"] for seed in sizes.references},
                        "harmless": {case: found[f"{case}/{first}"]["history"] for case in HARMLESS},
                        "again": again}))
