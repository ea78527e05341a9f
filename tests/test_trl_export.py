"""The exported script trains with TRL (`pip install trl==1.16.0`); losses, scores and log-probabilities are ours."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import finished_run
import pytest
import torch
from tiny_run import tiny_config

from rlhf_mini.export.trl import export_trl
from rlhf_mini.language_model import load_language_model
from rlhf_mini.methods import grpo_advantages, rloo_advantages
from rlhf_mini.policy import PolicyWithValue
from rlhf_mini.rankings import load_rankings, to_pairs
from rlhf_mini.reward import bradley_terry_loss, load_reward_model, score_rollout, score_texts
from rlhf_mini.run.saved_config import config_to_json
from rlhf_mini.sampling import Rollout
from rlhf_mini.sft import mean_loss

try:
    import trl
except ImportError as error:
    if os.environ.get("RLHF_MINI_TRL") == "required":
        raise
    pytest.skip(f"TRL is optional and not installed: {error}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of trainers that are not ours
KL_COEF = 0.3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a finished run whose models know nothing: its demonstrations are one batch, as are its pairs."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        finished_run.shrink_constants(patch)
        run = finished_run.make_run(folder / "run")
        config = replace(tiny_config(run / "sft", run), seed=3, demonstrations=4)
        config = replace(config, ppo=replace(config.ppo, episodes=16, minibatches=2, kl_coef=KL_COEF, temperature=0.7),
                         foreign_sft_steps=3, sft=replace(config.sft, steps=3, warmup=0.0))
        (run / "config.json").write_text(json.dumps(config_to_json(config)))
        export_trl(run, folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def script(exported: Path) -> Any:
    """The exported script, as a module."""
    spec = importlib.util.spec_from_file_location("train_trl", exported / "train_trl.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(exported: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (exported / "data" / f"{name}.jsonl").read_text().splitlines()]


def losses(trained: Path) -> list[float]:
    """The loss of each step, as the script leaves it."""
    return [row["loss"] for row in json.loads((trained / "trainer_state.json").read_text())["log_history"]
            if "loss" in row]


@pytest.mark.parametrize(("column", "kind"), [(2, trl.RLOOConfig), (3, trl.GRPOConfig)])
def test_the_page_states_the_defaults_of_this_version(column: int, kind: Any) -> None:
    assert trl.__version__.startswith("1.16.")
    page = (Path(__file__).parent.parent / "notebooks" / "guide" / "past_one_machine.md").read_text(encoding="utf-8")
    cells = [row.split(" | ")[column] for row in page.splitlines() if row.startswith("| ") and row.count(" | ") >= 5]
    stated = [pair for cell in cells for pair in re.findall(r"`(\w+)` ([\w.-]+?)(?=,|:|$| )", cell)]
    assert len(stated) == (9 if column == 2 else 11)
    defaults = {field.name: field.default for field in fields(kind)}
    for name, value in stated:
        found = defaults[name]
        assert (float(value) == found if isinstance(found, int | float) else value == str(found)), name


def test_fine_tuning_begins_at_our_loss_and_learns(exported: Path, script: Any, tmp_path: Path) -> None:
    pairs = [(row["prompt"], row["completion"].removeprefix(" ")) for row in table(exported, "sft")]
    assert len(pairs) == 8
    before = mean_loss(*load_language_model(exported / "models" / "base"), pairs)
    script.main(["sft", "--out", str(tmp_path / "sft")])
    found = losses(tmp_path / "sft")
    assert len(found) == 3 and found[0] == pytest.approx(before, abs=2e-4)
    assert mean_loss(*load_language_model(tmp_path / "sft"), pairs) < before  # ours reads what TRL has saved
    assert not list(tmp_path.rglob("*.bin"))


def test_the_reward_stage_has_our_pairs_and_our_loss(exported: Path, script: Any, tmp_path: Path) -> None:
    rows = [(row["prompt"], row["chosen"].removeprefix(" "), row["rejected"].removeprefix(" "))
            for row in table(exported, "preferences")]
    held_out = table(exported, "preferences_test")
    all_pairs = to_pairs(load_rankings(exported.parent / "run" / "rankings.jsonl"))
    assert {*rows, *((row["prompt"], row["chosen"][1:], row["rejected"][1:]) for row in held_out)} == set(all_pairs)
    assert len(rows) + len(held_out) == len(all_pairs)

    made = script.reward_trainer(script.read_options(["reward", "--out", str(tmp_path / "one"), "--steps", "1"]))
    batch = next(iter(made.get_train_dataloader()))
    ids = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    tokenizer = made.processing_class
    assert tokenizer.pad_token_id != tokenizer.eos_token_id and {row[-1] for row in ids} == {tokenizer.eos_token_id}
    prompts, chosen, rejected = (list(x) for x in zip(*rows, strict=True))
    made.model.eval()
    with torch.no_grad():
        theirs = made.compute_loss(made.model, dict(batch))
        half = len(ids) // 2
        by_row = torch.tensor(script.last_token_scores(made.model, ids))
        ours = bradley_terry_loss(by_row[:half], by_row[half:])
    assert theirs.item() == pytest.approx(ours.item(), abs=1e-5)
    direct = score_texts(made.model, tokenizer, prompts, chosen)
    again = script.last_token_scores(made.model, [list(row) for row in made.train_dataset["chosen_ids"]])
    torch.testing.assert_close(torch.tensor(again), direct, atol=1e-5, rtol=0)

    script.main(["reward", "--out", str(tmp_path / "reward"), "--steps", "2"])
    model, tokenizer = load_reward_model(tmp_path / "reward")
    spread = torch.cat([score_texts(model, tokenizer, prompts, side) for side in (chosen, rejected)]).std()
    assert spread.item() == pytest.approx(1, abs=1e-3)  # so that a KL coefficient is a price in deviations


def sampled(trainer: Any, prompts: list[str]) -> tuple[dict[str, Any], Rollout, torch.Tensor]:
    """What TRL makes of prompts, four endings each: its batch, the endings as a rollout, and their scores."""
    scores: list[float] = []
    (function,) = trainer.reward_funcs

    def keeping(**given: Any) -> list[float]:
        scores.extend(function(**given))
        return scores

    trainer.reward_funcs = [keeping]
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": one} for one in prompts for _ in range(4)])
    trainer.reward_funcs = [function]
    mask = batch["completion_mask"].bool()
    rows = tuple(tuple(row[here.bool()].tolist())
                 for row, here in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True))
    zeros = torch.zeros(mask.shape)
    return batch, Rollout(rows, batch["completion_ids"], mask, zeros, zeros[..., None], zeros, mask.any(1)), \
        torch.tensor(scores)


def moved(trainer: Any) -> None:
    """Take the policy away from its reference."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_scores_log_probabilities_and_advantages_are_ours(stage: str, exported: Path, script: Any,
                                                          tmp_path: Path) -> None:
    """Of prompts of several lengths: TRL pads them on the left, where GPT-2 would count other positions."""
    trainer = script.policy_trainer(script.read_options([stage, "--out", str(tmp_path / "policy")]))
    moved(trainer)
    prompts = sorted({row["prompt"] for row in table(exported, "prompts")}, key=len)
    batch, rollout, scores = sampled(trainer, [prompts[0], prompts[-1]])
    assert len({len(prompt) for prompt in rollout.prompts}) == 2
    reward_model, _ = load_reward_model(exported / "models" / "reward_model")
    torch.testing.assert_close(scores, score_rollout(reward_model, rollout), atol=1e-5, rtol=0)

    temperature = trainer.args.temperature
    assert (temperature, trainer.beta) == (0.7, KL_COEF)
    assert trainer.args.max_completion_length == script.SETTINGS["ppo"]["max_new_tokens"]
    with torch.no_grad():
        logp, logp_ref = (PolicyWithValue(model)(rollout, temperature)[0] * rollout.mask
                          for model in (trainer.model, trainer.ref_model))
    group = torch.arange(2).repeat_interleave(4)
    if stage == "rloo":
        torch.testing.assert_close(batch["old_logps"], logp.sum(1), atol=1e-4, rtol=0)
        charge = KL_COEF * (logp - logp_ref).sum(1)
        assert charge.abs().max() > 0.01
        expected = rloo_advantages(scores - charge, group)  # the penalty of our PPO
    else:
        torch.testing.assert_close(batch["ref_per_token_logps"] * rollout.mask, logp_ref, atol=1e-4, rtol=0)
        expected = grpo_advantages(scores, group)  # the penalty stands in the loss
    torch.testing.assert_close(batch["advantages"], expected, atol=1e-3, rtol=1e-4)


