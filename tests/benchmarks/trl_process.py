"""One stage of TRL, measured in a process of its own: `main.py` starts it with the Python in which TRL is installed.

PPO needs `trl==1.12.0`, the last release with it; SFT and the reward trainer are measured with `trl==1.16.0`. All have
the batches, minibatches, epochs and limits of this package, and start from the same models and texts.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from dataclasses import asdict
from typing import Any

import flops
import torch
from datasets import Dataset
from machine import Turn, matrix_rate
from parts import PPO, STEPS, Material, sizes
from transformers import TrainerCallback

from rlhf_mini import rankings
from rlhf_mini.assets import asset
from rlhf_mini.config import SFTConfig
from rlhf_mini.reward_model import token_rows
from rlhf_mini.sft import encode_demonstrations

WARM = 2  # updates before those that are counted: the first also build what later ones use
PPO_UPDATES = 3
PAIRS = 32  # in a batch of the reward trainer: as many rows as 16 rankings of 4


class Clock(TrainerCallback):
    """Notes when each update is done."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self.rate = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if len(self.ticks) == WARM:
            self.rate = matrix_rate()
        self.ticks.append(time.perf_counter())

    def turn(self, flop_each: float, tokens_each: float) -> Turn:
        counted = len(self.ticks) - 1 - WARM
        return Turn(self.ticks[-1] - self.ticks[WARM], counted * flop_each, round(counted * tokens_each),
                    (self.rate + matrix_rate()) / 2)


def common(folder: str) -> dict[str, Any]:
    """The settings of all trainers."""
    return {"output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}


def ppo(material: Material, folder: str) -> Turn:
    """PPO as TRL has it. Its endings are as long as ours: same model, same prompts, same temperature."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer, clock = copy.deepcopy(material.tokenizer), Clock()
    tokenizer.padding_side = "left"  # as its generation needs it
    config = PPOConfig(
        **common(folder), per_device_train_batch_size=PPO.episodes // PPO.minibatches,
        gradient_accumulation_steps=PPO.minibatches, num_mini_batches=PPO.minibatches, num_ppo_epochs=PPO.epochs,
        total_episodes=(WARM + 1 + PPO_UPDATES) * PPO.episodes, response_length=PPO.max_new_tokens, stop_token="eos",
        temperature=PPO.temperature, local_rollout_forward_batch_size=PPO.episodes, learning_rate=PPO.learning_rate,
        kl_coef=PPO.kl_coef, num_sample_generations=0)
    PPOTrainer(args=config, processing_class=tokenizer, model=copy.deepcopy(material.sft),
               ref_model=copy.deepcopy(material.sft), reward_model=copy.deepcopy(material.reward),
               value_model=copy.deepcopy(material.reward), callbacks=[clock],
               train_dataset=Dataset.from_dict({"input_ids": material.prompt_ids})).train()
    prompts, endings = sizes(material.sampled(material.sft, material.prompt_ids[:PPO.episodes]))
    return clock.turn(flops.ppo_iteration(material.shape, prompts, endings, PPO.epochs), sum(endings))


def sft(material: Material, folder: str) -> Turn:
    """Fine-tuning on our demonstrations, with the loss on the completions alone."""
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    clock, texts = Clock(), material.demonstrations
    config = TrlConfig(**common(folder), per_device_train_batch_size=SFTConfig().batch_size,
                       max_steps=WARM + 1 + STEPS, learning_rate=SFTConfig().learning_rate, completion_only_loss=True)
    rows = Dataset.from_dict({"prompt": [opening for opening, _ in texts],
                              "completion": [f" {ending}" for _, ending in texts]})
    SFTTrainer(args=config, model=copy.deepcopy(material.base), processing_class=copy.deepcopy(material.tokenizer),
               train_dataset=rows, callbacks=[clock]).train()
    examples = encode_demonstrations(material.base, material.tokenizer, texts)
    endings = [len(example.tokens) - example.start for example in examples]
    flop = flops.sft(material.shape, [example.start for example in examples], endings)
    steps = len(texts) / SFTConfig().batch_size  # in one pass
    return clock.turn(flop / steps, sum(endings) / steps)


def reward(material: Material, folder: str) -> Turn:
    """Fitting a reward model to pairs; each pair is two rows, so a ranking of four without ties is twelve."""
    from trl import RewardConfig as TrlConfig
    from trl import RewardTrainer

    clock, updates = Clock(), WARM + 1 + STEPS
    records = rankings.load_rankings(asset("run-3") / "rankings.jsonl")
    pairs = rankings.to_pairs(records)[:updates * PAIRS]
    config = TrlConfig(**common(folder), per_device_train_batch_size=PAIRS, max_steps=updates)
    rows = Dataset.from_dict({"prompt": [prompt for prompt, _, _ in pairs],
                              "chosen": [f" {chosen}" for _, chosen, _ in pairs],
                              "rejected": [f" {rejected}" for _, _, rejected in pairs]})
    RewardTrainer(args=config, model=copy.deepcopy(material.reward),
                  processing_class=copy.deepcopy(material.reward_tokenizer), train_dataset=rows,
                  callbacks=[clock]).train()
    prompts = [prompt for prompt, _, _ in pairs for _ in range(2)]
    endings = [ending for _, chosen, rejected in pairs for ending in (chosen, rejected)]
    lengths = [len(row) for row in token_rows(material.reward, material.reward_tokenizer, prompts, endings)]
    return clock.turn(flops.reward_fit(material.shape, lengths) / updates, sum(lengths) / updates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=["ppo", "sft", "reward"])
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "1"  # for the models that this package loads
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        turn = {"ppo": ppo, "sft": sft, "reward": reward}[arguments.stage](Material(), folder)
    print(json.dumps(asdict(turn)))


if __name__ == "__main__":
    main()
