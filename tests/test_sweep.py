"""The recording of notebook 07, at tiny size: what it holds, and in which order it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sweep
import torch
from finished_run import make_run, shrink_constants
from keeping import rounded
from stages import FinishedRun

from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.rankings import load_rankings

PRICE = PPOConfig().kl_coef
QUICK = sweep.Sizes(coefficients=(0.0, 0.15), again=(0.0,), iterations=2, episodes=8, samples=12, stories=2, openings=4,
                    most=4, endings=16, labels=8, epochs=1)


@pytest.fixture(scope="module")
def small() -> Any:
    """Sizes that a test can afford."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def recorded(small: None, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every part at tiny size, gathered."""
    folder, start = tmp_path_factory.mktemp("sweep"), FinishedRun.open(run)
    found = {part: sweep.make(part, folder / "work", start, QUICK) for part in sweep.parts(QUICK)}
    sweep.gather(found, folder / "sweep.json")
    return json.loads((folder / "sweep.json").read_text())


def test_a_recording_holds_every_section(recorded: dict[str, Any]) -> None:
    assert list(recorded) == ["about", "coefficients", "adaptive", "best_of_n", "length", *sweep.ROUNDS]
    assert recorded["about"]["seed"] == 3 and recorded["about"]["ppo"]["iterations"] == 2
    assert list(recorded["coefficients"]) == ["sft", "0", f"{PRICE:g}"]
    one = recorded["coefficients"][f"{PRICE:g}"]
    assert set(one["history"]) == set(sweep.HISTORY)
    assert one["history"]["iteration"] == [1, 2] and one["history"]["kl_coef"] == [PRICE, PRICE]
    assert one["evaluation"]["samples"] == 12 and len(one["stories"]) == 2
    assert {"opening", "ending", "gold", "proxy", "coherent"} <= set(one["stories"][0])
    assert recorded["adaptive"][f"{PRICE:g}"]["target"] == 4.0
    assert recorded["adaptive"][f"{PRICE:g}"]["history"]["kl_coef"][1] != PRICE
    assert [row["n"] for row in recorded["best_of_n"]["by"]["proxy"]] == [1, 2, 4]
    assert len(recorded["length"]["endings"]["proxy"]) == 16


def test_the_second_round_is_judged_by_both_reward_models(recorded: dict[str, Any]) -> None:
    for part in sweep.ROUNDS:
        one = recorded[part]
        assert one["labels"]["rankings"] == 8
        assert set(one["reward_model"]["accuracy"]) == {"first", "refitted"}
        assert len(one["reward_model"]["hacked"]["refitted"]) == 4
        assert len(one["length"]) == 16
        assert {"proxy_mean", "proxy_first"} <= set(one["0"]["evaluation"])
    first, second = (recorded[part]["reward_model"]["hacked"] for part in ("second_round", "more_of_the_same"))
    assert first["gold"] == second["gold"] and first["refitted"] != second["refitted"]


def test_a_part_gives_the_same_where_the_models_of_earlier_parts_are_lost(small: None, run: Path, tmp_path: Path,
                                                                          recorded: dict[str, Any]) -> None:
    again = sweep.make("more_of_the_same/refit", tmp_path, FinishedRun.open(run), QUICK)
    assert rounded(again) == {name: recorded["more_of_the_same"][name] for name in again}


def test_every_part_comes_after_those_whose_models_it_needs() -> None:
    parts = sweep.parts(sweep.Sizes())
    assert parts["second_round/refit"] == ("coefficients/0",)
    assert parts["nearby_round/refit"] == ("coefficients/0", "coefficients/0.05")
    assert parts["nearby_round/0.05"] == ("nearby_round/refit",)
    assert all(need in parts for needs in parts.values() for need in needs)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.json"):
        FinishedRun.open(tmp_path)


def test_the_best_of_every_n_in_a_row() -> None:
    known = {"proxy": torch.tensor([0.0, 2.0, 1.0, -1.0]), "gold": torch.tensor([3.0, 1.0, 0.0, 4.0])}
    assert sweep.picked(known, "proxy", 1) == {"n": 1, "kl": 0.0, "proxy": 0.5, "gold": 2.0}
    two = sweep.picked(known, "proxy", 2)
    assert (two["proxy"], two["gold"]) == (1.5, 0.5)
    assert two["kl"] == pytest.approx(0.1931, abs=1e-4)
    assert sweep.picked(known, "gold", 4)["proxy"] == -1.0


def test_labels_are_counted_by_sense(run: Path) -> None:
    labels = load_rankings(run / "rankings.jsonl")
    counted = sweep.counted(labels)
    assert counted["rankings"] == 14
    assert counted["pairs"] <= 6 * 14
    assert 0 <= counted["sense_won"] <= counted["sense_against_nonsense"] <= counted["pairs"]