def test_without_its_eos_an_ending_has_another_score(exported: Path, script: Any, tmp_path: Path) -> None:
    """TRL gives a reward model the decoded text. Given the script's function instead, it passes on the tokens."""
    trainer = script.policy_trainer(script.read_options(["rloo", "--out", str(tmp_path / "policy")]))
    model, tokenizer = load_reward_model(exported / "models" / "reward_model")
    rows = table(exported, "preferences")[:8]
    prompts, completions = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    ids = [[*ending, tokenizer.eos_token_id] for ending in tokenizer(completions)["input_ids"]]
    inputs = [{"prompt": one} for one in prompts]
    ours = trainer._calculate_rewards(inputs, prompts, completions, ids)[:, 0]
    torch.testing.assert_close(ours, score_texts(model, tokenizer, prompts, [text[1:] for text in completions]),
                               atol=1e-5, rtol=0)
    trainer.reward_funcs, trainer.reward_processing_classes = [model], [tokenizer]
    theirs = trainer._calculate_rewards(inputs, prompts, completions, ids)[:, 0]
    without = score_texts(model, tokenizer, prompts, [text[1:] for text in completions], [False] * 8)
    torch.testing.assert_close(theirs, without, atol=1e-5, rtol=0)
    assert (theirs - ours).abs().max() > 1e-3


