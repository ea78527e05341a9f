"""The recording of notebook 11, at tiny size: what it holds, and at which rate it compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compared_methods
import pytest
import torch
from compared_methods import DPO, PPO, TRAINED, TUNED, VARIANTS
from finished_run import make_run, shrink_constants
from keeping import rounded, write
from stages import FinishedRun

from rlhf_mini import rankings, tales
from rlhf_mini.config import PPOConfig
from rlhf_mini.forward import pad_right
from rlhf_mini.language_model import encode_endings, encode_prompts
from rlhf_mini.reward import pair_accuracy
from rlhf_mini.sampling import Rollout

PRICE = PPOConfig().kl_coef
QUICK = compared_methods.Sizes(tuning_seed=3, seeds=(3,), rates=(1e-4, 1e-3), coefficients=(PRICE,), iterations=2,
                               episodes=8, group_size=2, samples=12, openings=4, most=4, program_groups=(2,))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both recordings at tiny size, gathered: the tuning, then the comparison, and the run they start from."""
    folder = tmp_path_factory.mktemp("methods")
    run = FinishedRun.open(make_run(folder / "run"))
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        tuning, methods = folder / "tuning.json", folder / "methods.json"
        patch.setattr(compared_methods, "TUNING", tuning)
        loop = compared_methods.begin(run, QUICK)  # it writes 2,000 tales: once is enough here
        patch.setattr(compared_methods, "begin", lambda run, sizes: loop)
        found = {part: compared_methods.tune(part, run, QUICK) for part in compared_methods.tuning_parts(QUICK)}
        compared_methods.gather(found, QUICK, tuning)
        found = {part: compared_methods.make(part, lambda seed: run, QUICK) for part in compared_methods.parts(QUICK)}
        compared_methods.gather(found, QUICK, methods)
        yield json.loads(tuning.read_text()), json.loads(methods.read_text()), run


def test_the_tuning_holds_every_method_at_every_rate(recorded: Any) -> None:
    tuning, _, _ = recorded
    assert list(tuning) == ["sizes", "methods"] and tuning["sizes"]["tuning_seed"] == 3
    assert list(tuning["methods"]) == [PPO, "REINFORCE", "RLOO", "GRPO", "online DPO", DPO]
    for by_rate in tuning["methods"].values():
        assert list(by_rate) == ["0.0001", "0.001"]
        assert all(one["rate"] == float(rate) for rate, one in by_rate.items())


def test_the_comparison_holds_every_method_at_every_price(recorded: Any) -> None:
    tuning, methods, _ = recorded
    assert list(methods) == ["sizes", "seeds"] and list(methods["seeds"]) == ["3"]
    seed = methods["seeds"]["3"]
    assert set(seed) == {"best_of_n", "coherence", PPO, DPO, *TRAINED} and set(VARIANTS) < set(TRAINED)
    for method in (PPO, DPO, *TRAINED):
        one = seed[method][f"{PRICE:g}"]
        rates = tuning["methods"]["GRPO" if method in VARIANTS else method]
        assert one["rate"] == max(rates.values(), key=lambda at_rate: at_rate["objective"])["rate"]
        assert one["samples"] == 12 and one["objective_error"] > 0
        assert one["objective"] == pytest.approx(one["proxy_mean"] - PRICE * one["kl"], abs=0.05)
        if method != DPO:
            assert set(one["history"]) == set(compared_methods.HISTORY)
            assert one["history"]["iteration"] == [1, 2] and one["seconds"] > 0


