"""Train this run's models with TRL 1.16 (pip install trl==1.16.0): fine-tuning, a reward model, then RLOO or GRPO.

Each stage starts from the run's own models, so each can be tried alone:

    python train_trl.py sft    --out trained/sft
    python train_trl.py reward --out trained/reward_model
    python train_trl.py rloo   --out trained/policy

To train all of them in a row, give each what the stages before have made:

    python train_trl.py reward --out trained/reward_model --policy trained/sft
    python train_trl.py rloo   --out trained/policy --policy trained/sft --reward-model trained/reward_model

On several GPUs, or in several processes of one machine, put a launcher in front (batches keep their size):

    accelerate launch train_trl.py rloo --out trained/policy
    torchrun --nproc_per_node 2 train_trl.py rloo --out trained/policy

This file needs nothing of rlhf_mini: change it as you like.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import (
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
SETTINGS: dict[str, Any] = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))  # of the run
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
GPU = torch.cuda.is_available()
GROUP = 4  # endings of each prompt, which are compared with each other
PAIRS = 6  # in a ranking of four: a batch of rankings becomes a batch of so many pairs each


def rows(name: str) -> Dataset | None:
    """The rows of a data file; None where it is empty."""
    lines = (HERE / "data" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return Dataset.from_list([json.loads(line) for line in lines if line]) if any(lines) else None


def share(batch: int, multiple: int = 1) -> int:
    """How many rows of a batch are each process's, rounded to a multiple."""
    return max(1, batch // PROCESSES // multiple) * multiple


def common(options: argparse.Namespace, part: dict[str, Any], steps: int) -> dict[str, Any]:
    """Settings that all stages share. TRL's defaults, bf16 and gradient checkpointing, are for larger models."""
    steps = options.steps or steps
    return {"output_dir": str(options.out), "max_steps": steps, "seed": SETTINGS["seed"], "logging_steps": 1,
            "report_to": "none", "save_strategy": "no", "bf16": False, "gradient_checkpointing": False,
            "use_cpu": not GPU, "ddp_backend": "gloo" if PROCESSES > 1 and not GPU else None,
            "learning_rate": part["learning_rate"], "lr_scheduler_type": "linear",
            "warmup_steps": round(part.get("warmup", 0.0) * steps), "weight_decay": part.get("weight_decay", 0.0),
            "max_grad_norm": part["max_grad_norm"]}


# --- 1. supervised fine-tuning ----------------------------------------------------------------------------------


def sft_trainer(options: argparse.Namespace) -> SFTTrainer:
    """The loss covers completion and EOS, never the prompt. (The run used Muon for matrices; this is AdamW.)"""
    part, start = SETTINGS["sft"], str(options.policy or MODELS / "base")
    args = SFTConfig(**common(options, part, part["steps"]), per_device_train_batch_size=share(part["batch_size"]),
                     completion_only_loss=True, max_length=SETTINGS["context"])
    return SFTTrainer(model=start, args=args, train_dataset=rows("sft"),
                      processing_class=AutoTokenizer.from_pretrained(start))


# --- 2. a reward model ------------------------------------------------------------------------------------------


def reward_trainer(options: argparse.Namespace) -> RewardTrainer:
    """Bradley-Terry on pairs. (The run used Plackett-Luce on whole rankings, and dropout while fitting.)

    The score is read at the last token that is not padding. If the pad token were the EOS, that would be the token
    before the EOS: so the tokenizer is the reward model's, which has a pad token of its own.
    """
    part, pairs = SETTINGS["reward"], rows("preferences")
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "reward_model")
    set_seed(SETTINGS["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(options.policy or MODELS / "sft", num_labels=1,
                                                               dtype=torch.float32)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.nn.init.normal_(model.score.weight, std=(model.config.hidden_size + 1) ** -0.5)
    batch = PAIRS * part["batch_size"]
    args = RewardConfig(**common(options, part, -(-part["epochs"] * len(pairs or ()) // batch)),
                        per_device_train_batch_size=share(batch), max_length=SETTINGS["context"])
    return RewardTrainer(model=model, args=args, train_dataset=pairs, eval_dataset=rows("preferences_test"),
                         processing_class=tokenizer)


def give_unit_scale(trainer: RewardTrainer) -> None:
    """Divide the head, so that scores of judged endings have standard deviation 1: the KL coefficient is a price in it.

    Where the scores' mean lies does not matter: RLOO and GRPO compare endings of one prompt.
    """
    kept = trainer.train_dataset.select(range(min(512, len(trainer.train_dataset))))
    model = trainer.accelerator.unwrap_model(trainer.model)
    scores = last_token_scores(model, [ids for key in ("chosen_ids", "rejected_ids") for ids in kept[key]])
    with torch.no_grad():
        model.score.weight /= torch.tensor(scores).std().to(model.device)


# --- 3. the policy ----------------------------------------------------------------------------------------------


def policy_trainer(options: argparse.Namespace) -> RLOOTrainer | GRPOTrainer:
    """Sample, score, update: as many endings and minibatches as the run's PPO, and the same coefficient.

    RLOO subtracts beta * (ln policy - ln reference), summed over the ending, from the score: the run's own penalty. It
    clips one ratio of the whole ending, which leaves 1 +- 0.2 within a few updates: so it passes over a batch once.
    GRPO clips one ratio of each token, as PPO does, and passes over a batch as often as the run did. It puts beta * KL
    into the loss instead, beside advantages that are divided by their group's deviation: the same coefficient does not
    mean quite the same there. In both, the reference is the policy that training starts from.
    """
    part, start = SETTINGS["ppo"], str(options.policy or MODELS / "sft")
    make, config = (RLOOTrainer, RLOOConfig) if options.stage == "rloo" else (GRPOTrainer, GRPOConfig)
    minibatch, passes = share(part["episodes"] // part["minibatches"], GROUP), part["minibatches"]
    endings, epochs = minibatch * passes * PROCESSES, 1 if options.stage == "rloo" else part["epochs"]
    prompts = rows("prompts")["prompt"]  # type: ignore[index]
    prompts = list(prompts) * max(1, -(-endings // GROUP // len(prompts)))  # an iteration needs so many
    args = config(**common(options, part, part["iterations"] * epochs * passes),
                  per_device_train_batch_size=minibatch, generation_batch_size=endings, num_generations=GROUP,
                  num_iterations=epochs, epsilon=part["clip"], adam_epsilon=part["adam_eps"],
                  beta=part["kl_coef"], temperature=part["temperature"], disable_dropout=True,
                  max_completion_length=part["max_new_tokens"])
    trainer = make(model=start, args=args, train_dataset=Dataset.from_dict({"prompt": prompts}),
                   reward_funcs=score_function(options.reward_model or MODELS / "reward_model"),
                   processing_class=AutoTokenizer.from_pretrained(start, padding_side="left"))
    for model in (trainer.accelerator.unwrap_model(trainer.model), trainer.ref_model):
        if model is not None:  # there is no reference where beta is 0
            count_positions_from_the_first_token(model)
    return trainer


def score_function(folder: Path) -> Callable[..., list[float]]:
    """The reward, as a function. TRL calls it with the texts of the prompts and the tokens of the completions.

    Given the reward *model* itself, TRL would score the decoded text, from which it has taken the EOS. The model was
    fitted with the EOS, and reads the score there: the scores would be others. `completion_ids` still hold the EOS.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if GPU else "cpu")

    def score(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        encoded = tokenizer(prompts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        pairs = zip(encoded, completion_ids, strict=True)
        return last_token_scores(model, [prompt + list(completion) for prompt, completion in pairs])

    return score


@torch.no_grad()
def last_token_scores(model: Any, token_rows: list[list[int]], at_once: int = 64) -> list[float]:
    """The score of each row, read at its last token, which is known from its length: no token is taken for padding."""
    scores: list[float] = []
    for start in range(0, len(token_rows), at_once):
        some = token_rows[start:start + at_once]
        lengths = torch.tensor([len(row) for row in some])
        width = int(lengths.max())
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in some])
        mask = (torch.arange(width) < lengths[:, None]).long()  # (N, L)
        states = model.base_model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device))
        last = states.last_hidden_state[torch.arange(len(some)), lengths - 1]  # (N, D)
        scores += model.score(last).squeeze(-1).float().tolist()
    return scores


def count_positions_from_the_first_token(model: Any) -> None:
    """Let padding on the left move no position: TRL pads short prompts there, and tells the model no positions.

    `generate` counts them from the first real token. GPT-2 has an embedding for each position, so without this the
    log-probabilities that TRL trains on would be of another model than the one that wrote the ending.
    """
    def count(_: Any, arguments: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = given.get("attention_mask")
        if given.get("position_ids") is None and mask is not None and mask.dim() == 2:
            given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        return arguments, given

    model.base_model.register_forward_pre_hook(count, with_kwargs=True)


# --- the command ------------------------------------------------------------------------------------------------

STAGES = {"sft": sft_trainer, "reward": reward_trainer, "rloo": policy_trainer, "grpo": policy_trainer}


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    about, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=about, epilog=examples,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the trained model")
    parser.add_argument("--policy", type=Path, help="the language model to start from (default: the run's own)")
    parser.add_argument("--reward-model", type=Path, help="the reward model of rloo and grpo (default: the run's own)")
    parser.add_argument("--steps", type=int, help="updates, to try it out (default: as many as the run's)")
    options = parser.parse_args(arguments)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        sys.exit(f"{options.out} holds something: give another --out")
    return options


def main(arguments: list[str] | None = None) -> Any:
    """Train one stage and save its model; returns the trainer."""
    options = read_options(arguments)
    trainer = STAGES[options.stage](options)
    trainer.train()
    if options.stage == "reward":
        if trainer.eval_dataset is not None:
            print(f"accuracy on held-out pairs: {trainer.evaluate()['eval_accuracy']:.3f}")
        give_unit_scale(trainer)
    trainer.save_model(str(options.out))
    trainer.save_state()  # trainer_state.json holds the loss of every step
    if trainer.accelerator.is_main_process:
        (options.out / "training_args.bin").unlink(missing_ok=True)  # a pickle, which says what this file says
    return trainer


if __name__ == "__main__":
    main()
