"""The settings that a run was asked for: from options, written as config.json, read, and compared with others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.run.config import RunConfig

PPO_OPTIONS = ("kl_coef", "temperature", "adaptive")  # options of the command that belong to PPOConfig


def requested_config(options: Mapping[str, Any], resume: bool = False) -> RunConfig:
    """The settings of a run: the given options, and for the rest the defaults or those of the run to resume."""
    config = load_config(options["out"]) if resume else RunConfig(out=options["out"])
    ppo = {name: options[name] for name in PPO_OPTIONS if name in options}
    others = {name: value for name, value in options.items() if name not in PPO_OPTIONS}
    if "rankings" in others:
        others["rankings"] = tuple(path.resolve() for path in others["rankings"])
    if "base" in others:
        others["base"] = _base(others["base"])
    return replace(config, ppo=replace(config.ppo, **ppo), **others)


def _base(name: str) -> str:
    """The full path of a folder, so that the run can be resumed from anywhere; a hub name unchanged."""
    if not name.strip():
        raise InputError("--base is empty: give a folder or a hub name, or leave it out for the embedded checkpoint")
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as JSON values, without the run's own folder."""
    values = asdict(config)
    del values["out"]
    return {**values, "rankings": [str(Path(path).resolve()) for path in config.rankings]}


def load_config(out: Path, name: str = "config.json") -> RunConfig:
    """The requested settings of the run in a folder; those it really uses are in "settings.json".

    Raises: InputError if there is no run, or its settings cannot be read.
    """
    path = out / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
        values |= {name: part(**values[name]) for name, part in parts.items()}
        return RunConfig(**values | {"out": out, "rankings": tuple(map(Path, values["rankings"]))})
    except FileNotFoundError:
        raise InputError(f"there is no run to resume in {out}: leave out --resume to start one") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): start a new run in another folder") from None


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Each setting that differs, as "ppo.kl_coef = 0.1, not 0.2"; the run's folder is not compared."""
    found = []
    for part in fields(old):
        before, after = getattr(old, part.name), getattr(new, part.name)
        if is_dataclass(before):
            found += _differences(before, after, f"{part.name}.")
        elif before != after and part.name != "out":
            found.append(f"{prefix}{part.name} = {before}, not {after}")
    return found


def check_same_settings(config: RunConfig) -> None:
    """Raises: InputError if the folder holds a run with other settings."""
    if not (config.out / "config.json").exists():
        return
    for difference in _differences(load_config(config.out), config):
        raise InputError(f"the run in {config.out} was started with {difference}: leave that option as it "
                         "was, or choose another --out")
