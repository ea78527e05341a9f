"""The recording of notebook 07, at tiny size: what it holds, that it goes on, and that it mixes up nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_mini import pipeline, tales
from rlhf_mini.config import PPOConfig, RunConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import new_language_model, save_language_model, train_tokenizer
from rlhf_mini.rankings import load_rankings, save_rankings
from rlhf_mini.reward import reward_model_from
from rlhf_mini.run import tasks
from rlhf_mini.run.tasks import ask_panel, make_task

PRICE = PPOConfig().kl_coef
PATH = Path(__file__).parent.parent / "assets" / "record" / "sweep.py"


@pytest.fixture(scope="module")
def sweep() -> Any:
    spec = importlib.util.spec_from_file_location("sweep", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweep"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small() -> Any:
    """Sizes that a test can afford."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "PPO_PROMPTS", 40)
        patch.setattr(pipeline, "NORMALISE_ON", 24)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run leaves, with models that know nothing."""
    folder = tmp_path_factory.mktemp("run")
    told = [tales.write(seed, "train") for seed in range(300)]
    tokenizer = train_tokenizer([f"{opening} {ending}" for opening, ending in told], vocab_size=400)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=1, n_head=2,
                               n_embd=32, n_positions=256, seed=0)
    save_language_model(model, tokenizer, folder / "sft")
    save_language_model(*reward_model_from(model, tokenizer, 1), folder / "reward_model")
    task = make_task(RunConfig(seed=3, demonstrations=1), [])
    items = [(opening, [tales.write(seed)[1] for seed in range(4 * i, 4 * i + 4)])
             for i, opening in enumerate([*task.to_judge[:10], *sorted(task.test_prompts)[:4]])]
    save_rankings(ask_panel(items, 0, folder / "state", 3), folder / "rankings.jsonl")
    (folder / "metrics.json").write_text(json.dumps({"seed": 3}))
    return folder


@pytest.fixture(scope="module")
def recorded(sweep: Any, small: None, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    sweep.main(["--run", str(run), "--out", str(out / "sweep.json"), "--work", str(out / "work"), "--quick"])
    return out / "sweep.json"


def again(sweep: Any, run: Path, out: Path, *more: str) -> None:
    sweep.main(["--run", str(run), "--out", str(out), "--work", str(out.parent / "work"), "--quick", *more])


def test_a_recording_holds_every_part(sweep: Any, recorded: Path) -> None:
    found = json.loads(recorded.read_text())
    assert set(found) == {"about", *sweep.PARTS}
    assert list(found["coefficients"]) == ["sft", "0", f"{PRICE:g}"]
    one = found["coefficients"][f"{PRICE:g}"]
    assert set(one["history"]) == set(sweep.HISTORY)
    assert one["history"]["iteration"] == [1, 2] and one["history"]["kl_coef"] == [PRICE, PRICE]
    assert one["evaluation"]["samples"] == 12 and len(one["stories"]) == 2
    assert {"opening", "ending", "gold", "proxy", "coherent"} <= set(one["stories"][0])
    assert found["adaptive"][f"{PRICE:g}"]["target"] == 4.0
    assert found["adaptive"][f"{PRICE:g}"]["history"]["kl_coef"][1] != PRICE
    assert [row["n"] for row in found["best_of_n"]["by"]["proxy"]] == [1, 2, 4]
    assert len(found["length"]["endings"]["proxy"]) == 16


def test_the_second_round_is_judged_by_both_reward_models(recorded: Path) -> None:
    found = json.loads(recorded.read_text())
    for part in ("second_round", "nearby_round", "more_of_the_same"):
        one = found[part]
        assert one["labels"]["rankings"] == 8
        assert set(one["reward_model"]["accuracy"]) == {"first", "refitted"}
        assert len(one["reward_model"]["hacked"]["refitted"]) == 4
        assert len(one["length"]) == 16
        assert {"proxy_mean", "proxy_first"} <= set(one["0"]["evaluation"])
    first, second = (found[part]["reward_model"]["hacked"] for part in ("second_round", "more_of_the_same"))
    assert first["gold"] == second["gold"] and first["refitted"] != second["refitted"]


def test_a_recording_goes_on_and_repeats_nothing(sweep: Any, small: None, run: Path, recorded: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    before = recorded.read_bytes()
    again(sweep, run, recorded)
    assert "coefficient" not in capsys.readouterr().err
    shortened = json.loads(before)
    del shortened["coefficients"][f"{PRICE:g}"], shortened["best_of_n"]
    recorded.write_text(json.dumps(shortened))
    again(sweep, run, recorded, "--only", "coefficients")
    assert f"coefficients: {PRICE:g}" in capsys.readouterr().err
    again(sweep, run, recorded)
    assert json.loads(recorded.read_text()) == json.loads(before)


def test_a_recording_of_other_models_is_not_continued(sweep: Any, small: None, run: Path, recorded: Path,
                                                      tmp_path: Path) -> None:
    other = json.loads(recorded.read_text())
    other["about"]["models"] = "another"
    (tmp_path / "sweep.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"models = another, not .*choose another --out"):
        again(sweep, run, tmp_path / "sweep.json")


def test_an_unfinished_run_is_refused(sweep: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.json"):
        again(sweep, tmp_path, tmp_path / "sweep.json")


def test_the_best_of_every_n_in_a_row(sweep: Any) -> None:
    known = {"proxy": torch.tensor([0.0, 2.0, 1.0, -1.0]), "gold": torch.tensor([3.0, 1.0, 0.0, 4.0])}
    assert sweep.picked(known, "proxy", 1) == {"n": 1, "kl": 0.0, "proxy": 0.5, "gold": 2.0}
    two = sweep.picked(known, "proxy", 2)
    assert (two["proxy"], two["gold"]) == (1.5, 0.5)
    assert two["kl"] == pytest.approx(0.1931, abs=1e-4)
    assert sweep.picked(known, "gold", 4)["proxy"] == -1.0


def test_floats_are_rounded_wherever_they_stand(sweep: Any) -> None:
    assert sweep.rounded({"a": [1.23456, (2, "x")], "b": None, "c": True}) == {"a": [1.2346, [2, "x"]], "b": None,
                                                                               "c": True}


def test_labels_are_counted_by_sense(sweep: Any, run: Path) -> None:
    labels = load_rankings(run / "rankings.jsonl")
    counted = sweep.counted(labels)
    assert counted["rankings"] == 14
    assert counted["pairs"] <= 6 * 14
    assert 0 <= counted["sense_won"] <= counted["sense_against_nonsense"] <= counted["pairs"]
