"""Files that this project writes train with TRL unchanged, where TRL is installed (`pip install trl==1.16.0`).

And TRL computes what `rlhf_mini.methods` computes: its trainers' own losses and advantages, of the same endings.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.assets import asset
from rlhf_mini.kl import masked_mean
from rlhf_mini.language_model import encode_prompts
from rlhf_mini.methods import Batch, clipped_loss, dpo_loss, grpo_advantages, rloo_advantages
from rlhf_mini.policy import PolicyWithValue
from rlhf_mini.rankings import Ranking, to_dataset, to_pairs
from rlhf_mini.sampling import Rollout, pad_left, sample
from rlhf_mini.sft import encode_demonstrations
from rlhf_mini.training import ending_logprobs

try:
    import trl
except ImportError as error:
    if os.environ.get("RLHF_MINI_TRL") == "required":
        raise
    pytest.skip(f"TRL is optional and not installed: {error}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of trainers that are not ours


RECORDS = [Ranking(id=str(i), annotator="Ada", prompt=f"Ada found a drum {i}.", ranking=[[0], [1], [2]],
                   completions=["She played it.", "She lost it.", "It was soup."]) for i in range(8)]


@pytest.fixture
def pairs(tmp_path: Path) -> Any:
    import datasets

    to_dataset(RECORDS, margin=True).to_json(tmp_path / "pairs.jsonl")
    return datasets.load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train",
                                 cache_dir=str(tmp_path / "cache"))


def settings(folder: Path) -> dict[str, Any]:
    return {"output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "report_to": "none",
            "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def test_trl_fits_a_reward_model_on_our_pairs(pairs: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = asset("tiny-tales-gpt2")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    trainer = trl.RewardTrainer(model=model, args=trl.RewardConfig(**settings(tmp_path / "reward"), max_length=128),
                                processing_class=AutoTokenizer.from_pretrained(folder), train_dataset=pairs)
    trainer.train()
    assert trainer.state.global_step == 3
    assert all(row["loss"] > 0 for row in trainer.state.log_history if "loss" in row)


def test_trl_optimises_preferences_directly_on_our_pairs(pairs: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asset("tiny-tales-gpt2")
    trainer = trl.DPOTrainer(model=AutoModelForCausalLM.from_pretrained(folder),
                             args=trl.DPOConfig(**settings(tmp_path / "dpo"), max_length=128),
                             processing_class=AutoTokenizer.from_pretrained(folder), train_dataset=pairs)
    trainer.train()
    assert trainer.state.global_step == 3


# The methods ------------------------------------------------------------------------------------------------------

# Equally long: before short prompts TRL puts padding, which moves the positions that GPT-2 sees, and so its digits.
OPENINGS = ["Mia found a drum.", "Tom found a kite.", "Ana found a ball."]
TEMPERATURE, BETA, SIZE = 0.7, 0.3, 4


def how_many_e(completions: list[str], **_: Any) -> list[float]:
    """A reward from a program."""
    return [float(text.count("e")) / 3 for text in completions]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(asset("tiny-tales-gpt2"))


def a_model(noise: float = 0.0) -> Any:
    """The recorded model, at some distance from itself."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(asset("tiny-tales-gpt2"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def a_trainer(kind: str, tokenizer: Any, folder: Path, **options: Any) -> Any:
    """TRL's trainer of a model that has left its reference, the recorded model; dropout is off."""
    import datasets

    config, trainer = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    common = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no",
              "per_device_train_batch_size": SIZE * len(OPENINGS), "num_generations": SIZE, "beta": BETA,
              "max_completion_length": 12, "temperature": TEMPERATURE}
    made = trainer(model=str(asset("tiny-tales-gpt2")), reward_funcs=how_many_e, processing_class=tokenizer,
                   args=config(output_dir=str(folder), **common, **options),
                   train_dataset=datasets.Dataset.from_dict({"prompt": OPENINGS}))
    made.model.load_state_dict(a_model(noise=0.01).state_dict())
    made.model.eval()
    return made


def logps(model: Any, rollout: Rollout) -> Tensor:
    """Log-probabilities of the tokens, as this package computes them. Shapes: -> (B, T)."""
    return PolicyWithValue(model)(rollout, TEMPERATURE)[0]


