"""The recording of notebook 07, at tiny size: what it holds, and in which order it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sweep
import torch
import workbench
from finished_run import make_run, shrink_constants
from stages import FinishedRun
from workbench import HISTORY, by_section, of_readable

from rlhf_mini import tales
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import Samples
from rlhf_mini.metrics import evaluate_samples
from rlhf_mini.teaching.overoptimisation import readable_gold

PRICE = PPOConfig().kl_coef
QUICK = sweep.Sizes(seeds=(3, 4), coefficients=(0.0, 0.15), further=(0.3,), every=1, iterations=2, episodes=8,
                    samples=12, stories=2, openings=4, most=4, endings=16, labels=8, epochs=1)


@pytest.fixture(scope="module")
def small() -> Any:
    """Sizes that a test can afford."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        patch.setattr(workbench, "DEMONSTRATIONS", 50)  # every part writes them
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def gathered(small: None, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every part at tiny size, gathered; there is one run, and of the second seed a single part."""
    folder, start = tmp_path_factory.mktemp("sweep"), FinishedRun.open(run)
    found = {part: sweep.make(part, folder / "work", lambda seed: start, QUICK) for part in sweep.parts(QUICK)
             if part.startswith("3/") or part == "4/best_of_n/by"}
    sweep.gather(found, folder / "sweep.json")
    return json.loads((folder / "sweep.json").read_text())["seeds"]


@pytest.fixture(scope="module")
def recorded(gathered: dict[str, Any]) -> dict[str, Any]:
    """The sections of the first seed."""
    return gathered["3"]


def test_every_seed_has_its_sections(gathered: dict[str, Any]) -> None:
    assert list(gathered) == ["3", "4"] and list(gathered["4"]) == ["best_of_n"]
    names = [part.split("/")[1] for part in sweep.parts(QUICK) if part.startswith("4/")]
    assert list(dict.fromkeys(names)) == ["about", "coefficients", "best_of_n", "length"]


def test_a_recording_holds_every_section(recorded: dict[str, Any]) -> None:
    assert list(recorded) == ["about", "coefficients", "adaptive", "best_of_n", "length"]
    assert recorded["about"]["seed"] == 3 and recorded["about"]["ppo"]["iterations"] == 2
    assert list(recorded["coefficients"]) == ["sft", "0", f"{PRICE:g}", "0.3"]
    one = recorded["coefficients"][f"{PRICE:g}"]
    assert set(one["history"]) == set(HISTORY)
    assert one["history"]["iteration"] == [1, 2] and one["history"]["kl_coef"] == [PRICE, PRICE]
    assert one["evaluation"]["samples"] == 12 and len(one["stories"]) == 2
    assert {"objective", "objective_error", "gold_readable", "gold_readable_std"} <= set(one["evaluation"])
    assert {"opening", "ending", "gold", "proxy", "coherent"} <= set(one["stories"][0])
    assert recorded["adaptive"][f"{PRICE:g}"]["target"] == 4.0
    assert recorded["adaptive"][f"{PRICE:g}"]["history"]["kl_coef"][1] != PRICE
    assert [row["n"] for row in recorded["best_of_n"]["by"]["proxy"]] == [1, 2, 4]
    assert len(recorded["length"]["endings"]["proxy"]) == 16


def test_only_the_first_seed_has_the_further_coefficients_and_the_adaptive_one() -> None:
    parts = sweep.parts(sweep.Sizes())
    assert {"3/coefficients/0.3", "3/adaptive/0.15", "5/coefficients/0.002"} <= set(parts)
    assert not {"5/coefficients/0.3", "5/adaptive/0.15"} & set(parts)


def test_the_same_openings_are_told_every_few_iterations(recorded: dict[str, Any]) -> None:
    told = recorded["coefficients"]["0"]["told"]
    assert list(told) == ["1", "2"]
    assert [one["opening"] for one in told["1"]] == [one["opening"] for one in told["2"]]
    assert set(told["1"][0]) == {"opening", "ending", "proxy", "gold", "kl"}


def test_gold_of_readable_endings_leaves_the_others_out() -> None:
    told = [tales.write(seed) for seed in range(5)]
    samples = Samples([opening for opening, _ in told], [*(ending for _, ending in told[:3]), "mill mill", ""],
                      [True] * 5, [9] * 5, torch.zeros(5), torch.zeros(5))
    found, figures = of_readable(samples), dict[str, Any](evaluate_samples(samples))
    gold = torch.tensor([tales.gold_reward(*one) for one in told[:3]], dtype=torch.double)
    assert figures["grammatical"] == pytest.approx(0.6)
    assert found["gold_readable"] == pytest.approx(gold.mean().item())
    assert found["gold_readable_std"] == pytest.approx(gold.std().item())
    assert float(readable_gold(figures["gold_mean"], figures["grammatical"])) == pytest.approx(found["gold_readable"])
    nothing = Samples(samples.prompts[:2], ["mill mill", ""], [True] * 2, [9] * 2, torch.zeros(2), torch.zeros(2))
    assert of_readable(nothing) == {"gold_readable": None, "gold_readable_std": None}


def test_sections_are_nested_by_name() -> None:
    found = {"3/about": {"seed": 3}, "3/round/refit": {"labels": 8}, "3/round/0": 1}
    assert by_section(found) == {"3": {"about": {"seed": 3}, "round": {"refit": {"labels": 8}, "0": 1}}}


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