def test_dpo_is_charged_in_the_scale_of_the_rankings(recorded: Any) -> None:
    _, methods, run = recorded
    one = methods["seeds"]["3"][DPO][f"{PRICE:g}"]
    assert set(one["history"]) == set(compared_methods.DPO_HISTORY)
    assert one["pairs"] == len(rankings.to_pairs(run.judgements[0]))
    assert one["history"]["loss"][0] == pytest.approx(0.6931, abs=1e-3)
    margins = pair_accuracy(run.reward_model.model, run.reward_model.tokenizer,
                            rankings.to_pairs(run.judgements[1]))[1].double()
    losses = {scale: torch.nn.functional.softplus(-scale * margins).mean().item()
              for scale in (one["scale"], 0.9 * one["scale"] + 0.02, 1.1 * one["scale"] - 0.02)}
    assert 0.2 <= one["scale"] <= 5 and min(losses.values()) == losses[one["scale"]]


def test_best_of_n_and_the_program_s_reward(recorded: Any) -> None:
    _, methods, _ = recorded
    seed = methods["seeds"]["3"]
    assert [row["n"] for row in seed["best_of_n"]] == [1, 2, 4]
    proxies = [row["proxy"] for row in seed["best_of_n"]]
    assert proxies == sorted(proxies) and seed["best_of_n"][0]["kl"] == 0
    history = seed["coherence"]["2"]["history"]
    assert set(history) == {*compared_methods.HISTORY, "flat"}
    assert history["score"] == history["coherent"]  # the program's reward is what the reader says
    assert all(0 <= share <= 1 for share in history["flat"])


def test_a_part_gives_the_same_again(recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning, methods, run = recorded
    shrink_constants(monkeypatch)
    write(tmp_path / "tuning.json", tuning)
    monkeypatch.setattr(compared_methods, "TUNING", tmp_path / "tuning.json")
    again = compared_methods.make(f"3/GRPO/{PRICE:g}", lambda seed: run, QUICK)
    assert rounded(again) | {"seconds": 0} == methods["seeds"]["3"]["GRPO"][f"{PRICE:g}"] | {"seconds": 0}


def test_the_best_rate_is_the_one_with_the_best_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared_methods, "TUNING", tmp_path / "tuning.json")
    found = {"GRPO": {"0.0001": {"objective": 0.1}, "0.0003": {"objective": -0.2}},
             PPO: {"0.0001": {"objective": -0.3}, "0.0002": {"objective": -0.1}, "0.0003": {"objective": -0.2}}}
    write(tmp_path / "tuning.json", {"methods": found})
    assert compared_methods.tuned_rate(PPO) == 2e-4
    assert {compared_methods.tuned_rate(name) for name in ("GRPO", *VARIANTS)} == {1e-4}


def test_the_parts_of_the_whole_recording() -> None:
    sizes = compared_methods.Sizes()
    tuning, parts = compared_methods.tuning_parts(sizes), compared_methods.parts(sizes)
    assert len(tuning) == len(TUNED) * len(sizes.rates) and "DPO on rankings/0.0003" in tuning
    assert len(parts) == 3 * (1 + 2 + 2 * len(TUNED) + len(VARIANTS))
    assert {"4/best_of_n", "5/coherence/16", "6/GRPO, KL in the reward/0.15", "6/GRPO/0.05"} < set(parts)
    assert not any(needs for needs in [*tuning.values(), *parts.values()])
    assert sizes.tuning_seed not in sizes.seeds
    json.dumps(compared_methods.settings(sizes), allow_nan=False)


def test_the_reader_s_score_knows_which_opening_an_ending_belongs_to(recorded: Any) -> None:
    _, _, run = recorded
    told = [tales.write(seed, "train") for seed in (1, 2, 3)]
    prompts, tokenizer = [opening for opening, _ in told], run.sft.tokenizer
    endings = [*(ending for _, ending in told), "Rained."]
    score = compared_methods.coherence(tokenizer, prompts)
    rows = encode_endings(tokenizer, endings)
    mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
    zeros = torch.zeros(mask.shape)
    ids = [tuple(row) for row in encode_prompts(tokenizer, [*prompts, prompts[0]])]
    rollout = Rollout(tuple(ids), pad_right(rows), mask, zeros, zeros[..., None], zeros, torch.ones(4).bool())
    assert score(rollout).tolist() == [1, 1, 1, 0]
