"""What our code is compared with: a naive PPO loop, `generate` of transformers, and TRL in a process of its own.

The naive loop does what a first implementation does: a separate critic of full size, `generate` (which runs every row
to the end of the longest), fresh forward passes for the old log-probabilities and values, logits for every position of
every padded row, and a log-softmax over all of them.
"""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flops
import torch
from machine import Contender, Turn, Work
from parts import PPO, Material, sizes
from torch import Tensor, nn
from transformers import GenerationConfig

from rlhf_mini.errors import InputError
from rlhf_mini.kl import masked_whiten
from rlhf_mini.ppo import gae, policy_loss, shaped_rewards, value_loss
from rlhf_mini.sampling import pad_left, positions

ROOT = Path(__file__).parent.parent.parent


# --- sampling ---------------------------------------------------------------------------------------------------


def generate(model: Any, material: Material, prompts: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Endings by transformers: tokens (B, P + T), the prompts' mask (B, P), the endings' mask (B, T), with the EOS."""
    tokens, prompt_mask = pad_left(prompts, material.pad)
    settings = GenerationConfig(do_sample=True, top_k=0, temperature=PPO.temperature, eos_token_id=material.eos,
                                pad_token_id=material.pad, max_new_tokens=PPO.max_new_tokens)
    with torch.no_grad():
        ids = model.generate(tokens, attention_mask=prompt_mask.long(), generation_config=settings)
    ends = (ids[:, tokens.shape[1]:] == material.eos).long()
    return ids, prompt_mask, ends.cumsum(1) - ends == 0  # up to and with the first EOS


def generating(material: Material, batch: int) -> dict[str, Callable[[], Work]]:
    """The same prompts continued by `sample` and by `generate`."""
    prompts = material.prompt_ids[:batch]

    def work(endings: list[int]) -> Work:
        return Work(flops.next_tokens(material.shape, [len(row) for row in prompts], endings), sum(endings))

    return {f"sample, {batch} rows": lambda: work(sizes(material.sampled(material.sft, prompts))[1]),
            f"generate, {batch} rows": lambda: work(generate(material.sft, material, prompts)[2].sum(1).tolist())}


# --- a naive loop -----------------------------------------------------------------------------------------------


class Naive:
    """PPO as first written down: clear, correct, and wasteful at each step."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.policy, self.critic = copy.deepcopy(material.sft), copy.deepcopy(material.sft)
        self.value_head = nn.Linear(material.shape.width, 1)
        trained = [*self.policy.parameters(), *self.critic.parameters(), *self.value_head.parameters()]
        self.optimizer = torch.optim.Adam(trained, lr=PPO.learning_rate, eps=PPO.adam_eps)

    def logp(self, model: Any, ids: Tensor, attention: Tensor, start: int) -> Tensor:
        logits = model(ids, attention_mask=attention, position_ids=positions(attention)).logits / PPO.temperature
        return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[:, start - 1:]

    def values(self, ids: Tensor, attention: Tensor, start: int) -> Tensor:
        hidden = self.critic.base_model(ids, attention_mask=attention, position_ids=positions(attention))
        return self.value_head(hidden.last_hidden_state).squeeze(-1)[:, start - 1:-1]

    def score(self, ids: Tensor, attention: Tensor) -> Tensor:
        reward: Any = self.material.reward
        hidden = reward.base_model(ids, attention_mask=attention, position_ids=positions(attention))
        last = attention.shape[1] - 1 - attention.flip(1).argmax(1)
        return reward.score(hidden.last_hidden_state[torch.arange(len(ids)), last]).squeeze(-1)

    def iteration(self) -> Work:
        chosen = random.sample(self.material.prompt_ids, PPO.episodes)
        ids, prompt_mask, mask = generate(self.policy, self.material, chosen)
        start, attention = prompt_mask.shape[1], torch.cat([prompt_mask, mask], 1).long()
        with torch.no_grad():
            logp_old = self.logp(self.policy, ids, attention, start)
            logp_ref = self.logp(self.material.reference, ids, attention, start)
            values_old = self.values(ids, attention, start)
            rewards = shaped_rewards(self.score(ids, attention), logp_old, logp_ref, mask, PPO.kl_coef)
            advantages, returns = gae(rewards, values_old, mask, PPO.gamma, PPO.lam)
            advantages = masked_whiten(advantages, mask)
        for _ in range(PPO.epochs):
            for rows in torch.randperm(len(ids)).chunk(PPO.minibatches):
                logp = self.logp(self.policy, ids[rows], attention[rows], start)
                values = self.values(ids[rows], attention[rows], start)
                loss = policy_loss(logp, logp_old[rows], advantages[rows], mask[rows], PPO.clip)
                loss = loss + PPO.value_coef * value_loss(values, values_old[rows], returns[rows], mask[rows],
                                                          PPO.value_clip)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.policy.parameters(), PPO.max_grad_norm)
                self.optimizer.step()
        endings = mask.sum(1).tolist()
        flop = flops.ppo_iteration(self.material.shape, [len(row) for row in chosen], endings, PPO.epochs)
        return Work(flop, sum(endings))


# --- TRL --------------------------------------------------------------------------------------------------------


def trl(python: Path, stage: str) -> Contender:
    """A stage of TRL, in a process of the Python that has it; the process measures its own matrix rate."""
    def turn() -> Turn:
        process = subprocess.run(
            [python, Path(__file__).parent / "trl_process.py", stage, "--threads", str(torch.get_num_threads())],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})
        if process.returncode:
            raise InputError(f"TRL's {stage} failed with {python}: {process.stderr.strip()[-2000:]}")
        return Turn(**json.loads(process.stdout.splitlines()[-1]))
    return turn
