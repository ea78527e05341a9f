"""Load checkpoints from any source, and say in one line why one cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as hf_logging

from rlhf_mini import hub, team
from rlhf_mini.checkpoint_files import DOWNLOADED, Header, check_model_folder, check_texts, check_weights, weight_files
from rlhf_mini.errors import InputError, first_line, shown

# GPT-2's "gelu_new" computes the tanh approximation in eight operations; PyTorch has the same function as one kernel.
ONE_KERNEL_ACTIVATION = {"gelu_new": "gelu_pytorch_tanh"}
FLOATS = ("F64", "F32", "F16", "BF16")
WRAPPERS = {  # what a wrapper puts into the names of the weights -> what to save instead of it
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "_fsdp_wrapped_module.": "FSDP: save its full state dict",
    "_checkpoint_wrapped_module.": "activation checkpointing: save the model without it",
    "base_model.model.": "an adapter: save what merge_and_unload gives",
    "module.": "DataParallel: save model.module"}


def default_device() -> torch.device:
    """This process's GPU if there is one, else the CPU; `accelerate launch --cpu` asks for the CPU."""
    return torch.device("cuda" if team.on_gpu() else "cpu")


def load_pretrained(auto_class: Any, path_or_name: str | Path, architectures: Iterable[str],
                    expected: str) -> Any:
    """A complete fp32 model from a folder or the hub; nothing but text and safetensors is opened.

    Raises: InputError where the checkpoint is missing, pickled, damaged, incomplete or of another architecture.
    """
    name = str(path_or_name)
    with quiet_transformers():
        folder, from_hub = text_files(name)
        check_model_folder(folder)
        with cannot(f"{name} cannot be loaded as {expected}"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        check_config(config, name, set(architectures), expected)
        header = check_weights(folder, weights_of(config, name, folder, from_hub))
        activation = getattr(config, "activation_function", None)
        if activation in ONE_KERNEL_ACTIVATION:
            config.activation_function = ONE_KERNEL_ACTIVATION[activation]
        with cannot(f"{name} cannot be loaded as {expected}"):
            model, report = auto_class.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True,
                                                       trust_remote_code=False, local_files_only=True,
                                                       ignore_mismatched_sizes=True, output_loading_info=True)
    check_complete(model, report, header, name)
    return ready(model)


def ready(model: Any) -> Any:
    """The model in evaluation mode on the default device, with every dropout at 0, in its saved config too."""
    for name, value in vars(model.config).items():
        if isinstance(value, float) and ("pdrop" in name or "dropout" in name):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.to(default_device()).eval()


# --- what is opened ---------------------------------------------------------------------------------------------


def text_files(name: str) -> tuple[Path, bool]:
    """The folder with a model's config and tokenizer, all checked, and whether it was downloaded from the hub.

    Raises: InputError if the name is no folder with a model, nor one of the hub.
    """
    path = Path(name)
    with cannot(f"{name} cannot be read"):
        from_hub = not name.strip() or not path.exists()
        if from_hub:
            # A hub name is "model" or "owner/model"; anything else is a path.
            if not name.strip() or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
                raise InputError(f"there is no folder {name!r}: give the folder of a saved model, or a hub name")
            path = hub.download(name, DOWNLOADED)
        check_texts(path)
    return path, from_hub


def weights_of(config: Any, name: str, folder: Path, from_hub: bool) -> list[str]:
    """The names of the weight files that transformers would open, all in the folder. Raises: InputError."""
    files = weight_files(folder, getattr(config, "transformers_weights", None))
    if from_hub and not all((folder / file).exists() for file in files):
        hub.download(name, files, revision=folder.name)  # a folder of the hub's cache has the name of its revision
        for file in (file for file in files if not (folder / file).exists()):
            raise hub.not_downloaded(name, f"there is no {file}; pickled weights are not loaded")
    return files


def check_config(config: Any, name: str, architectures: set[str], expected: str) -> None:
    """Raises: InputError where the config is that of another architecture, or asks for what is not loaded here."""
    found = config.architectures
    if found and (not isinstance(found, list) or not isinstance(found[0], str) or found[0] not in architectures):
        raise InputError(f"{name} is a {found[0] if isinstance(found, list) else found}: give {expected}")
    if type(getattr(config, "max_position_embeddings", None)) is not int or config.max_position_embeddings < 1:
        raise InputError(f"{name} does not state its context length (max_position_embeddings): "
                         "give a model that does, such as a GPT-2")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{name} has quantised weights (quantization_config), which cannot be trained: give the "
                         "model that it was made from")
    for setting in ("_attn_implementation", "_experts_implementation"):
        if "/" in str(getattr(config, setting, None)):
            raise InputError(f"the config of {name} asks for code from the hub ({setting} is "
                             f"{shown(getattr(config, setting))}), which is never run: remove that entry")


