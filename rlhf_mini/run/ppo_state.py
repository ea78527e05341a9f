"""Save the state of PPO between two iterations, and load it to the last bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf_mini import files, strict_json, team
from rlhf_mini.errors import InputError
from rlhf_mini.policy import PPOState

FILE = "ppo_state.safetensors"
COUNTERS = {"kl_coef": float, "iteration": int, "episodes": int}


@team.once
def save_state(state: PPOState, folder: Path, history: str = "") -> None:
    """Write one file into the folder; `history` is a digest of the iterations that led to the state.

    Raises: NotSavedError; an older file is then still there.
    """
    counters = {name: kind(getattr(state, name)) for name, kind in COUNTERS.items()}
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors().items()}
    notes = {"counters": json.dumps(counters), "history": history}
    files.put(folder / FILE, lambda path: save_file(tensors, path, metadata=notes))


def load_state(state: PPOState, folder: Path) -> str:
    """Take over the state saved in the folder, for the same language model; returns its digest of the history.

    Raises: InputError, with the state left as it is, where none is there, where it is damaged or not finite, or where
    it belongs to another model.
    """
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            saved = {name: file.get_tensor(name) for name in names}
            notes = file.metadata()
            counters, history = checked_counters(notes["counters"]), str(notes["history"])
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a folder save_state wrote") from error
    here = state.tensors()
    check_tensors(here, saved, path)
    for name, tensor in here.items():
        tensor.copy_(saved[name])
    for name, value in counters.items():
        setattr(state, name, value)
    return history


def checked_counters(text: str) -> dict[str, Any]:
    """The counters alone, each of its kind. Raises: ValueError."""
    try:
        found = strict_json.read(text.encode())
    except ValueError as error:
        raise ValueError(f"its counters are {text!r}: {error}") from None
    if not isinstance(found, dict) or any(type(found.get(name)) is not kind or not 0 <= found[name] < math.inf
                                          for name, kind in COUNTERS.items()):
        raise ValueError(f"its counters are {found!r}")
    return {name: found[name] for name in COUNTERS}


def check_tensors(here: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Raises: InputError where the saved tensors are another model's, or not all finite."""
    shapes, found = ({name: (x.shape, x.dtype) for name, x in named.items()} for named in (here, saved))
    if shapes != found:
        raise InputError(f"{path} holds another model's state: give the language model it was saved with")
    for name, tensor in saved.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path} is damaged ({name} holds a number that is not finite): start again")
