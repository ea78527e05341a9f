"""Build the embedded checkpoint: corpus, tokenizer, one pass of next-token training, model card."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from rlhf_mini import files, team
from rlhf_mini.batches import token_batches
from rlhf_mini.checkpoints import ready
from rlhf_mini.errors import InputError, shown
from rlhf_mini.given import stream, text_stream
from rlhf_mini.language_model import EOS, PAD, context_length, encode, save_language_model
from rlhf_mini.model_card import card
from rlhf_mini.optimisers import muon_and_adamw
from rlhf_mini.require import require, require_numbers
from rlhf_mini.run.base import note_tales
from rlhf_mini.run.config import can_be_utf_8
from rlhf_mini.run.plan import Work
from rlhf_mini.run.progress import batches_shown, expect, progress, stage
from rlhf_mini.sft import Example, fit_next_token
from rlhf_mini.tales.corpus import corpus

TOKENIZER_DOCUMENTS = 20_000
AT_ONCE = 4096  # documents that are encoded together


@dataclass(frozen=True)
class PretrainConfig:
    """How the embedded checkpoint is made: the shape of the model, and the corpus it reads once."""

    documents: int = 480_000
    batch_tokens: int = 4096
    learning_rate: float = 6e-3
    warmup: float = 0.02  # share of the steps
    weight_decay: float = 0.05
    vocab_size: int = 1400
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    n_positions: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        require_numbers(self, positive=("learning_rate",), not_negative=("warmup", "weight_decay"),
                         whole=("documents", "batch_tokens", "vocab_size", "n_layer", "n_head", "n_embd",
                                "n_positions"))
        require(self, "n_embd", f"a multiple of n_head = {self.n_head}", self.n_embd % self.n_head == 0)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> GPT2Tokenizer:
    """Byte-level BPE with an end-of-text token (id 0) and a pad token of its own (id 1); loses no character.

    Raises: InputError where vocab_size has no room for the 256 bytes and the two special tokens, or where there is
    no list or stream of texts.
    """
    if vocab_size < 258:
        raise InputError(f"vocab_size is {vocab_size}: give at least 258, for 256 bytes and two special tokens")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text_stream("texts", texts), vocab_size=vocab_size, special_tokens=[EOS, PAD],
                                show_progress=False)
    bpe = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in bpe["merges"]]
    return GPT2Tokenizer(vocab=bpe["vocab"], merges=merges, bos_token=EOS, eos_token=EOS, unk_token=EOS, pad_token=PAD)


def new_language_model(vocab_size: int, eos_id: int, pad_id: int, n_layer: int, n_head: int, n_embd: int,
                       n_positions: int, seed: int) -> GPT2LMHeadModel:
    """A GPT-2 with random weights drawn from `seed`, and no dropout."""
    config = GPT2Config(vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_layer=n_layer,
                        n_head=n_head, bos_token_id=eos_id, eos_token_id=eos_id, pad_token_id=pad_id,
                        activation_function="gelu_pytorch_tanh")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return ready(model)


def pages(config: PretrainConfig, tokenizer: Any) -> list[Sequence[int]]:
    """The corpus as rows of tokens that end in EOS and fit into the context.

    The rows are arrays, which need a tenth of the memory of lists.
    """
    batches = zip(batches_shown(range(0, config.documents, AT_ONCE), "corpus"),
                  _batches(corpus(config.documents, config.seed), AT_ONCE), strict=True)
    return [array("i", [*row, tokenizer.eos_token_id]) for _, batch in batches
            for row in encode(tokenizer, batch) if len(row) < config.n_positions]


def _batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def new_model(config: PretrainConfig, tokenizer: Any) -> Any:
    """An untrained model with the shape that the config gives."""
    return new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, config.n_layer,
                              config.n_head, config.n_embd, config.n_positions, config.seed)


def pretrain(out: Path, config: PretrainConfig | None = None) -> Path:
    """Train the checkpoint and write it, with its model card, into the folder `out`.

    Raises: InputError, before the training, if `out` is not empty or cannot be written to; NotSavedError.
    """
    config = config or PretrainConfig()
    _make_folder(out)
    expect({"corpus": [Work("corpus", "documents", config.documents)],
            "training": [Work("pretraining", "steps")]})
    with stage("tokenizer"):
        tokenizer = train_tokenizer(corpus(TOKENIZER_DOCUMENTS, config.seed), config.vocab_size)
    model = new_model(config, tokenizer)
    with stage("corpus"):
        rows = pages(config, tokenizer)
    steps = train_lm(model, rows, config, tokenizer.eos_token_id)
    total = math.ceil(sum(map(len, rows)) / config.batch_tokens)
    with stage("training"):
        *_, last = progress(steps, total, "pretraining", lambda step: f"loss {step['loss']:.3f}")
        note_tales(model)
        save_language_model(model, tokenizer, out)
        team.wait()  # the card of every process reads the saved files
    counts = {"documents": len(rows), "tokens": int(last["tokens"]), "steps": int(last["step"])}
    with stage("card"):
        text = card(out, model, tokenizer, asdict(config), counts)
    if team.first():
        files.write(out / "README.md", text.encode())
    return out


@team.once
def _make_folder(out: Path) -> None:
    """Raises: InputError if the folder cannot be made or written to, or is not empty."""
    if not can_be_utf_8(out):
        raise InputError(f"{out} is not UTF-8, and no tokenizer can be saved there: give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {out} cannot be made ({error.strerror}): give another") from error
    if any(out.iterdir()):
        raise InputError(f"{out} is not empty, and nothing is overwritten: give a new folder")
    if not os.access(out, os.W_OK):
        raise InputError(f"{out} cannot be written to: give another folder")


def train_lm(model: Any, documents: Iterable[Sequence[int]], config: PretrainConfig,
             eos_id: int) -> Iterator[dict[str, float]]:
    """Pretrain on one pass over documents, each a row of its own: the loss covers every token but the first.

    Documents may be a stream: a pool of them is held at a time, and `config.documents` then sets the schedule.
    Yields per step: step, loss (nats per token), learning_rate, tokens (learnt so far).
    Raises: InputError where a document is too short or too long for the context.
    """
    total = len(documents) if isinstance(documents, Sequence) else config.documents
    documents = checked_documents(documents, eos_id, context_length(model))
    batches = token_batches(documents, config.batch_tokens, config.seed)
    steps = (([Example(row, 1) for row in batch], seen / total) for batch, seen in batches)
    yield from fit_next_token(model, muon_and_adamw(model, config.weight_decay), steps, config.learning_rate,
                              config.warmup)


def checked_documents(documents: Iterable[Sequence[int]], eos_id: int, context: int) -> Iterator[Sequence[int]]:
    """The documents, one by one. Raises: InputError for the first that does not fit or does not end in EOS."""
    for number, row in enumerate(stream("documents", documents, "rows of tokens")):
        if isinstance(row, str) or not hasattr(row, "__len__"):
            raise InputError(f"documents[{number}] is {shown(row)}: give its tokens, as `encode` gives them")
        if not 2 <= len(row) <= context:
            raise InputError(f"document {number} has {len(row)} tokens: give 2 to {context}, the model's context")
        if row[-1] != eos_id:
            raise InputError(f"document {number} ends in token {row[-1]}: append the end-of-text token {eos_id}")
        yield row
