"""Files that this project writes train with TRL unchanged, where TRL is installed (`pip install trl==1.16.0`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rlhf_mini.assets import asset
from rlhf_mini.rankings import Ranking, to_dataset

try:
    import trl
except ImportError as error:
    if os.environ.get("RLHF_MINI_TRL") == "required":
        raise
    pytest.skip(f"TRL is optional and not installed: {error}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # of trainers that are not ours


@pytest.fixture
def pairs(tmp_path: Path) -> Any:
    import datasets

    records = [Ranking(id=str(i), annotator="Ada", prompt=f"Ada found a drum {i}.", ranking=[[0], [1], [2]],
                       completions=["She played it.", "She lost it.", "It was soup."]) for i in range(8)]
    to_dataset(records, margin=True).to_json(tmp_path / "pairs.jsonl")
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
