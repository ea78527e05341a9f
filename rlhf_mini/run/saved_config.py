"""The settings that a run was asked for: from options, written as config.json, read, and compared with others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rlhf_mini import strict_json
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError, shown
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.json_files import read_file

PARTS = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
PPO_OPTIONS = ("kl_coef", "temperature", "adaptive")  # options of the command that belong to PPOConfig


def requested_config(options: Mapping[str, Any], resume: bool = False) -> RunConfig:
    """The settings of a run: the given options, and for the rest the defaults or those of the run to resume."""
    config = load_config(options["out"]) if resume else RunConfig(out=options["out"])
    ppo = {name: options[name] for name in PPO_OPTIONS if name in options}
    others = {name: value for name, value in options.items() if name not in PPO_OPTIONS}
    if not str(others.get("base", "a name")).strip():
        raise InputError("--base is empty: give a folder or a hub name, or leave it out for the embedded checkpoint")
    config = replace(config, ppo=replace(config.ppo, **ppo), **others)
    return replace(config, base=_base(config.base), rankings=tuple(map(_whole_path, config.rankings)))


def _base(name: str | None) -> str | None:
    """The full path of a folder, so that the run can be resumed from anywhere; a hub name unchanged."""
    return str(_whole_path(Path(name))) if name is not None and Path(name).is_dir() else name


def _whole_path(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike resolve, it takes a link that points to itself


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """The settings as JSON values, without the run's own folder; paths are whole, to be found from any folder."""
    values = asdict(config)
    del values["out"]
    return {**values, "base": _base(config.base), "rankings": [str(_whole_path(path)) for path in config.rankings]}


def load_config(out: Path, name: str = "config.json") -> RunConfig:
    """The requested settings of the run in a folder; those it really uses are in "settings.json".

    Raises: InputError if there is no run, or its settings cannot be read.
    """
    path = Path(out) / name
    try:
        return _config_from_json(strict_json.read(read_file(path)), Path(out))
    except FileNotFoundError:
        raise InputError(f"there is no run to resume in {out}: leave out --resume to start one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): start a new run in another folder") from None


def _config_from_json(values: Any, out: Path) -> RunConfig:
    values = _settings(RunConfig, values)
    return RunConfig(**values | {name: kind(**_settings(kind, values[name])) for name, kind in PARTS.items()}, out=out)


def _settings(kind: type[Any], values: Any) -> dict[str, Any]:
    """The settings of one config. Raises: InputError, unless they are all there and nothing else is."""
    names = [part.name for part in fields(kind) if part.name != "out"]
    if not isinstance(values, dict):
        raise InputError(f"{kind.__name__} is {shown(values)}, not an object with settings")
    for name in names:
        if name not in values:
            raise InputError(f"{kind.__name__}.{name} is missing")
    for name in values:
        if name not in names:
            raise InputError(f"{kind.__name__} has no setting {shown(name)}")
    return values


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Each setting that differs, as "ppo.kl_coef = 0.1, not 0.2"."""
    for name, before in old.items():
        if isinstance(before, dict):
            yield from _differences(before, new[name], f"{name}.")
        elif before != new[name]:
            yield f"{prefix}{name} = {shown(before)}, not {shown(new[name])}"


def check_same_settings(config: RunConfig) -> None:
    """Raises: InputError if the folder holds a run with other settings."""
    if not (config.out / "config.json").exists():
        return
    for difference in _differences(config_to_json(load_config(config.out)), config_to_json(config)):
        raise InputError(f"the run in {config.out} was started with {difference}: leave that option as it "
                         "was, or choose another --out")
