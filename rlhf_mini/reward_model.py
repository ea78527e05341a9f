"""The reward model: a language model's trunk with a head that gives one number, the score."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from rlhf_mini.checkpoints import check_fit, load_pretrained, load_tokenizer, ready
from rlhf_mini.errors import InputError
from rlhf_mini.forward import Dropout, autocast, hidden_states, use_bf16, uses_bf16
from rlhf_mini.given import check_rows, text_lists
from rlhf_mini.kl import full_precision
from rlhf_mini.language_model import PAD, context_length, encode_endings, encode_prompts
from rlhf_mini.sampling import Rollout

ADVICE = "give a base such as GPT-2, GPT-Neo, GPT-NeoX, OPT, Phi or Falcon"


def reward_model_from(language_model: PreTrainedModel, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, Any]:
    """The language model's trunk with a new head that emits one number, and a tokenizer whose pad is not its EOS.

    The pad token, where there was none, is added to this model only: it has no LM head, so no log-probability moves.
    Raises: InputError where transformers has no such model for the language model's architecture.
    """
    tokenizer = copy.deepcopy(tokenizer)
    config = copy.deepcopy(language_model.config)
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise InputError(f"transformers has no sequence classifier for {type(language_model).__name__}, so no reward "
                         f"model can be made of it: {ADVICE}")
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
    """The score of each row: the reward head at the state of its last token. Shapes: N rows -> (N,).

    Raises: InputError where they are no rows of tokens, or one is empty.
    """
    check_rows("rows", rows)
    last = hidden_states(model, rows, [len(row) - 1 for row in rows], dropout)  # (N, D)
    with autocast(model):
        return full_precision(model.score(last).squeeze(-1))


@torch.no_grad()
def score_texts(model: Any, tokenizer: Any, prompts: Iterable[str], endings: Iterable[str],
                ended: Iterable[bool] | None = None) -> Tensor:
    """The score of each ending after its prompt. Shapes: N texts -> (N,). Raises: InputError, as `token_rows`."""
    return score_tokens(model, token_rows(model, tokenizer, prompts, endings, ended))


@torch.no_grad()
def score_rollout(model: Any, rollout: Rollout) -> Tensor:
    """The score of each sampled ending, read at its last live token. Shapes: B endings -> (B,)."""
    return score_tokens(model, rollout.rows)


def token_rows(model: Any, tokenizer: Any, prompts: Iterable[str], endings: Iterable[str],
               ended: Iterable[bool] | None = None) -> list[list[int]]:
    """Prompt + ending (+ EOS) as one row each.

    Raises: InputError where there are not equally many texts of each, or a row is longer than the model's context.
    """
    prompts, endings = text_lists(prompts=prompts, endings=endings)
    pairs = zip(encode_prompts(tokenizer, prompts), encode_endings(tokenizer, endings, ended), strict=True)
    rows = [prompt + ending for prompt, ending in pairs]
    for row, prompt in zip(rows, prompts, strict=True):
        if len(row) > context_length(model):
            raise InputError(f"the prompt {prompt[:60]!r} with its completion has {len(row)} tokens and the reward "
                             f"model sees {context_length(model)}: shorten them")
    return rows


def normalise(model: Any, tokenizer: Any, prompts: Iterable[str], endings: Iterable[str],
              ended: Iterable[bool] | None = None) -> tuple[float, float]:
    """Give the scores of these texts mean 0 and standard deviation 1; returns what they were before.

    It changes the weights (see `normalise_rows`), so whoever loads the saved folder gets normalised scores.
    Raises: InputError where the scores do not vary, or the model has no bias that can hold the shift.
    """
    return normalise_rows(model, token_rows(model, tokenizer, prompts, endings, ended))


@torch.no_grad()
def normalise_rows(model: Any, rows: Sequence[Sequence[int]]) -> tuple[float, float]:
    """The same for rows of tokens.

    The scale goes into the head. GPT-2's head has no bias, but its final layer norm has one: moved by d, it moves every
    score by w . d, where w is the head. Other architectures have such a bias in other places.
    """
    scores = score_tokens(model, rows).double()
    if not scores.isfinite().all():
        raise InputError("the reward model's scores are not finite numbers: lower the learning rate of its fit")
    if len(scores) < 2 or not bool(scores.std() > 1e-6):
        raise InputError(f"the scores of {len(scores)} texts do not vary: give at least two different texts")
    mean, std = scores.mean().item(), scores.std().item()
    bias, slope = common_bias(model, [rows[int(scores.argmin())], rows[int(scores.argmax())]])
    bias -= mean * slope / slope.square().sum()
    for parameter in model.score.parameters():
        parameter /= std
    return mean, std


def common_bias(model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The bias that moves every score alike, and its slope: moved by d, it moves each score by slope . d.

    Shapes: two or more rows with different scores -> (D,), (D,).
    Raises: InputError where there is none.
    """
    biases = [x for name, x in model.named_parameters() if name.endswith("bias") and x.dim() == 1]
    frozen = [x for x in biases if not x.requires_grad]
    for x in frozen:
        x.requires_grad_(True)
    with torch.enable_grad():
        scores = score_tokens(model, rows)
        slopes = [torch.autograd.grad(score, biases, retain_graph=True, materialize_grads=True)
                  for score in scores if biases]
    for x in frozen:
        x.requires_grad_(False)
    for bias, *each in reversed(list(zip(biases, *slopes, strict=True))):
        size = each[0].norm()
        if size > 0 and all((x - each[0]).norm() <= 1e-4 * size for x in each):
            return bias, each[0]
    raise InputError(f"{type(model).__name__} has no bias that moves every score alike (GPT-2 has one in its final "
                     f"layer norm; an RMSNorm has none), so its scores cannot be normalised: {ADVICE}")
