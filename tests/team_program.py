"""What `test_team` starts in one process and in several: a little of each stage in double precision, saved to compare.

    python tests/team_program.py FOLDER
    torchrun --nproc_per_node 3 tests/team_program.py FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rlhf_mini import team
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.evaluate import sample_endings
from rlhf_mini.language_model import encode_prompts, frozen_copy
from rlhf_mini.methods import METHODS
from rlhf_mini.ppo import start_ppo, train_ppo
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.reward import fit_reward, normalise, reward_model_from, score_rollout
from rlhf_mini.sft import train_sft
from rlhf_mini.training import DPOConfig, train_dpo, train_method

OPENINGS = ["Mia found a kite in the park.", "Tom wanted a red ball.", "Ana was at the pond.", "Ben had an old drum."]
ENDINGS = ["She gave it to Leo.", "He looked for it all day and found it.", "It rained. She left.", "He played it."]


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A model's parameters, by name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    team.join()
    tokenizer = train_tokenizer([f"{o} {e}" for o in OPENINGS for e in ENDINGS], 300)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=2, n_head=2,
                               n_embd=32, n_positions=96, seed=0).double()
    pairs = [(opening, ending) for opening in OPENINGS for ending in ENDINGS]
    losses = [step["loss"] for step in train_sft(model, tokenizer, pairs, SFTConfig(steps=6, batch_size=8))]

    reward_model, reward_tokenizer = reward_model_from(model, tokenizer, seed=0)
    examples = [(opening, ENDINGS, [[2], [0, 3], [1]]) for opening in OPENINGS] * 2
    fitting = RewardConfig(epochs=2, batch_size=4, dropout=0.2)
    losses += [step["loss"] for step in fit_reward(reward_model, reward_tokenizer, examples, fitting)]
    endings = sample_endings(model, tokenizer, OPENINGS * 3, max_new_tokens=12, temperature=1.0, seed=0)
    normalise(reward_model, reward_tokenizer, endings.prompts, endings.endings)

    config = PPOConfig(iterations=5, episodes=10, max_new_tokens=16, minibatches=2, learning_rate=1e-3, adaptive=True)
    state, reference = start_ppo(model, config), frozen_copy(model)
    training = train_ppo(state, reference, lambda rollout: score_rollout(reward_model, rollout),
                         encode_prompts(tokenizer, OPENINGS), config, tokenizer.eos_token_id, tokenizer.pad_token_id)
    iterations = list(training)
    stats = [[value for name, value in one.stats.items() if name != "seconds"] for one in iterations]
    found = {"losses": torch.tensor(losses), "stats": torch.tensor(stats, dtype=torch.float64)}
    found |= {f"tokens.{i}": one.rollout.tokens.contiguous() for i, one in enumerate(iterations)}
    found |= {name: x.contiguous() for name, x in state.tensors().items()}

    groups = replace(config, iterations=2, episodes=20)  # five groups: three in one minibatch, two in the other
    for name in ("GRPO", "online DPO"):
        state = start_ppo(model, groups)
        list(train_method(METHODS[name], state, reference, lambda rollout: score_rollout(reward_model, rollout),
                          encode_prompts(tokenizer, OPENINGS), groups, tokenizer.eos_token_id, tokenizer.pad_token_id))
        found |= {f"{name}.{key}": x.contiguous() for key, x in weights(state.policy.language_model).items()}
    preferred = [(opening, ENDINGS[2], ENDINGS[i]) for opening in OPENINGS for i in (0, 1)]
    direct = frozen_copy(model).requires_grad_(True)
    steps = list(train_dpo(direct, reference, tokenizer, preferred, DPOConfig(epochs=2, batch_size=5)))
    found |= {f"DPO.{key}": x.contiguous() for key, x in weights(direct).items()}
    found["DPO.steps"] = torch.tensor([list(step.values()) for step in steps], dtype=torch.float64)
    if team.first():
        save_file(found, folder / f"{team.size()}.safetensors")
    team.wait()
    team.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
