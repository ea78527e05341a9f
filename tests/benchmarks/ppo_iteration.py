"""Time one PPO iteration of this package beside a naive one, and TRL's, in one process, on the same models and prompts.

All start from the fine-tuned model and the reward model of assets/run-3 and write endings of the length that it
writes. The naive loop does what a first implementation does: a separate critic of full size, `generate` (which runs
every row to the end of the longest), fresh forward passes for the old log-probabilities and values, logits for every
position of every padded row, and a log-softmax over all of them. TRL is measured where its last release with PPO is
installed (`pip install trl==1.12.0`); it, too, has a critic of full size.

    python tests/benchmarks/ppo_iteration.py --out assets/benchmark.json
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, TrainerCallback

from rlhf_mini import tales
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig
from rlhf_mini.kl import masked_whiten
from rlhf_mini.language_model import encode_prompts, frozen_copy, load_language_model
from rlhf_mini.ppo import gae, policy_loss, ppo_iteration, shaped_rewards, start_ppo, value_loss
from rlhf_mini.reward import load_reward_model, score_rollout
from rlhf_mini.sampling import pad_left, positions

CONFIG = PPOConfig(learning_rate=1e-6)  # so small that the model, and with it the lengths, stay as they are
PROMPTS = 2000
Seconds = list[float]


@dataclasses.dataclass
class Models:
    """What every contender starts from."""

    sft: Any
    reward: Any
    tokenizer: Any
    prompt_ids: list[list[int]]

    @property
    def eos(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_token_id


def load_models() -> Models:
    sft, tokenizer = load_language_model(asset("run-3") / "sft")
    reward, _ = load_reward_model(asset("run-3") / "reward_model")
    return Models(sft, reward, tokenizer, encode_prompts(tokenizer, tales.openings(PROMPTS, 0, "train")))


class Ours:
    """The package's own iteration."""

    def __init__(self, models: Models) -> None:
        self.models, self.reference = models, frozen_copy(models.sft)
        self.state = start_ppo(models.sft, CONFIG)

    def iterations(self, count: int) -> tuple[Seconds, float]:
        """Seconds of each iteration, and tokens per ending."""
        seconds, tokens = [], []
        for _ in range(count):
            started = time.perf_counter()
            done = ppo_iteration(self.state, self.reference, self.score, self.models.prompt_ids, CONFIG,
                                 self.models.eos, self.models.pad)
            seconds.append(time.perf_counter() - started)
            tokens.append(done.stats["length"])
        return seconds, statistics.mean(tokens)

    def score(self, rollout: Any) -> Tensor:
        return score_rollout(self.models.reward, rollout)


