"""Judge a checkpoint by the files that would be opened, before they are: only safetensors and text.

A pickle can run any code when it is loaded. What decides is not which files a folder has, but which of them
transformers would open: model.safetensors, or else what its index names, or what the config names.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import safe_open

from rlhf_mini.errors import InputError, first_line, shown

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json", "added_tokens.json", "vocab.json")
TEXT_FILES = ("*.txt", "*.model", "*.jinja")  # vocabularies and merges of tokenizers, and chat templates
ADAPTER = "adapter_config.json"
OPENED_TEXTS = ("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")  # and no licence or page about the model
DOWNLOADED = (*JSON_FILES, *TEXT_FILES, ADAPTER, INDEX)
SAVE = "save the model with save_pretrained, which writes model.safetensors"
FORMATS = {  # weights that are not opened, by the ends of their names
    (".safetensors",): f"safetensors of other names than {WEIGHTS}, and no {INDEX}",
    (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"): "pickled weights", (".h5",): "TensorFlow weights",
    (".msgpack",): "Flax weights", (".gguf",): "GGUF weights", (".onnx",): "ONNX weights"}
WEB_PAGE = "is a web page and not the file itself: download it again"
BEGINNINGS = {  # what a file is that is not what its name says, by its first bytes in lower case
    b"version https://git-lfs": "is a Git LFS pointer and not the file itself: run `git lfs pull` there, or download "
                                "the file",
    b"pk\3\4": f"is a pickle, which can run any code when it is loaded: {SAVE}",
    b"\x80": f"is a pickle, which can run any code when it is loaded: {SAVE}",
    b"\x89hdf": f"holds TensorFlow weights: {SAVE}",
    b"gguf": f"holds GGUF weights: {SAVE}",
    b"<!doctype": WEB_PAGE, b"<html": WEB_PAGE}

Header = dict[str, str]  # the type of each tensor in the weights, such as "F32", by the tensor's name


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a model's config, and that of a whole model. Raises: InputError."""
    if (folder / ADAPTER).exists():  # transformers would load its base from anywhere
        raise InputError(f"{folder} holds an adapter ({ADAPTER}), not a whole model: merge it into its base "
                         "(merge_and_unload), and give the folder of the merged model")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: give a folder written by save_pretrained")


def check_texts(folder: Path) -> None:
    """Check that the text files of a model and its tokenizer are what their names say. Raises: InputError.

    Other files of the folder are not looked at: they are not opened.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the folder that holds config.json and the weights")
    for name in JSON_FILES:
        if (folder / name).is_file():
            read_json(folder / name)
    for path in (folder / name for name in OPENED_TEXTS if (folder / name).is_file()):
        if what := not_itself(path):
            raise InputError(f"{path} {what}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: InputError."""
    if what := not_itself(path) or ("is empty: download it again" if not path.stat().st_size else None):
        raise InputError(f"{path} {what}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({first_line(error)}): save the model again, or download it "
                         "again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {shown(found)}, not an object: save the model again, or download it again")
    return found


def not_itself(path: Path) -> str | None:
    """What the first bytes say a file is, if it is not what its name says."""
    with path.open("rb") as file:
        start = file.read(32).lower()
    return next((what for beginning, what in BEGINNINGS.items() if start.startswith(beginning)), None)


def weight_files(folder: Path, name: str | None = None) -> list[str]:
    """The names of the weight files that transformers would open; `name` is the one that a config asks for.

    Raises: InputError where one is not safetensors, or not in the folder.
    """
    first = name or (WEIGHTS if (folder / WEIGHTS).exists() or not (folder / INDEX).exists() else INDEX)
    _check_name(folder, first, "config.json")
    if not first.endswith(".json"):
        return [first]
    if not (folder / first).is_file():
        raise InputError(f"{folder} has no {first}, which its config.json names: {SAVE}")
    index = read_json(folder / first)
    shards = index.get("weight_map")
    if not shards or not isinstance(shards, dict) or not isinstance(index.get("metadata"), dict):
        raise InputError(f"{folder / first} has no weight_map, or no metadata: {SAVE}")
    for shard in shards.values():
        _check_name(folder, shard, first)
    return sorted(set(shards.values()))


def _check_name(folder: Path, name: Any, by: str) -> None:
    """Check that a weight file is named that is in the folder and is no pickle. Raises: InputError."""
    allowed = (".safetensors", ".safetensors.index.json") if by == "config.json" else (".safetensors",)
    if not isinstance(name, str) or not name.endswith(allowed):
        raise InputError(f"{folder}: {by} names {shown(name)} as weights, which are not safetensors and could run any "
                         f"code: {SAVE}")
    outside = any(".." in kind(name).parts or kind(name).anchor for kind in (PurePosixPath, PureWindowsPath))
    if outside or not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: {by} names {shown(name)} as weights, which is outside the folder: {SAVE}")


def check_weights(folder: Path, names: list[str]) -> Header:
    """The tensors of the weight files. Raises: InputError where a file is missing or damaged, or no safetensors."""
    header: Header = {}
    for path in (folder / name for name in names):
        if not path.is_file():
            raise InputError(f"{folder} has {_instead(path)}: {SAVE}")
        try:
            with safe_open(path, framework="pt") as weights:
                header |= {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors has its own kind of exception
            empty = "is empty" if not path.stat().st_size else f"is damaged or cut off ({first_line(error)})"
            what = not_itself(path) or f"{empty}: download it again, or save the model again"
            raise InputError(f"{folder} cannot be loaded: {path.name} {what}") from error
    return header


def _instead(path: Path) -> str:
    """What a folder has in the place of a weight file."""
    if path.is_dir():
        return f"a folder with the name {path.name}"
    if path.is_symlink():
        return f"a link {path.name} to a file that does not exist ({path.readlink()})"
    if path.exists():
        return f"a {path.name} that is not a file"
    found = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
    if path.name != WEIGHTS:
        return f"no {path.name}, which its index or config names"
    for endings, kind in FORMATS.items():
        if names := [name for name in found if name.endswith(endings)]:
            return f"only {kind} ({names[0]})"
    return "no weights"
