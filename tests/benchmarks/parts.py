"""The stages of a run in pieces of some seconds, each with its useful work, and how often a run does each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import flops
import torch
from flops import Shape
from machine import Work

from rlhf_mini import rankings, tales
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.evaluate import Samples, sample_endings
from rlhf_mini.language_model import encode_prompts, frozen_copy, load_language_model
from rlhf_mini.metrics import DISTINCT_AMONG, evaluate_samples
from rlhf_mini.optimisers import muon_and_adamw
from rlhf_mini.policy import compare_to_reference
from rlhf_mini.ppo import choose_prompts, gae, ppo_iteration, shaped_rewards, start_ppo, update
from rlhf_mini.reward import fit_reward, load_reward_model, score_rollout
from rlhf_mini.reward_model import token_rows
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.tasks import TEST_SHARE
from rlhf_mini.sampling import Rollout, sample
from rlhf_mini.sft import encode_demonstrations, train_sft

RUN = RunConfig()
PPO = PPOConfig(learning_rate=1e-6)  # so small that the policy, and with it the length of its endings, stays as it is
STEPS = 8  # of fine-tuning, and of the reward fit, in one turn
BATCH = 256  # endings that an evaluation samples at once
BEST_OF = 16
PROMPTS = 2000


@dataclass(frozen=True)
class Part:
    """A piece of a stage: what it does, and how often a run of the default settings does it."""

    run: Callable[[], Work]
    times: float = 0.0


class Material:
    """Models and texts that all contenders work on: those of assets/run-3."""

    def __init__(self) -> None:
        self.base, self.tokenizer = load_language_model(asset("tiny-tales-gpt2"))
        self.sft, _ = load_language_model(asset("run-3") / "sft")
        self.reward, self.reward_tokenizer = load_reward_model(asset("run-3") / "reward_model")
        self.reference = frozen_copy(self.sft)
        self.shape = Shape.of(self.sft)
        self.eos, self.pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id

    @cached_property
    def openings(self) -> list[str]:
        return tales.openings(PROMPTS, 0, "train")

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        return encode_prompts(self.tokenizer, self.openings)

    @cached_property
    def demonstrations(self) -> list[tuple[str, str]]:
        return [tales.write(seed, "train") for seed in range(STEPS * SFTConfig().batch_size)]

    @cached_property
    def judged(self) -> list[tuple[str, list[str], list[list[int]]]]:
        """Rankings for one turn of the reward fit, which passes over them as often as a run does over its own."""
        config = RewardConfig()
        records = islice(rankings.load_rankings(asset("run-3") / "rankings.jsonl"),
                         STEPS * config.batch_size // config.epochs)
        return [(record.prompt, record.completions, record.ranking) for record in records]

    def score(self, rollout: Rollout) -> torch.Tensor:
        return score_rollout(self.reward, rollout)

    def sampled(self, model: Any, prompts: Sequence[Sequence[int]], seed: int = 0) -> Rollout:
        return sample(model, prompts, max_new_tokens=PPO.max_new_tokens, temperature=PPO.temperature, eos_id=self.eos,
                      pad_id=self.pad, generator=torch.Generator().manual_seed(seed))


def sizes(rollout: Rollout) -> tuple[list[int], list[int]]:
    """The tokens of each prompt and of each ending."""
    return [len(prompt) for prompt in rollout.prompts], rollout.lengths.tolist()


# --- fine-tuning and the reward model ---------------------------------------------------------------------------


def sft_parts(material: Material) -> dict[str, Part]:
    """Some steps of fine-tuning, and Muon's share of them by itself."""
    config = SFTConfig(steps=STEPS)
    examples = encode_demonstrations(material.base, material.tokenizer, material.demonstrations)
    prompts, endings = [e.start for e in examples], [len(e.tokens) - e.start for e in examples]
    work = Work(flops.sft(material.shape, prompts, endings), sum(endings))
    model = copy.deepcopy(material.base)
    muon = muon_and_adamw(model, config.weight_decay)[0]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def fine_tune() -> Work:
        for _ in train_sft(copy.deepcopy(material.base), material.tokenizer, material.demonstrations, config):
            pass
        return work

    def muon_alone() -> Work:
        for _ in range(STEPS):
            muon.step()
        return Work(STEPS * flops.newton_schulz(material.shape), 0)

    return {"SFT": Part(fine_tune, SFTConfig().steps / STEPS), "Muon": Part(muon_alone)}