class Naive:
    """PPO as first written down: clear, correct, and wasteful at each step."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.policy, self.reference, self.critic = (copy.deepcopy(models.sft) for _ in range(3))
        self.value_head = nn.Linear(models.sft.config.n_embd, 1)
        trained = [*self.policy.parameters(), *self.critic.parameters(), *self.value_head.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=CONFIG.learning_rate, eps=CONFIG.adam_eps)

    def iterations(self, count: int) -> tuple[Seconds, float]:
        seconds, tokens = [], []
        for _ in range(count):
            started = time.perf_counter()
            tokens.append(self.iteration() / CONFIG.episodes)
            seconds.append(time.perf_counter() - started)
        return seconds, statistics.mean(tokens)

    def logp(self, model: Any, ids: Tensor, attention: Tensor, start: int) -> Tensor:
        logits = model(ids, attention_mask=attention, position_ids=positions(attention)).logits / CONFIG.temperature
        return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[:, start - 1:]

    def values(self, ids: Tensor, attention: Tensor, start: int) -> Tensor:
        hidden = self.critic.transformer(ids, attention_mask=attention, position_ids=positions(attention))
        return self.value_head(hidden.last_hidden_state).squeeze(-1)[:, start - 1:-1]

    def score(self, ids: Tensor, attention: Tensor) -> Tensor:
        hidden = self.models.reward.transformer(ids, attention_mask=attention, position_ids=positions(attention))
        last = attention.shape[1] - 1 - attention.flip(1).argmax(1)
        return self.models.reward.score(hidden.last_hidden_state[torch.arange(len(ids)), last]).squeeze(-1)

    def iteration(self) -> int:
        prompts, prompt_mask = pad_left(random.sample(self.models.prompt_ids, CONFIG.episodes), self.models.pad)
        start = prompts.shape[1]
        sampling = GenerationConfig(do_sample=True, top_k=0, temperature=CONFIG.temperature,
                                    eos_token_id=self.models.eos, pad_token_id=self.models.pad,
                                    max_new_tokens=CONFIG.max_new_tokens)
        with torch.no_grad():
            ids = self.policy.generate(prompts, attention_mask=prompt_mask.long(), generation_config=sampling)
            ends = (ids[:, start:] == self.models.eos).long()
            mask = ends.cumsum(1) - ends == 0  # up to and with the first EOS
            attention = torch.cat([prompt_mask, mask], 1).long()
            logp_old = self.logp(self.policy, ids, attention, start)
            logp_ref = self.logp(self.reference, ids, attention, start)
            values_old = self.values(ids, attention, start)
            score = self.score(ids, attention)
            rewards = shaped_rewards(score, logp_old, logp_ref, mask, CONFIG.kl_coef)
            advantages, returns = gae(rewards, values_old, mask, CONFIG.gamma, CONFIG.lam)
            advantages = masked_whiten(advantages, mask)
        for _ in range(CONFIG.epochs):
            for rows in torch.randperm(len(ids)).chunk(CONFIG.minibatches):
                logp = self.logp(self.policy, ids[rows], attention[rows], start)
                values = self.values(ids[rows], attention[rows], start)
                loss = policy_loss(logp, logp_old[rows], advantages[rows], mask[rows], CONFIG.clip)
                loss = loss + CONFIG.value_coef * value_loss(values, values_old[rows], returns[rows], mask[rows],
                                                             CONFIG.value_clip)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.policy.parameters(), CONFIG.max_grad_norm)
                self.optimizer.step()
        return int(mask.sum())


class Clock(TrainerCallback):
    """Notes when each update of a TRL trainer is done."""

    def __init__(self) -> None:
        self.ticks: Seconds = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ticks.append(time.perf_counter())


class Trl:
    """PPO as TRL 1.12.0 has it, with the same batch, minibatches, epochs and limits."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def iterations(self, count: int) -> tuple[Seconds, float]:
        """The first update of a trainer also builds what later ones use, so it is not counted."""
        from datasets import Dataset

        os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
        from trl.experimental.ppo import PPOConfig as TrlConfig
        from trl.experimental.ppo import PPOTrainer

        clock, models, tokenizer = Clock(), self.models, copy.deepcopy(self.models.tokenizer)
        tokenizer.padding_side = "left"  # as its generation wants it
        with tempfile.TemporaryDirectory() as folder:
            config = TrlConfig(
                output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                per_device_train_batch_size=CONFIG.episodes // CONFIG.minibatches,
                gradient_accumulation_steps=CONFIG.minibatches, num_mini_batches=CONFIG.minibatches,
                num_ppo_epochs=CONFIG.epochs, total_episodes=(count + 1) * CONFIG.episodes,
                response_length=CONFIG.max_new_tokens, stop_token="eos", temperature=CONFIG.temperature,
                local_rollout_forward_batch_size=CONFIG.episodes, learning_rate=CONFIG.learning_rate,
                kl_coef=CONFIG.kl_coef, num_sample_generations=0, save_strategy="no", logging_strategy="no",
                disable_tqdm=True)
            trainer = PPOTrainer(
                args=config, processing_class=tokenizer, model=copy.deepcopy(models.sft),
                ref_model=copy.deepcopy(models.sft), reward_model=copy.deepcopy(models.reward),
                value_model=copy.deepcopy(models.reward), callbacks=[clock],
                train_dataset=Dataset.from_dict({"input_ids": models.prompt_ids}))
            trainer.train()
        return [b - a for a, b in zip(clock.ticks, clock.ticks[1:], strict=False)], float("nan")


def measure(rounds: int, each: int, contenders: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Median and best seconds of each, taking turns so that a busy moment of the machine hits all."""
    seconds: dict[str, Seconds] = {name: [] for name in contenders}
    tokens: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):  # the first is for warming up
        for name, contender in contenders.items():
            taken, written = contender.iterations(each)
            if turn:
                seconds[name] += taken
                tokens[name].append(written)
    return {name: {"seconds_median": statistics.median(taken), "seconds_best": min(taken)}
            | ({} if any(map(_unknown, tokens[name])) else {"tokens_per_ending": statistics.mean(tokens[name])})
            for name, taken in seconds.items()}


def _unknown(number: float) -> bool:
    return number != number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="where to write the JSON as well")
    parser.add_argument("--rounds", type=int, default=4, help="turns that are counted")
    parser.add_argument("--each", type=int, default=3, help="iterations of everyone in a turn")
    arguments = parser.parse_args()

    random.seed(0)
    torch.manual_seed(0)
    models = load_models()
    makers: dict[str, Callable[[Models], Any]] = {"ours": Ours, "naive": Naive}
    if importlib.util.find_spec("trl") is not None:
        makers["trl"] = Trl
    elif arguments.out and arguments.out.exists() and '"trl"' in arguments.out.read_text(encoding="utf-8"):
        sys.exit(f"{arguments.out} holds a measurement of TRL, which is not installed: pip install trl==1.12.0, or "
                 "give another --out")
    results: dict[str, Any] = measure(arguments.rounds, arguments.each,
                                      {name: make(models) for name, make in makers.items()})
    ours = results["ours"]["seconds_median"]
    results |= {
        "ratio": {name: results[name]["seconds_median"] / ours for name in makers if name != "ours"},
        "parameters": models.sft.num_parameters(),
        "config": {name: getattr(CONFIG, name) for name in ("episodes", "epochs", "minibatches", "max_new_tokens")},
        "rounds": arguments.rounds, "each": arguments.each, "threads": torch.get_num_threads(),
        **({"trl_version": importlib.metadata.version("trl")} if "trl" in makers else {}),
        "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine(),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