@contextmanager
def cannot(what: str) -> Iterator[None]:
    """Turn whatever transformers or the system raises into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise any exception
        raise InputError(f"{what}: {first_line(error)}") from error


# --- what was loaded --------------------------------------------------------------------------------------------


def check_complete(model: Any, report: Any, header: Header, name: str) -> None:
    """Check that every weight of the model came from the files, and every weight in the files into the model.

    Raises: InputError naming the first that did not, or that is not finite.
    """
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        for part, what in WRAPPERS.items():
            if any(part in key and key.replace(part, "") in missing for key in header):
                raise InputError(f"{name} has weights with {part!r} in their names, which come from {what}")
        raise InputError(f"{name} lacks {len(missing)} of its weights (the first is {missing[0]}): "
                         "give a complete checkpoint")
    for key, in_file, in_model in sorted(report["mismatched_keys"]):
        raise InputError(f"{name}: {key} has the shape {tuple(in_file)}, and by config.json {tuple(in_model)}: save "
                         "the model again with the config that it was trained with")
    for key in sorted(strange(model, report["unexpected_keys"])):
        raise InputError(f"{name} has weights that its config.json leaves out (the first is {key}): save the model "
                         "again with the config that it was trained with")
    for key, parameter in model.named_parameters():
        stored = header.get(key) or header.get(key.removeprefix(model.base_model_prefix + "."), "F32")
        if stored not in FLOATS:
            raise InputError(f"{name}: {key} is stored as {stored}, so it is quantised: give the model that it was "
                             "made from")
        if not bool(parameter.isfinite().all()):
            raise InputError(f"{name}: {key} has values that are not finite numbers: its weights are damaged or its "
                             "training has diverged; give another checkpoint")


def strange(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Those of the unexpected weights that belong to a layer or a kind of module that the model has.

    Others are no part of it: a value head of another library, a mask that old files hold.
    """
    def module(key: str) -> str:
        return re.sub(r"\d+", "0", key.rpartition(".")[0])

    known = {module(key) for part in (model, model.base_model) for key, _ in
             part.named_parameters(remove_duplicate=False)}
    return [key for key in unexpected if module(key) in known]


# --- tokenizers -------------------------------------------------------------------------------------------------


def load_tokenizer(path_or_name: str | Path) -> Any:
    """The tokenizer saved with a model. Raises: InputError if there is none, or it has no end-of-text token."""
    name = str(path_or_name)
    with quiet_transformers():
        folder, _ = text_files(name)
        with cannot(f"{name} has no tokenizer that can be loaded: save the model's tokenizer there"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {name} has no end-of-text token: set its eos_token and save it again")
    return tokenizer


def check_fit(model: Any, tokenizer: Any, name: str) -> None:
    """Raises: InputError if the tokenizer has tokens that the model lacks, or far fewer than the model."""
    rows = model.get_input_embeddings().num_embeddings
    vocabulary = tokenizer.get_vocab()
    ids = vocabulary.values()
    special = {tokenizer.pad_token_id: "pad token", tokenizer.eos_token_id: "end-of-text token"}
    for number, kind in special.items():
        if number is not None and number >= rows and sum(i >= rows for i in ids) <= len(special):
            raise InputError(f"{name}: the model has {rows} tokens, and no row for the {kind} "
                             f"{shown(tokenizer.convert_ids_to_tokens(number))} of its tokenizer (id {number}): "
                             "save the model after resize_token_embeddings, or the tokenizer without that token")
    # Checkpoints may round up the size of the vocabulary, so a few rows without a token are not an error.
    if not ids or max(ids) >= rows or rows > 2 * len(ids):
        raise InputError(f"{name}: the model has {rows} tokens and the tokenizer {len(ids)} (highest id "
                         f"{max(ids, default=-1)}): save the tokenizer that the model was trained with in its folder")
    if isinstance(pad := getattr(model.config, "pad_token_id", None), int) and pad >= rows:
        raise InputError(f"{name}: the model has {rows} tokens, and no row for the pad_token_id {pad} of its "
                         "config.json: correct that entry, or remove it")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' load reports and progress bars: problems are raised as InputErrors instead."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
