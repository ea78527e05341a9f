"""What a run asks of its base: that it can do everything until the report, and whether it has seen tales already."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from rlhf_mini import files
from rlhf_mini.assets import asset
from rlhf_mini.checkpoints import load_tokenizer, quiet_transformers
from rlhf_mini.consistency import probe_tokens
from rlhf_mini.errors import InputError, first_line
from rlhf_mini.forward import autocast, pad_right, uses_bf16
from rlhf_mini.reward_model import ADVICE, normalise_rows, reward_model_from, score_tokens

TRAINED_ON_TALES = {"trained_on": "tales"}  # the entry `rlhf_mini` of a model's config


@contextmanager
def usual_torch() -> Iterator[None]:
    """float32, the CPU, and gradients by default, whatever the caller has set; that comes back afterwards."""
    dtype, usual = torch.get_default_dtype(), torch.get_default_device().type == "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), nullcontext() if usual else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def has_seen_tales(model: Any, tokenizer: Any) -> bool:
    """Whether this package has trained the model on tales, so that it is fine-tuned no longer than the embedded one.

    Its config says so (`note_tales`). Models that were saved before it did are known by their vocabulary: it is the
    embedded checkpoint's, which was made from tales. A base that is fine-tuned on tales already is fine-tuned again,
    for the usual number of steps.
    """
    if getattr(model.config, "rlhf_mini", None) == TRAINED_ON_TALES:
        return True
    return tokenizer.get_vocab() == load_tokenizer(asset("tiny-tales-gpt2")).get_vocab()


def note_tales(model: Any) -> None:
    """Note in the model's config, which is saved with it and with every copy, that it was trained on tales."""
    model.config.rlhf_mini = dict(TRAINED_ON_TALES)


def base_digest(model: Any, tokenizer: Any) -> str:
    """A digest of the weights and the vocabulary, by which a resumed run knows whether its base is still the same."""
    found = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    for parameter in model.parameters():
        found.update(parameter.detach().cpu().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def check_base(model: Any, tokenizer: Any) -> None:
    """Make a reward model of the base, normalise it and save its settings: what would fail later fails at once.

    Raises: InputError where the base cannot be scored, normalised or saved.
    """
    row, changed = probe_tokens(model).tolist()
    rows = [row[:3], row[:8], row, changed]
    try:
        reward_model, reward_tokenizer = reward_model_from(model, tokenizer, seed=0)
        with torch.no_grad():
            before = score_tokens(reward_model, rows)
        mean, std = normalise_rows(reward_model, rows)
        error = (plain_scores(reward_model, rows) - (before - mean) / std).abs().max().item()
        save_settings(model, tokenizer)
        save_settings(reward_model, reward_tokenizer)
    except (InputError, files.NotSavedError):
        raise
    except Exception as problem:  # an architecture may lack anything: a head of the usual name, a matching trunk
        raise InputError(f"no reward model can be made of a {type(model).__name__}, or it cannot be saved "
                         f"({first_line(problem)}): {ADVICE}") from problem
    if not error < (0.1 if uses_bf16(model) else 1e-3):
        raise InputError(f"{type(reward_model).__name__} computes its scores in another way than head(trunk) at the "
                         f"last token: {ADVICE}")


@torch.no_grad()
def plain_scores(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The scores that the plain transformers class gives to rows padded on the right. Shapes: N rows -> (N,)."""
    tokens = pad_right(rows, model.config.pad_token_id, model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    mask = torch.arange(tokens.shape[1], device=model.device) < lengths[:, None]
    with autocast(model):
        return model(input_ids=tokens, attention_mask=mask.long()).logits.squeeze(-1).float()


def save_settings(model: Any, tokenizer: Any) -> None:
    """Write all of a model but its weights, into a folder that is removed again. Raises: NotSavedError."""
    with (files.saving("a folder for temporary files"), tempfile.TemporaryDirectory() as folder,
          quiet_transformers()):
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
