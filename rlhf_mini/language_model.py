"""Load, save and make language models, and turn texts into tokens and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlhf_mini import files, team
from rlhf_mini.checkpoints import (
    check_fit,
    load_pretrained,
    load_tokenizer,
    quiet_transformers,
)
from rlhf_mini.consistency import check_consistency
from rlhf_mini.errors import InputError, shown
from rlhf_mini.forward import use_bf16
from rlhf_mini.texts import listed
from rlhf_mini.texts import texts as list_of_texts

EOS = "<|endoftext|>"
PAD = "<|pad|>"


# --- loading and saving -----------------------------------------------------------------------------------------


def load_language_model(path_or_name: str | Path, bf16: bool = False) -> tuple[PreTrainedModel, Any]:
    """A causal language model and its tokenizer, ready for log-probabilities: evaluation mode, no dropout, fp32.

    With `bf16` its matrix products are in bfloat16; its weights stay in fp32.

    Nothing is added to the model: a checkpoint without a pad token stays without one (see `pad_id`). Of its generation
    settings only the token ids are kept: sampling here ignores the rest, and some could not be written again.
    Raises: InputError where there is no such model, or it is damaged, no causal LM, not its tokenizer's, or computes
    its logits in another way than this package does.
    """
    name = str(path_or_name)
    model = load_pretrained(AutoModelForCausalLM, path_or_name, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
                            "a causal language model, such as GPT-2")
    tokenizer = load_tokenizer(path_or_name)
    check_fit(model, tokenizer, name)
    check_consistency(model, name)
    if in_vocabulary(model, model.config.eos_token_id) is None:
        model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config = plain_generation(model, tokenizer)
    if bf16:
        use_bf16(model)
    return model, tokenizer


def plain_generation(model: Any, tokenizer: Any) -> GenerationConfig:
    """The token ids of a model's generation settings; the tokenizer's where the model states none that it has."""
    ids = {name: in_vocabulary(model, getattr(model.generation_config, name, None))
           for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if ids["eos_token_id"] is None:
        ids["eos_token_id"] = tokenizer.eos_token_id
    if ids["pad_token_id"] is None:
        ids["pad_token_id"] = pad_id(tokenizer)  # else `generate` warns at every call
    return GenerationConfig(**ids)


def in_vocabulary(model: Any, ids: Any) -> Any:
    """The token ids, one or a list, if the model has them all; else None: nothing would ever end at such a token."""
    rows = model.get_input_embeddings().num_embeddings
    return ids if all(type(i) is int and 0 <= i < rows for i in (ids if isinstance(ids, list) else [ids])) else None


@team.once
def save_language_model(model: PreTrainedModel, tokenizer: Any, folder: str | Path) -> None:
    """Write a transformers folder (safetensors) that any library can load; a reward model is saved the same way.

    Raises: NotSavedError where it cannot be written whole.
    """
    def save(path: Path) -> None:
        with quiet_transformers():
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)

    files.put(Path(folder), save)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that no optimiser can change: the reference of PPO."""
    frozen = copy.deepcopy(model).eval()
    return frozen.requires_grad_(False)


# --- texts and tokens -------------------------------------------------------------------------------------------


def pad_id(tokenizer: Any) -> int:
    """The token that fills short rows: any would do, for the masks hide it."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def encode(tokenizer: Any, texts: Iterable[str], name: str = "texts") -> list[list[int]]:
    """Tokens of each text as it stands: no special token is added, and none is read out of the text.

    Raises: InputError, which calls the texts `name`, where they are no list of texts, or one cannot be encoded.
    """
    texts = list_of_texts(name, texts)
    if not texts:
        return []
    try:
        return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    except (TypeError, UnicodeError) as error:  # which of the two depends on the tokenizer
        for number, one in enumerate(texts):
            if any("\ud800" <= letter <= "\udfff" for letter in one):
                raise InputError(f"{name}[{number}] is {shown(one)}, with an unpaired surrogate, which UTF-8 cannot "
                                 "encode: correct that text") from error
        raise


def encode_prompts(tokenizer: Any, prompts: Iterable[str]) -> list[list[int]]:
    """Tokens of each opening. Raises: InputError where they are no list of texts."""
    return encode(tokenizer, prompts, "prompts")


def encode_endings(tokenizer: Any, endings: Iterable[str], ended: Iterable[bool] | None = None) -> list[list[int]]:
    """Tokens of " " + each ending, with EOS after those that ended (by default all).

    Openings and endings are encoded apart, so no token spans the border and the loss can start exactly there.
    Raises: InputError where they are no list of texts, or `ended` is not as long.
    """
    rows = encode(tokenizer, [" " + ending for ending in list_of_texts("endings", endings)], "endings")
    flags = [True] * len(rows) if ended is None else listed("ended", ended, "a list of True and False")
    if len(flags) != len(rows):
        raise InputError(f"there are {len(rows)} endings and {len(flags)} of ended: give one for each ending")
    return [row + [tokenizer.eos_token_id] * bool(flag) for row, flag in zip(rows, flags, strict=True)]


def decode_endings(tokenizer: Any, tokens: Tensor, mask: Tensor) -> list[str]:
    """Texts of the live tokens, without the final EOS and the one leading space. Shapes: tokens, mask (B, T)."""
    rows = [row[live].tolist() for row, live in zip(tokens, mask.bool(), strict=True)]
    rows = [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in rows]
    return [tokenizer.decode(row, clean_up_tokenization_spaces=False).removeprefix(" ") for row in rows]


def context_length(model: Any) -> int:
    """How many tokens the model can see at once."""
    return int(model.config.max_position_embeddings)


def check_prompts(model: Any, prompt_ids: Sequence[Sequence[int]], prompts: Sequence[str],
                  max_new_tokens: int) -> int:
    """The response limit that fits after every prompt, which is shortened with a warning where it must be.

    Raises: InputError naming the first prompt that is empty or leaves no room for a response.
    """
    context = context_length(model)
    for tokens, prompt in zip(prompt_ids, prompts, strict=True):
        shown = prompt if len(prompt) <= 60 else prompt[:57] + "..."
        if not tokens:
            raise InputError(f"the prompt {shown!r} is empty: give some text to continue")
        if len(tokens) >= context:
            raise InputError(f"the prompt {shown!r} has {len(tokens)} tokens and the model sees {context}: "
                             f"shorten it to {context - 1} at most, better {max(1, context - max_new_tokens)}")
    room = context - max((len(tokens) for tokens in prompt_ids), default=0)
    if room < max_new_tokens:
        warnings.warn(f"responses are limited to {room} tokens instead of {max_new_tokens}: the longest prompt "
                      f"leaves no more of the model's {context}", stacklevel=2)
    return min(room, max_new_tokens)
