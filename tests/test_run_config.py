"""Settings as callers and files give them: taken where they are clear, and what starts can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.pretrain import PretrainConfig
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.saved_config import config_to_json, load_config

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
                      | st.integers(min_value=10**300, max_value=10**320),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
NAMES = [(part, name) for part, values in {"": config_to_json(RunConfig()), **config_to_json(RunConfig())}.items()
         if isinstance(values, dict) for name in values]


@pytest.mark.parametrize("clear", [
    {"out": "text"}, {"rankings": "a.jsonl"}, {"rankings": ["a.jsonl", Path("b.jsonl")]}, {"base": Path("folder")},
    {"base": np.str_("gpt2")}, {"seed": np.int64(3), "samples": np.float32(16)}, {"foreign_sft_rate": np.float32(0.1)},
    {"quick": np.True_, "ppo": PPOConfig(adaptive=np.True_, kl_coef=np.float64(0.1))},  # type: ignore[arg-type]
    {"sft": SFTConfig(steps=np.int32(3)), "seed": 3.0},  # type: ignore[arg-type]
])
def test_what_is_clear_is_taken_and_what_starts_can_resume(clear: dict[str, Any], tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    config = RunConfig(**{"out": "run", **clear})
    for resume in (False, True):
        with RunFolder(config, resume):
            pass
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_config(tmp_path / config.out)
    assert loaded.sft == config.sft and loaded.ppo == config.ppo and loaded.seed == config.seed
    assert loaded.rankings == tuple(tmp_path / path for path in config.rankings)
    assert loaded.base == (str(tmp_path / "folder") if config.base == "folder" else config.base)


@pytest.mark.parametrize(("name", "value"), [
    *(("out", value) for value in ("", " ", None, 3, b"out", "a\0b", "half \ud800")),
    *(("rankings", value) for value in (None, 3, [3], [""], {"a.jsonl": 1}, [None])),
    *(("base", value) for value in ("", 3, "a\0b", ["gpt2"])),
    *(("seed", value) for value in ("3", None, True, 0.5, -1, np.array([1, 2]), np.bool_(True), 10**5000)),
    *(("foreign_sft_rate", value) for value in ("0.1", None, True, 0, 10**400, float("nan"), np.inf, 1j)),
    *(("samples", value) for value in (10**30, 10**5000, "9")),
    *(("quick", value) for value in (1, None, "yes")),
    *(("sft", value) for value in (None, {"steps": 3}, PPOConfig())),
], ids=lambda value: type(value).__name__)
def test_what_is_not_clear_gets_one_line(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^RunConfig.{name} is .*: give ") as error:
        RunConfig(**{name: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize("kind", [SFTConfig, RewardConfig, PPOConfig, PretrainConfig])
@pytest.mark.parametrize("value", [None, "3", [3], True, float("nan"), 10**5000],
                         ids=lambda value: type(value).__name__)
def test_each_number_of_each_stage_is_checked(kind: type[Any], value: Any) -> None:
    for name in vars(kind()):
        if name != "adaptive":
            with pytest.raises(InputError, match=f"^{kind.__name__}.{name} is "):
                kind(**{name: value})


def saved(folder: Path, values: Any) -> Path:
    (folder / "config.json").write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return folder


def right_or_one_line(folder: Path) -> None:
    try:
        config = load_config(folder)
    except InputError as error:
        assert str(folder / "config.json") in str(error) and "\n" not in str(error)
    else:
        assert config_to_json(config) == config_to_json(load_config(saved(folder, config_to_json(config))))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sampled_from(NAMES), value=VALUES)
def test_a_changed_setting_in_config_json_is_right_or_gets_one_line(tmp_path: Path, where: tuple[str, str],
                                                                    value: Any) -> None:
    values = config_to_json(RunConfig())
    part, name = where
    (values[part] if part else values)[name] = value
    right_or_one_line(saved(tmp_path, values))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_in_config_json_get_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    right_or_one_line(tmp_path)


@pytest.mark.parametrize(("change", "reason"), [
    ({"seed": "3"}, "RunConfig.seed is '3'"), ({"sft": None}, "SFTConfig is None"), ({"rankings": [3]}, "rankings"),
    ({"sede": 3}, "no setting 'sede'"), ({"ppo": {}}, "PPOConfig.iterations is missing"),
    ("[" * 100_000, "cannot be read"), ("[]", "RunConfig is []"), ("{}", "RunConfig.seed is missing"),
])
def test_a_line_names_the_file_and_the_setting(change: Any, reason: str, tmp_path: Path) -> None:
    values = change if isinstance(change, str) else config_to_json(RunConfig()) | change
    with pytest.raises(InputError) as error:
        load_config(saved(tmp_path, values))
    assert str(tmp_path / "config.json") in str(error.value) and reason in str(error.value)
