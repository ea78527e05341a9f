"""Time one PPO iteration of this package beside a naive one, in one process, on the same model and prompts.

The naive loop does what a first implementation does: a separate critic of full size, `generate` (which
runs every row to the end of the longest), fresh forward passes for the old log-probabilities and values,
logits for every position of every padded row, and a log-softmax over all of them. Both compute the same
losses on the same number of endings.

    python benchmarks/ppo_iteration.py --out assets/benchmark.json
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from rlhf_mini.config import PPOConfig
from rlhf_mini.kl import masked_whiten
from rlhf_mini.language_model import frozen_copy, new_language_model
from rlhf_mini.ppo import gae, policy_loss, ppo_iteration, shaped_rewards, start_ppo, value_loss
from rlhf_mini.sampling import Rollout, pad_left, positions

EOS, PAD = 0, 1


def make_model(vocab_size: int, width: int, temperature: float) -> Any:
    """A random GPT-2 of four layers that, at this temperature, ends a text with a chance of 1 in 30 a token."""
    model = new_language_model(
        vocab_size, EOS, PAD, n_layer=4, n_head=4, n_embd=width, n_positions=128, seed=0
    )
    with torch.no_grad():  # the last layer norm's bias moves every hidden state towards the EOS's embedding
        direction = model.transformer.wte.weight[EOS]
        model.transformer.ln_f.bias.copy_(
            direction / direction.square().sum() * torch.tensor(vocab_size / 30).log() * temperature
        )
    return model


def make_prompts(count: int, vocab_size: int) -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(2, vocab_size) for _ in range(chance.randint(18, 32))] for _ in range(count)]


class Naive:
    """PPO as first written down: clear, correct, and wasteful at each step."""

    def __init__(self, model: Any, config: PPOConfig) -> None:
        self.policy, self.reference, self.critic = (
            copy.deepcopy(model),
            copy.deepcopy(model),
            copy.deepcopy(model),
        )
        self.value_head = nn.Linear(model.config.n_embd, 1)
        self.config = config
        trained = [*self.policy.parameters(), *self.critic.parameters(), *self.value_head.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=config.learning_rate, eps=config.adam_eps)

    def logp(self, model: Any, ids: Tensor, attention: Tensor, start: int) -> Tensor:
        logits = (
            model(ids, attention_mask=attention, position_ids=positions(attention)).logits
            / self.config.temperature
        )
        return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[:, start - 1 :]

    def values(self, ids: Tensor, attention: Tensor, start: int) -> Tensor:
        hidden = self.critic.transformer(ids, attention_mask=attention, position_ids=positions(attention))
        return self.value_head(hidden.last_hidden_state).squeeze(-1)[:, start - 1 : -1]

    def iteration(self, prompt_ids: list[list[int]]) -> int:
        config = self.config
        prompts, prompt_mask = pad_left(random.sample(prompt_ids, config.episodes), PAD)
        start = prompts.shape[1]
        sampling = GenerationConfig(
            do_sample=True,
            top_k=0,
            temperature=config.temperature,
            eos_token_id=EOS,
            pad_token_id=PAD,
            max_new_tokens=config.max_new_tokens,
        )
        with torch.no_grad():
            ids = self.policy.generate(prompts, attention_mask=prompt_mask.long(), generation_config=sampling)
            tokens = ids[:, start:]
            mask = (tokens == EOS).long().cumsum(1) - (
                tokens == EOS
            ).long() == 0  # up to and with the first EOS
            attention = torch.cat([prompt_mask, mask], 1).long()
            logp_old = self.logp(self.policy, ids, attention, start)
            logp_ref = self.logp(self.reference, ids, attention, start)
            values_old = self.values(ids, attention, start)
            rewards = shaped_rewards(mask.sum(1).float(), logp_old, logp_ref, mask, config.kl_coef)
            advantages, returns = gae(rewards, values_old, mask, config.gamma, config.lam)
            advantages = masked_whiten(advantages, mask)
        for _ in range(config.epochs):
            for rows in torch.randperm(len(ids)).chunk(config.minibatches):
                logp = self.logp(self.policy, ids[rows], attention[rows], start)
                values = self.values(ids[rows], attention[rows], start)
                loss = policy_loss(logp, logp_old[rows], advantages[rows], mask[rows], config.clip)
                loss = loss + config.value_coef * value_loss(
                    values, values_old[rows], returns[rows], mask[rows], config.value_clip
                )
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
                self.optimizer.step()
        return int(mask.sum())


def measure(rounds: int, contenders: dict[str, Callable[[], int]]) -> dict[str, dict[str, float]]:
    """Median and best seconds of each, taking turns so that a busy moment of the machine hits both."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    tokens: dict[str, list[int]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):  # the first is for warming up
        for name, run in contenders.items():
            started = time.perf_counter()
            written = run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
                tokens[name].append(written)
    return {
        name: {
            "seconds_median": statistics.median(taken),
            "seconds_best": min(taken),
            "tokens_per_ending": statistics.mean(tokens[name]),
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="where to write the JSON as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    arguments = parser.parse_args()

    config = PPOConfig(
        episodes=128, epochs=2, minibatches=2, max_new_tokens=arguments.max_new_tokens, learning_rate=1e-6
    )  # so small that the model, and with it the lengths, stay as they are
    model = make_model(arguments.vocab_size, arguments.width, config.temperature)
    prompts = make_prompts(2000, arguments.vocab_size)
    reference, state, naive = frozen_copy(model), start_ppo(model, config), Naive(model, config)

    def score(rollout: Rollout) -> Tensor:
        return rollout.lengths.float()

    def ours() -> int:
        return int(ppo_iteration(state, reference, score, prompts, config, EOS, PAD).rollout.lengths.sum())

    random.seed(0)
    torch.manual_seed(0)
    results: dict[str, Any] = measure(
        arguments.rounds, {"ours": ours, "naive": lambda: naive.iteration(prompts)}
    )
    for result in (results["ours"], results["naive"]):
        result["tokens_per_ending"] /= config.episodes
    results |= {
        "ratio": results["naive"]["seconds_median"] / results["ours"]["seconds_median"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name in ("episodes", "epochs", "minibatches", "max_new_tokens")
        },
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