def test_without_positions_padding_would_move_the_log_probabilities(exported: Path, script: Any,
                                                                    tmp_path: Path) -> None:
    trainer = script.policy_trainer(script.read_options(["rloo", "--out", str(tmp_path / "policy")]))
    moved(trainer)
    prompts = sorted({row["prompt"] for row in table(exported, "prompts")}, key=len)
    batch, rollout, _ = sampled(trainer, [prompts[0], prompts[-1]])
    body = trainer.model.base_model
    assert len(body._forward_pre_hooks) == 1
    body._forward_pre_hooks.clear()
    everything = [torch.cat([batch[f"prompt_{key}"], batch[f"completion_{key}"]], 1) for key in ("ids", "mask")]
    with torch.no_grad():
        logp, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *everything, rollout.mask.shape[1])
    other = ((logp * rollout.mask).sum(1) - batch["old_logps"]).abs()
    assert other[:4].max() > 1e-2 and other[4:].max() < 1e-4  # the short prompt is padded, the long one is not


@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_policies_train_and_keep_their_reference(stage: str, exported: Path, script: Any, tmp_path: Path) -> None:
    trainer = script.main([stage, "--out", str(tmp_path / stage), "--steps", "2"])
    start, reference = load_language_model(exported / "models" / "sft")[0].state_dict(), trainer.ref_model.state_dict()
    assert all(torch.equal(value, reference[name]) for name, value in start.items())
    trained = load_language_model(tmp_path / stage)[0].state_dict()
    assert trainer.state.global_step == 2
    assert any(not torch.equal(value, trained[name]) for name, value in start.items())
    assert all(value.isfinite().all() for value in trained.values())


def test_two_processes_train_one_policy(exported: Path, tmp_path: Path) -> None:
    """As the script's first lines say."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29618",
               str(exported / "train_trl.py"), "rloo", "--out", str(tmp_path / "policy"), "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    load_language_model(tmp_path / "policy")
    assert len(losses(tmp_path / "policy")) == 1


def test_a_folder_that_holds_something_is_refused(script: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(SystemExit, match="holds something: give another --out"):
            script.main(["sft", "--out", str(taken)])
