"""Tiny models that every test can afford; nothing comes from outside the repository."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach for the network
os.environ["MPLBACKEND"] = "agg"  # before matplotlib is imported: pictures are drawn, not shown
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread, for the notebooks' kernels too: the same sums on any number of cores, and no waiting on a busy one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_texts import ENDINGS, OPENINGS
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.pretrain import new_language_model, train_tokenizer

# Shared first, after the notebooks: then no worker is left alone with a long file at the end.
LONG = {"test_browser.py", "test_cli.py", "test_compared_methods.py", "test_enumeration.py", "test_methods.py",
        "test_pipeline.py", "test_readme.py", "test_repairs.py", "test_sweep.py", "test_tales.py", "test_taste.py"}

TEXTS = [f"{opening} {ending}" for opening in OPENINGS for ending in ENDINGS]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Two workers share whole folders; files that are named, a debugger or `-n 0` are served in this process.

    A file is never divided, so a notebook has one kernel, and what a module shares is made once.
    """
    folders = any(Path(argument).is_dir() for argument in config.args)
    worker = hasattr(config, "workerinput")  # one of the two: it has none of its own
    if folders and not worker and config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None:
        config.option.numprocesses = 0 if config.option.usepdb else 2
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False  # in the order that follows


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the notebooks and the long files."""
    items.sort(key=lambda item: 0 if item.path.suffix == ".ipynb" else 1 if item.path.name in LONG else 2)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> GPT2Tokenizer:
    """A byte-level BPE of 320 tokens with a pad token of its own."""
    return train_tokenizer(TEXTS, vocab_size=320)


@pytest.fixture(scope="session")
def _tiny_model(tiny_tokenizer: Any) -> GPT2LMHeadModel:
    return new_language_model(len(tiny_tokenizer), tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id,
                              n_layer=2, n_head=2, n_embd=32, n_positions=96, seed=0)


@pytest.fixture
def tiny_model(_tiny_model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """A random GPT-2 of two layers and width 32 that the test may change; fits `tiny_tokenizer`."""
    return copy.deepcopy(_tiny_model)


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 that this project did not make: no pad token, dropout 0.1, 128 positions, another tokenizer."""
    folder = tmp_path_factory.mktemp("foreign-gpt2")
    ours = train_tokenizer([text.upper() for text in TEXTS], vocab_size=300)
    vocabulary = {token: i for token, i in ours.get_vocab().items() if token != "<|pad|>"}
    vocabulary = {token: i for i, token in enumerate(sorted(vocabulary, key=vocabulary.__getitem__))}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=_merges(ours), model_max_length=128)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2,
                                           bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id))
    assert tokenizer.pad_token_id is None and model.config.attn_pdrop == 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _merges(tokenizer: Any) -> Any:
    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.fixture
def foreign(foreign_folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of `foreign_folder`, as the package loads them."""
    return load_language_model(foreign_folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A saved model, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = new_language_model(len(tiny_tokenizer), 0, 1, n_layer=2, n_head=2, n_embd=32, n_positions=96, seed=3)
    save_language_model(model, tiny_tokenizer, folder)
    return folder


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "broken"))
