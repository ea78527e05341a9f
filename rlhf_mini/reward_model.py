"""The reward model: a language model's trunk with a head that gives one number, the score."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from rlhf_mini.checkpoints import check_fit, load_pretrained, load_tokenizer, ready
from rlhf_mini.errors import InputError
from rlhf_mini.forward import Dropout, autocast, hidden_states, use_bf16, uses_bf16
from rlhf_mini.kl import full_precision
from rlhf_mini.language_model import PAD, context_length, encode_endings, encode_prompts
from rlhf_mini.sampling import Rollout


def reward_model_from(language_model: PreTrainedModel, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, Any]:
    """The language model's trunk with a new head that emits one number, and a tokenizer whose pad is not its EOS.

    The pad token, where there was none, is added to this model only: it has no LM head, so no log-probability moves.
    """
    tokenizer = copy.deepcopy(tokenizer)
    config = copy.deepcopy(language_model.config)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config, dtype=language_model.dtype)
        model.base_model.load_state_dict(language_model.base_model.state_dict())
        if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
            tokenizer.add_special_tokens({"pad_token": PAD})
            rows = model.get_input_embeddings().num_embeddings
            if tokenizer.pad_token_id >= rows:
                model.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)
        # Small scores at the start, of the same size for any width (Stiennon et al. 2020).
        torch.nn.init.normal_(model.score.weight, std=(config.hidden_size + 1) ** -0.5)
    model.config.pad_token_id = tokenizer.pad_token_id
    if uses_bf16(language_model):
        use_bf16(model)
    return ready(model), tokenizer


def load_reward_model(folder: str | Path, bf16: bool = False) -> tuple[PreTrainedModel, Any]:
    """A saved reward model and its tokenizer. Raises: InputError where the folder holds no such thing."""
    model = load_pretrained(AutoModelForSequenceClassification, folder,
                            MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values(),
                            "a reward model (a sequence classifier with one label)")
    tokenizer = load_tokenizer(folder)
    check_fit(model, tokenizer, str(folder))
    if model.config.num_labels != 1:
        raise InputError(f"{folder} is a classifier with {model.config.num_labels} labels: a reward model has one")
    if bf16:
        use_bf16(model)
    return model, tokenizer


def score_tokens(model: Any, rows: Sequence[Sequence[int]], dropout: Dropout | None = None) -> Tensor:
    """The score of each row: the reward head at the state of its last token. Shapes: N rows -> (N,)."""
    last = hidden_states(model, rows, [len(row) - 1 for row in rows], dropout)  # (N, D)
    with autocast(model):
        return full_precision(model.score(last).squeeze(-1))


@torch.no_grad()
def score_texts(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str],
                ended: Sequence[bool] | None = None) -> Tensor:
    """The score of each ending after its prompt. Shapes: N texts -> (N,)."""
    return score_tokens(model, token_rows(model, tokenizer, prompts, endings, ended))


@torch.no_grad()
def score_rollout(model: Any, rollout: Rollout) -> Tensor:
    """The score of each sampled ending, read at its last live token. Shapes: B endings -> (B,)."""
    return score_tokens(model, rollout.rows)


def token_rows(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str],
               ended: Sequence[bool] | None = None) -> list[list[int]]:
    """Prompt + ending (+ EOS) as one row each. Raises: InputError for a row longer than the model's context."""
    pairs = zip(encode_prompts(tokenizer, prompts), encode_endings(tokenizer, endings, ended), strict=True)
    rows = [prompt + ending for prompt, ending in pairs]
    for row, prompt in zip(rows, prompts, strict=True):
        if len(row) > context_length(model):
            raise InputError(f"the prompt {prompt[:60]!r} with its completion has {len(row)} tokens and the reward "
                             f"model sees {context_length(model)}: shorten them")
    return rows


def normalise(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str],
              ended: Sequence[bool] | None = None) -> tuple[float, float]:
    """Give these texts mean 0 and standard deviation 1, inside the weights; returns what they were before.

    The head has no bias. The final layer norm has: moved by d along the head w, it moves every score by w . d.
    Raises: InputError where the model has no such layer norm or the scores do not vary.
    """
    final_norm: Any = getattr(model.base_model, "ln_f", None)
    if getattr(final_norm, "bias", None) is None:
        raise InputError(f"{type(model).__name__} has no final layer norm with a bias: only GPT-2 can be normalised")
    scores = score_texts(model, tokenizer, prompts, endings, ended).double()
    if not scores.isfinite().all():
        raise InputError("the reward model's scores are not finite numbers: lower the learning rate of its fit")
    if len(scores) < 2 or not bool(scores.std() > 1e-6):
        raise InputError(f"the scores of {len(scores)} texts do not vary: give at least two different texts")
    mean, std = scores.mean().item(), scores.std().item()
    with torch.no_grad():
        head = model.score.weight[0]
        final_norm.bias -= mean * head / head.square().sum()
        model.score.weight /= std
    return mean, std