def reward_parts(material: Material) -> dict[str, Part]:
    """Some steps of the reward fit."""
    config = RewardConfig()
    prompts = [prompt for prompt, completions, _ in material.judged for _ in completions]
    texts = [text for _, completions, _ in material.judged for text in completions]
    lengths = [len(row) for row in token_rows(material.reward, material.reward_tokenizer, prompts, texts)]
    work = Work(config.epochs * flops.reward_fit(material.shape, lengths), config.epochs * sum(lengths))

    def fit() -> Work:
        for _ in fit_reward(copy.deepcopy(material.reward), material.reward_tokenizer, material.judged, config):
            pass
        return work

    tests = round(TEST_SHARE * RUN.openings)
    train = RUN.openings - tests + RUN.judged_by_all * (len(tales.PANEL) - 1)  # records: some openings get one of each
    steps = config.epochs * -(-train // config.batch_size)
    return {"reward fit": Part(fit, steps / STEPS)}


# --- PPO --------------------------------------------------------------------------------------------------------


def iteration_parts(material: Material) -> dict[str, Part]:
    """A whole iteration, and its four steps by themselves on one batch."""
    shape, state = material.shape, start_ppo(material.sft, PPO)
    generator = torch.Generator().manual_seed(0)
    chosen = choose_prompts(material.prompt_ids, PPO.episodes, generator)
    batch = material.sampled(state.policy, chosen)
    prompts, endings = sizes(batch)
    rows, tokens = [len(row) for row in batch.rows], sum(endings)
    logp_ref, _, _ = compare_to_reference(state.policy, material.reference, batch, PPO.temperature)
    rewards = shaped_rewards(material.score(batch), batch.logp, logp_ref, batch.mask, PPO.kl_coef)
    advantages, returns = gae(rewards, batch.values, batch.mask, PPO.gamma, PPO.lam)

    def iteration() -> Work:
        rollout = ppo_iteration(state, material.reference, material.score, material.prompt_ids, PPO, material.eos,
                                material.pad).rollout
        return Work(flops.ppo_iteration(shape, *sizes(rollout), PPO.epochs), sum(sizes(rollout)[1]))

    def sampling() -> Work:
        material.sampled(state.policy, chosen)
        return Work(flops.next_tokens(shape, prompts, endings) + shape.scalar_head(tokens), tokens)

    def reference() -> Work:
        compare_to_reference(state.policy, material.reference, batch, PPO.temperature)
        return Work(flops.next_tokens(shape, prompts, endings), tokens)

    def score() -> Work:
        material.score(batch)
        return Work(flops.scores(shape, rows), tokens)

    def updates() -> Work:
        update(state, batch, advantages, returns, PPO, generator)
        return Work(flops.ppo_update(shape, prompts, endings, PPO.epochs), tokens)

    arms = 2  # with the KL penalty and without
    return {"PPO iteration": Part(iteration, arms * PPOConfig().iterations), "sampling": Part(sampling),
            "reference": Part(reference), "score": Part(score), "update": Part(updates)}


# --- evaluation and the other endings that a run samples --------------------------------------------------------


def evaluation_parts(material: Material) -> dict[str, Part]:
    """Endings of a policy (with its KL from the reference), of the fine-tuned model, best of n, endings to rank."""
    each, openings = RUN.completions, material.openings
    batches, best = RUN.samples / BATCH, DISTINCT_AMONG * BEST_OF / BATCH

    def part(prompts: list[str], times: float, reference: Any = None, score: Any = None) -> Part:
        ids = encode_prompts(material.tokenizer, prompts)

        def run() -> Work:
            samples = sample_endings(material.sft, material.tokenizer, prompts, max_new_tokens=PPO.max_new_tokens,
                                     temperature=PPO.temperature, seed=0, reference=reference, score=score)
            if score:
                evaluate_samples(samples)
            return evaluated(material.shape, ids, samples, reference is not None, score is not None)
        return Part(run, times)

    def repeated(times: int) -> list[str]:
        return [opening for opening in openings[:BATCH // times] for _ in range(times)]

    return {"evaluation, policy": part(openings[:BATCH], 3 * batches, material.reference, material.score),
            "evaluation, SFT": part(openings[:BATCH], batches, None, material.score),
            "evaluation, best of n": part(repeated(BEST_OF), best, None, material.score),
            "endings to rank": part(repeated(each), RUN.openings * each / BATCH),
            "endings to normalise on": part(openings[:BATCH], batches, None, material.score)}


def evaluated(shape: Shape, ids: list[list[int]], samples: Samples, reference: bool, score: bool) -> Work:
    """The useful work of sampling these endings, and of reading each again by the reference and by the reward model."""
    prompts, endings = [len(row) for row in ids], samples.lengths
    flop = (1 + reference) * flops.next_tokens(shape, prompts, endings)
    if score:
        flop += flops.scores(shape, [p + e for p, e in zip(prompts, endings, strict=True)])
    return Work(flop, sum(endings))