def a_batch(tokenizer: Any) -> Batch:
    """Endings of the recorded model, of several lengths, four to an opening."""
    model = a_model()
    prompts = [ids for ids in encode_prompts(tokenizer, OPENINGS) for _ in range(SIZE)]
    rollout = sample(model, prompts, max_new_tokens=40, temperature=TEMPERATURE, eos_id=tokenizer.eos_token_id,
                     pad_id=tokenizer.pad_token_id, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40) < torch.tensor([40, 3, 17, 9] * len(OPENINGS))[:, None]  # it was never taught to stop
    rollout = replace(rollout, mask=mask, tokens=rollout.tokens.where(mask, tokenizer.pad_token_id),
                      logp=rollout.logp * mask)
    with torch.no_grad():
        logp_ref = logps(a_model(noise=0.005), rollout)  # of a third model, so that no two log-probabilities agree
    assert len({len(prompt) for prompt in prompts}) == 1
    score = torch.randn(len(prompts), generator=torch.Generator().manual_seed(1))
    group = torch.arange(len(OPENINGS)).repeat_interleave(SIZE)
    return Batch(rollout, score, logp_ref, group, BETA, 0.2, float(len(prompts)), float(rollout.mask.sum()))


def as_inputs(batch: Batch, advantages: Tensor, tokenizer: Any) -> dict[str, Tensor]:
    """The same as TRL's trainers hand it to their losses."""
    prompts, mask = pad_left(batch.rollout.prompts, tokenizer.pad_token_id)
    return {"prompt_ids": prompts, "prompt_mask": mask.long(), "completion_ids": batch.rollout.tokens,
            "completion_mask": batch.rollout.mask.long(), "advantages": advantages,
            "old_per_token_logps": batch.rollout.logp, "old_logps": batch.rollout.logp.sum(1),
            "ref_per_token_logps": batch.logp_ref, "num_items_in_batch": batch.rollout.mask.sum()}


def slopes(loss: Tensor, model: Any) -> Tensor:
    """The gradient of a loss, as one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
                      if g is not None])


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss_type, by_ending", [("grpo", True), ("dapo", False)])
def test_our_grpo_is_trl_s(loss_type: str, by_ending: bool, tokenizer: Any, tmp_path: Path) -> None:
    """At an equal beta, with ratios on both sides of the clip range: the loss, and its gradient."""
    trainer = a_trainer("GRPO", tokenizer, tmp_path, loss_type=loss_type, use_bias_correction_kl=False)
    batch = a_batch(tokenizer)
    advantages = grpo_advantages(batch.score, batch.group)
    logp = logps(trainer.model, batch.rollout)
    ratio = (logp - batch.rollout.logp).exp()[batch.rollout.mask]
    assert (ratio < 0.8).any() and (ratio > 1.2).any()
    ours = clipped_loss(logp, batch, advantages, kl_kind="k3", by_ending=by_ending)
    theirs = trainer._compute_loss(trainer.model, as_inputs(batch, advantages, tokenizer))
    agree(ours, theirs)
    agree(slopes(ours, trainer.model), slopes(theirs, trainer.model))
    other = clipped_loss(logp, batch, advantages, kl_kind="k3", by_ending=not by_ending)
    assert abs(other.item() - theirs.item()) > 1e-3


def test_trl_s_grpo_multiplies_k3_by_the_ratio_unless_it_is_told_otherwise(tokenizer: Any, tmp_path: Path) -> None:
    """Its default since DeepSeek-V3.2: then the gradient is that of k2, which the ratio's own gradient makes of k3."""
    trainer, batch = a_trainer("GRPO", tokenizer, tmp_path, loss_type="dapo"), a_batch(tokenizer)
    assert trainer.args.use_bias_correction_kl
    advantages, mask = grpo_advantages(batch.score, batch.group), batch.rollout.mask
    logp = logps(trainer.model, batch.rollout)
    ratio = (logp - batch.rollout.logp).exp()
    charge = masked_mean(ratio * kl.estimate(logp, batch.logp_ref, "k3"), mask)
    theirs = trainer._compute_loss(trainer.model, as_inputs(batch, advantages, tokenizer))
    agree(clipped_loss(logp, batch, advantages) + BETA * charge, theirs)
    assert abs(clipped_loss(logp, batch, advantages, kl_kind="k3").item() - theirs.item()) > 1e-4


def generated(trainer: Any) -> tuple[dict[str, Tensor], Rollout, Tensor]:
    """What TRL makes of the openings: its batch, the endings as a rollout, and the scores (B,) it was given."""
    kept: list[float] = []

    def keeping(completions: list[str], **_: Any) -> list[float]:
        kept.extend(how_many_e(completions))
        return kept

    trainer.reward_funcs = [keeping]
    trainer.model.train()  # in evaluation TRL samples another number of endings
    batch = trainer._generate_and_score_completions([{"prompt": one} for one in OPENINGS for _ in range(SIZE)])
    trainer.model.eval()
    mask = batch["completion_mask"].bool()
    prompts = tuple(tuple(row[here.bool()].tolist())
                    for row, here in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True))
    zeros = torch.zeros(mask.shape)
    rollout = Rollout(prompts, batch["completion_ids"], mask, zeros, zeros[..., None], zeros, mask.any(1))
    return batch, rollout, torch.tensor(kept)


