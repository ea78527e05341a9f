"""Load checkpoints from any source, and say in one line why one cannot be used."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub import constants
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as hf_logging

from rlhf_mini import team
from rlhf_mini.errors import InputError

# GPT-2's "gelu_new" computes the tanh approximation in eight operations; PyTorch has the same function as one kernel.
ONE_KERNEL_ACTIVATION = {"gelu_new": "gelu_pytorch_tanh"}


def default_device() -> torch.device:
    """This process's GPU if there is one, else the CPU; `accelerate launch --cpu` asks for the CPU."""
    return torch.device("cuda" if team.on_gpu() else "cpu")


def load_pretrained(auto_class: Any, path_or_name: str | Path, architectures: Iterable[str],
                    expected: str) -> Any:
    """A complete fp32 model from a folder or the hub.

    Raises: InputError where the checkpoint is missing, pickled, damaged, incomplete or of another architecture.
    """
    name = str(path_or_name)
    is_folder = check_folder(name)
    where = name if is_folder else f"{name} (not a folder here, so looked up on the Hugging Face hub)"
    try:
        with quiet_transformers():
            local = is_folder or not hub_reachable()  # a model in the hub's cache needs no network either
            config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local)
            found = (config.architectures or [config.model_type])[0]
            activation = getattr(config, "activation_function", None)
            if activation in ONE_KERNEL_ACTIVATION:
                config.activation_function = ONE_KERNEL_ACTIVATION[activation]
            if config.architectures and found not in set(architectures):
                raise InputError(f"{name} is a {found}: give {expected}")
            if not isinstance(getattr(config, "max_position_embeddings", None), int):
                raise InputError(f"{name} does not state its context length (max_position_embeddings): "
                                 "give a model that does, such as a GPT-2")
            model, report = auto_class.from_pretrained(name, config=config, dtype=torch.float32,
                                                       use_safetensors=True, trust_remote_code=False,
                                                       local_files_only=local, output_loading_info=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise any exception
        if is_folder:
            raise InputError(f"{where} cannot be loaded as {expected}: {first_line(error)}") from error
        raise InputError(f"{where} cannot be downloaded: with a network, run `hf download {name} --local-dir "
                         f"FOLDER`, then give FOLDER ({first_line(error)})") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{where} lacks {len(missing)} of its weights (the first is {missing[0]}): "
                         "give a complete checkpoint")
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


def check_folder(name: str) -> bool:
    """Whether the name is a folder with a model that is safe to load; False if it can only be a hub name.

    Raises: InputError if it is neither.
    """
    path = Path(name)
    if not name.strip() or not path.exists():
        # A hub name is "model" or "owner/model"; anything else is a path.
        if not name.strip() or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
            raise InputError(f"there is no folder {name!r}: give the folder of a saved model, or a hub name")
        return False
    if not path.is_dir():
        raise InputError(f"{path} is a file: give the folder that holds config.json and the weights")
    if not (path / "config.json").is_file():
        raise InputError(f"{path} has no config.json: give a folder written by save_pretrained")
    if not any(path.glob("*.safetensors")):
        # .bin files are pickles, which can run any code when they are loaded.
        kind = "only pickled weights (.bin)" if any(path.glob("*.bin")) else "no weights"
        raise InputError(f"{path} has {kind}: save the model with save_pretrained, which writes model.safetensors")
    return True


def hub_reachable() -> bool:
    """Whether the hub's server answers within five seconds; the hub's own client would try for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    if "https" in getproxies():
        return True
    hub = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5):
            return True
    except OSError:
        return False


def load_tokenizer(path_or_name: str | Path) -> Any:
    """The tokenizer saved with a model. Raises: InputError if there is none, or it has no end-of-text token."""
    name = str(path_or_name)
    try:
        with quiet_transformers():
            local = Path(name).is_dir() or not hub_reachable()
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=local)
    except Exception as error:  # as above: a damaged file can raise any exception
        raise InputError(f"{name} has no tokenizer that can be loaded: save the model's tokenizer there "
                         f"({first_line(error)})") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {name} has no end-of-text token: set its eos_token and save it again")
    return tokenizer


def check_fit(model: Any, tokenizer: Any, name: str) -> None:
    """Raises: InputError if the tokenizer has tokens that the model lacks, or far fewer than the model."""
    rows = model.get_input_embeddings().num_embeddings
    ids = tokenizer.get_vocab().values()
    # Checkpoints may round up the size of the vocabulary, so a few rows without a token are not an error.
    if not ids or max(ids) >= rows or rows > 2 * len(ids):
        raise InputError(f"{name}: the model has {rows} tokens and the tokenizer {len(ids)} (highest id "
                         f"{max(ids, default=-1)}): save the tokenizer that the model was trained with in its folder")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
