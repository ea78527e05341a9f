"""A few seconds of the whole loop whose numbers tell whether the learning core still computes the same.

The settings stand here and not in `config`, so that other defaults change nothing: those are among a recording's
settings. Rename what you like in the package, and these numbers stay; change what a loss, a mask or a sample is, and
they do not. It is run with one thread and fixed seeds. See `freshness` for how the numbers are compared.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from stages import Storyteller, examples_of, fit, ppo

from rlhf_mini import tales
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.language_model import load_language_model
from rlhf_mini.metrics import evaluate_samples
from rlhf_mini.reward import normalise
from rlhf_mini.run.tasks import ask_panel, sorted_judgements
from rlhf_mini.sft import train_sft

SFT = SFTConfig(steps=16, batch_size=8, learning_rate=2e-3, warmup=0.2, weight_decay=0.01, max_grad_norm=1.0, seed=1)
REWARD = RewardConfig(epochs=2, batch_size=6, learning_rate=2e-3, warmup=0.2, weight_decay=0.01, dropout=0.1,
                      max_grad_norm=1.0, seed=2)
PPO = PPOConfig(iterations=2, episodes=12, max_new_tokens=48, temperature=0.8, epochs=2, minibatches=2,
                learning_rate=2e-4, adam_eps=1e-4, clip=0.1, value_clip=0.5, value_coef=0.5, value_head_rate=5.0,
                gamma=0.99, lam=0.95, kl_coef=0.1, adaptive=True, kl_target=0.5, max_grad_norm=1.0, seed=3)
OPENINGS, EACH = 12, 3


def micro_run() -> dict[str, float]:
    """Fine-tune, judge, fit a reward model, run PPO, evaluate; the figures of each stage."""
    base, tokenizer = load_language_model(asset("tiny-tales-gpt2"))
    steps = list(train_sft(base, tokenizer, [tales.write(seed, "train") for seed in range(40)], SFT))
    sft = Storyteller(base.requires_grad_(False), tokenizer)
    found = {f"sft.loss.{i}": steps[i]["loss"] for i in (0, -1)}

    openings = tales.openings(OPENINGS, 1, "train")
    written = sft.endings([opening for opening in openings for _ in range(EACH)], seed=1)
    items = [(opening, written.endings[i * EACH:(i + 1) * EACH]) for i, opening in enumerate(openings)]
    with tempfile.TemporaryDirectory() as folder:
        judged = sorted_judgements(ask_panel(items, 0, Path(folder), seed=1))
    found |= {"endings.tokens": float(sum(written.lengths)), "endings.ended": float(sum(written.ended)),
              "rankings.groups": float(sum(len(record.ranking) for record in judged))}

    judge, fitting = fit(sft, examples_of(judged), REWARD)
    _, deviation = normalise(judge.model, judge.tokenizer, written.prompts, written.endings, written.ended)
    found |= {f"reward.loss.{i}": fitting[i]["loss"] for i in (0, -1)}
    found["reward.deviation"] = deviation  # the mean is left out: no loss pulls at it, so rounding moves it

    policy, training = ppo(sft, judge.of_rollout, openings, PPO)
    for number, iteration in enumerate(training, 1):
        stats = iteration.stats
        found |= {f"ppo.{name}.{number}": stats[name] for name in ("score", "kl", "kl_coef", "length", "value_loss")}
    after = policy.endings(openings, seed=2, reference=sft.model, score=judge.of_rollout)
    figures = evaluate_samples(after)
    return found | {f"after.{name}": float(figures[name] or 0.0) for name in ("kl", "proxy_mean", "gold_mean")}