@pytest.mark.parametrize("scale_rewards", [True, False])
def test_our_grpo_advantages_are_trl_s(scale_rewards: bool, tokenizer: Any, tmp_path: Path) -> None:
    """Of endings that TRL has sampled and scored."""
    batch, _, scores = generated(a_trainer("GRPO", tokenizer, tmp_path, scale_rewards=scale_rewards))
    group = torch.arange(len(OPENINGS)).repeat_interleave(SIZE)
    assert scores.std() > 0
    agree(grpo_advantages(scores, group, std=scale_rewards), batch["advantages"])


def test_our_rloo_advantages_are_trl_s(tokenizer: Any, tmp_path: Path) -> None:
    """Both charge k1, summed over the ending, in the reward, at an equal beta."""
    trainer = a_trainer("RLOO", tokenizer, tmp_path)
    batch, rollout, scores = generated(trainer)
    with torch.no_grad():
        logp, logp_ref = (logps(model, rollout) for model in (trainer.model, trainer.ref_model))
    group = torch.arange(len(OPENINGS)).repeat_interleave(SIZE)
    charge = BETA * (logp - logp_ref).sum(1)
    assert charge.abs().max() > 0.01
    agree(rloo_advantages(scores - charge, group), batch["advantages"])


def test_trl_s_rloo_clips_one_ratio_of_each_ending(tokenizer: Any, tmp_path: Path) -> None:
    """Ours clips one of each token. While no ratio has left 1, both have the same gradient but for the divisor."""
    trainer, batch = a_trainer("RLOO", tokenizer, tmp_path), a_batch(tokenizer)
    advantages = rloo_advantages(batch.score, batch.group)
    inputs = as_inputs(batch, advantages, tokenizer)
    logp, rollout = logps(trainer.model, batch.rollout), batch.rollout
    ours, theirs = clipped_loss(logp, batch, advantages), trainer._compute_loss(trainer.model, inputs)
    assert abs((ours * batch.tokens / batch.endings - theirs).item()) > 0.1
    whole = Rollout(rollout.prompts, rollout.tokens[:, :1], rollout.mask[:, :1], rollout.logp.sum(1, keepdim=True),
                    rollout.hidden[:, :1], rollout.values[:, :1], rollout.ended)  # an ending as one token
    as_one = Batch(whole, batch.score, batch.logp_ref, batch.group, BETA, 0.2, batch.endings, batch.endings)
    agree(clipped_loss(logp.sum(1, keepdim=True), as_one, advantages), theirs)

    trainer.model.load_state_dict(a_model().state_dict())  # the model that wrote the endings
    logp = logps(trainer.model, rollout)
    ours, theirs = clipped_loss(logp, batch, advantages), trainer._compute_loss(trainer.model, inputs)
    ours_by_ending = clipped_loss(logp, batch, advantages, by_ending=True)
    torch.testing.assert_close(ours_by_ending, theirs, atol=1e-4, rtol=0)  # a sum over tokens rounds in the exponent
    gradient, expected = slopes(ours * batch.tokens / batch.endings, trainer.model), slopes(theirs, trainer.model)
    assert (gradient - expected).norm() < 1e-3 * expected.norm()


def test_our_dpo_is_trl_s(pairs: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The tokens of every pair, the loss, and its gradient."""
    trainer = trl.DPOTrainer(model=a_model(noise=0.01), ref_model=a_model(), processing_class=tokenizer,
                             args=trl.DPOConfig(**settings(tmp_path / "dpo"), max_length=128, beta=BETA),
                             train_dataset=pairs)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    read = to_pairs(RECORDS)[:6]
    sides = [encode_demonstrations(trainer.model, tokenizer, [(pair[0], pair[side]) for pair in read])
             for side in (1, 2)]
    theirs_rows = [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"],
                                                                  strict=True)]
    assert theirs_rows == [list(example.tokens) for side in sides for example in side]
    trainer.model.eval()
    with torch.no_grad():
        reference = [ending_logprobs(trainer.ref_model, side) for side in sides]
    chosen, rejected = (ending_logprobs(trainer.model, side) for side in sides)
    ours = dpo_loss(chosen, rejected, reference[0], reference[1], BETA)
    theirs = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    assert abs(ours.item() - 0.6931) > 0.01
    agree(ours, theirs)
    agree(slopes(ours, trainer.model), slopes(theirs, trainer.model))
