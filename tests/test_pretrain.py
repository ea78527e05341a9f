"""Making a checkpoint from nothing: it trains, loads anywhere, and its card says what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_mini import model_card
from rlhf_mini import pretrain as pretraining
from rlhf_mini.assets import asset
from rlhf_mini.errors import InputError
from rlhf_mini.pretrain import PretrainConfig, pretrain

SMALL = PretrainConfig(documents=300, vocab_size=400, n_layer=1, n_head=2, n_embd=16)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "TOKENIZER_DOCUMENTS", 300)
    monkeypatch.setattr(model_card, "HELD_OUT_TALES", 50)
    monkeypatch.setattr(model_card, "JUDGED", 8)


def test_a_checkpoint_from_nothing_loads_and_has_a_card(tmp_path: Path) -> None:
    out = pretrain(tmp_path / "made", SMALL)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.vocab_size == len(tokenizer) == 400
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "entropy of the grammar" in card
    head: Any = ModelCard(card).data
    assert head.pipeline_tag == "text-generation" and head.model_name == "tiny-tales-gpt2"
    assert {result.metric_type for result in head.eval_results} == {"loss", "coherence"}
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() in card
    with pytest.raises(InputError, match="is not empty"):
        pretrain(out, SMALL)


def test_a_folder_that_cannot_be_used_is_refused_before_training(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.setattr(pretraining, "train_tokenizer", lambda *_: pytest.fail("it began to train"))
    for out, reason in ((tmp_path, "is not empty"), (tmp_path / "README.md", "cannot be made")):
        with pytest.raises(InputError, match=reason):
            pretrain(out, SMALL)
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(pretraining.os, "access", lambda *_: False)  # a superuser may write anywhere
    with pytest.raises(InputError, match="cannot be written to"):
        pretrain(tmp_path / "locked", SMALL)


@pytest.mark.parametrize("text", ["", "Zoë’s naïve 🦊\n\t“hi”", "<|endoftext|> in a text", "  two  spaces  "])
def test_the_embedded_tokenizer_loses_no_character(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(asset("tiny-tales-gpt2"))
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_embedded_files_are_those_of_the_card() -> None:
    folder = asset("tiny-tales-gpt2")
    card = (folder / "README.md").read_text(encoding="utf-8")
    head: Any = ModelCard(card).data
    assert [result.metric_type for result in head.eval_results] == ["loss", "coherence"]
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in card, name
