"""What a GPU changes: the whole run, an iteration's time against the CPU's, bfloat16 against fp32, a GPT-2 of 124 M.

To be run once where there is a GPU; without one it says so in one line and ends with the exit code 2. Each part
prints its figures as a line of JSON as soon as it has them, and adds them to the file OUT/gpu.json.

    PYTHONPATH=. python tests/benchmarks/gpu.py --out runs/gpu --tokenizer ../shared/gpt2-tokenizer
    PYTHONPATH=. python tests/benchmarks/gpu.py --out runs/gpu --only iteration curves
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Tokenizer

from rlhf_mini import tales
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig
from rlhf_mini.language_model import encode_prompts, load_language_model, pad_id, save_language_model
from rlhf_mini.ppo import start_ppo, train_ppo
from rlhf_mini.pretrain import new_language_model
from rlhf_mini.reward import load_reward_model, score_rollout

PROMPTS = 2000
ITERATIONS = 6  # timed; the first warms up
CURVE = 15  # iterations of each curve
FIGURES = ("score", "kl", "entropy", "length", "grad_norm", "seconds")  # kept of each iteration
GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}  # 124 M parameters
METRICS = ("gold_mean", "proxy_mean", "kl", "grammatical", "coherent", "ended")


def train(config: PPOConfig, *, cpu: bool = False, bf16: bool = False) -> list[dict[str, float]]:
    """The statistics of each iteration of PPO from the fine-tuned model of assets/run-3."""
    os.environ["ACCELERATE_USE_CPU"] = "1" if cpu else "0"  # where this package loads its models
    sft, tokenizer = load_language_model(asset("run-3") / "sft", bf16)
    reward, _ = load_reward_model(asset("run-3") / "reward_model", bf16)
    prompts = encode_prompts(tokenizer, tales.openings(PROMPTS, 0, "train"))
    training = train_ppo(start_ppo(sft, config), copy.deepcopy(sft), partial(score_rollout, reward), prompts, config,
                         tokenizer.eos_token_id, pad_id(tokenizer))
    return [{name: iteration.stats[name] for name in FIGURES} for iteration in islice(training, config.iterations)]


def iteration() -> dict[str, Any]:
    """Seconds of an iteration: the median after the first, with the endings of the fine-tuned model."""
    config, found = PPOConfig(iterations=ITERATIONS, learning_rate=1e-6), {}
    for episodes in (128, 1024):
        for name, places in {"gpu": {}, "gpu_bf16": {"bf16": True}, "cpu": {"cpu": True}}.items():
            if episodes == 128 or name != "cpu":
                torch.cuda.reset_peak_memory_stats()
                seconds = [done["seconds"] for done in train(replace(config, episodes=episodes), **places)]
                found[f"{name}, {episodes} episodes"] = {
                    "seconds": statistics.median(seconds[1:]), "gigabytes": torch.cuda.max_memory_allocated() / 1e9}
    return found


def curves() -> dict[str, Any]:
    """The same training in fp32 and in bfloat16, seed for seed."""
    return {name: [train(PPOConfig(iterations=CURVE, seed=seed), bf16=bf16) for seed in (0, 1)]
            for name, bf16 in (("fp32", False), ("bf16", True))}


def run_command(folder: Path, *options: str) -> dict[str, Any]:
    """`python -m rlhf_mini` with these options: its seconds, and the main figures of its models."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rlhf_mini", "--out", folder, *options], check=True,
                   env={**os.environ, "ACCELERATE_USE_CPU": "0"})
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    figures = {name: {key: metrics[name][key] for key in METRICS} for name in ("sft", "ppo", "ppo_no_kl")}
    return {"wall_seconds": time.perf_counter() - started, "seconds": metrics["seconds"], **figures}


def whole_run(out: Path) -> dict[str, Any]:
    """The default run, in fp32 and in bfloat16."""
    return {"fp32": run_command(out / "run"), "bf16": run_command(out / "run-bf16", "--bf16")}


def large(out: Path, tokenizer_folder: Path) -> dict[str, Any]:
    """A quick run from a GPT-2 of full size with random weights; what it writes is not expected to be tales."""
    files = {name: str(tokenizer_folder / file) for name, file in (("vocab", "vocab.json"), ("merges", "merges.txt"))}
    tokenizer = GPT2Tokenizer(**files)
    end = tokenizer.eos_token_id
    model = new_language_model(len(tokenizer), end, end, seed=0, **GPT2)
    save_language_model(model, tokenizer, out / "gpt2-124m")
    return {"parameters": model.num_parameters(),
            "bf16": run_command(out / "run-124m", "--base", str(out / "gpt2-124m"), "--quick", "--bf16")}


def keep(path: Path, name: str, figures: dict[str, Any]) -> None:
    """Print the figures of one part, and add them to the file."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept |= {name: figures, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: figures}), flush=True)


def main() -> int:
    names = ["iteration", "curves", "loop", "large"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the figures and the runs")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to do (default: all)")
    parser.add_argument("--tokenizer", type=Path, help="the folder of GPT-2's vocab.json and merges.txt, for `large`")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing was measured", file=sys.stderr)
        return 2
    if "large" in chosen.only and chosen.tokenizer is None:
        print("`large` needs --tokenizer, the folder of GPT-2's vocab.json and merges.txt", file=sys.stderr)
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "iteration": iteration, "curves": curves, "loop": lambda: whole_run(chosen.out),
        "large": lambda: large(chosen.out, chosen.tokenizer)}
    for name in chosen.only:
        keep(chosen.out / "gpu.json", name, parts[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
