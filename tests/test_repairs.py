"""The recording of repairs, at tiny size; its judges and its loss on old endings, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import judges
import pytest
import repairs
import torch
import workbench
from finished_run import make_run, shrink_constants
from judges import COMBINED, MEMBERS, Combined, Heads, disagreement, slope_of, standard, without_length
from rounds import counted
from stages import FinishedRun
from torch import Tensor
from workbench import HISTORY, begin

from rlhf_mini import rankings
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import Samples
from rlhf_mini.language_model import load_language_model
from rlhf_mini.methods import Batch
from rlhf_mini.reward import competition, plackett_luce_losses
from rlhf_mini.sampling import Rollout

QUICK = repairs.Sizes(seeds=(3,), iterations=2, episodes=8, samples=12, stories=1, openings=4, endings=16, labels=8,
                      epochs=1, reused=(1, 2), updates=4)


# --- every part, once -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a finished run leaves, with models that know nothing."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        patch.setattr(workbench, "DEMONSTRATIONS", 50)  # every part writes them
        yield FinishedRun.open(make_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the parts keep their models."""
    return tmp_path_factory.mktemp("repairs")


@pytest.fixture(scope="module")
def recorded(start: FinishedRun, work: Path) -> dict[str, Any]:
    """Every part at tiny size, gathered."""
    found = {part: repairs.make(part, work, lambda seed: start, QUICK) for part in repairs.parts(QUICK)}
    repairs.gather(found, QUICK, work / "repairs.json")
    return json.loads((work / "repairs.json").read_text())["seeds"]["3"]


def test_every_repair_is_trained_and_evaluated(recorded: dict[str, Any]) -> None:
    assert set(recorded) == {"baseline", *repairs.ROUNDS, "same_labels", "fits", "heads", "length", "kl", "reused"}
    by_judge = {**{kind: recorded[kind] for kind in ("baseline", *repairs.ROUNDS, "same_labels", "length")},
                **{f"{kind} {how}": recorded[kind][how] for kind in ("fits", "heads") for how in COMBINED}}
    for name, one in {**by_judge, **recorded["kl"], **recorded["reused"]}.items():
        assert one["kl_coef"] == (QUICK.price if name in by_judge else QUICK.kl_price), name
        assert one["evaluation"]["samples"] == 12, name
        assert {"objective", "objective_error", "gold_readable"} <= set(one["evaluation"]), name
        assert set(one["history"]) == set(HISTORY), name
    assert len({tuple(one["history"]["score"]) for one in by_judge.values()}) == len(by_judge)  # no two are the same
    assert list(recorded["kl"]) == list(repairs.PLACES)


def test_a_refitted_judge_is_measured_on_held_out_pairs(recorded: dict[str, Any]) -> None:
    for name in ("second_round", "more_of_the_same", "same_labels", "length"):
        accuracy = recorded[name]["reward_model"]["accuracy"]
        assert set(accuracy) == {"first", "refitted"} and 0 <= accuracy["refitted"] <= 1
        assert "proxy_first" in recorded[name]["evaluation"]
    assert recorded["second_round"]["labels"]["rankings"] == 8
    assert "proxy_first" not in recorded["baseline"]["evaluation"]


def test_an_ensemble_says_where_it_disagrees(recorded: dict[str, Any]) -> None:
    for kind in ("fits", "heads"):
        known = recorded[kind]["members"]
        assert len(known["accuracy"]) == MEMBERS
        for writer in ("sft", "baseline"):
            assert set(known[writer]) == {"proxy", "gold", "grammatical", "coherent", "length", "disagreement"}
            assert len(known[writer]["disagreement"]) == 4 and min(known[writer]["disagreement"]) > 0
        assert recorded[kind]["minimum"]["disagreement"]["mean"] > 0


def test_updates_are_as_many_however_often_a_batch_is_used(recorded: dict[str, Any]) -> None:
    assert {name: len(one["history"]["score"]) for name, one in recorded["reused"].items()} == {
        "1": 4, "2": 2, "2 truncated": 2}


def test_every_part_comes_after_those_whose_models_it_needs() -> None:
    parts = repairs.parts(repairs.Sizes())
    assert len(parts) == 3 * 19
    assert parts["5/heads/minimum"] == ("5/heads/members",) and parts["5/second_round"] == ("5/baseline",)
    assert all(need in parts for needs in parts.values() for need in needs)
    json.dumps(repairs.settings(repairs.Sizes()))


def test_a_part_gives_the_same_where_the_models_of_earlier_parts_are_lost(
        start: FinishedRun, recorded: dict[str, Any], tmp_path: Path) -> None:
    again = repairs.make("3/second_round", tmp_path, lambda seed: start, QUICK)
    old = recorded["second_round"]["evaluation"]
    assert again["evaluation"]["proxy_mean"] == pytest.approx(old["proxy_mean"], rel=1e-4)


def test_labels_are_counted_by_sense(start: FinishedRun) -> None:
    found = counted(rankings.load_rankings(start.folder / "rankings.jsonl"))
    assert found["rankings"] == 14
    assert found["pairs"] <= 6 * 14
    assert 0 <= found["sense_won"] <= found["sense_against_nonsense"] <= found["pairs"]


# --- judges -----------------------------------------------------------------------------------------------------


class Given:
    """A reward model whose scores are known."""

    def __init__(self, *scores: float) -> None:
        self.scores = torch.tensor(scores, dtype=torch.double)

    def of_samples(self, samples: Samples) -> Tensor:
        return self.scores

    def of_rollout(self, rollout: Any) -> Tensor:
        return self.scores.float()


def endings(*lengths: int) -> Samples:
    """Endings of which only the lengths matter."""
    n = len(lengths)
    return Samples(["Once."] * n, ["x"] * n, [True] * n, list(lengths), torch.zeros(n), torch.zeros(n))


def test_the_minimum_and_the_mean_of_several() -> None:
    members: Any = (Given(1.0, 5.0), Given(2.0, -1.0), Given(3.0, 2.0))
    assert Combined(members, COMBINED["minimum"]).of_samples(endings(1, 1)).tolist() == [1.0, -1.0]
    assert Combined(members, COMBINED["mean"]).of_samples(endings(1, 1)).tolist() == [2.0, 2.0]
    assert disagreement(members, endings(1, 1)).tolist() == [1.0, 3.0]
    scaled = standard(Combined(members, COMBINED["minimum"]), endings(1, 1))
    assert (scaled.mean, scaled.std) == (0.0, pytest.approx(2 ** 0.5))
    assert scaled.of_samples(endings(1, 1)).tolist() == pytest.approx([0.5 ** 0.5, -(0.5 ** 0.5)])


def test_length_is_regressed_out() -> None:
    score, length = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([10.0, 20.0, 30.0])
    assert slope_of(score, length) == pytest.approx(0.25)  # (-10 * -2 + 10 * 3) / 200
    judge: Any = Given(1.0, 2.0, 6.0)
    shorn, slope = without_length(judge, endings(10, 20, 30))
    assert slope == pytest.approx(0.25)
    left = torch.tensor([0.5, -1.0, 0.5])  # 1 + 2.5, 2, 6 - 2.5, less their mean 3
    assert shorn.of_samples(endings(10, 20, 30)).tolist() == pytest.approx((left / left.std()).tolist())
    assert slope_of(shorn.of_samples(endings(10, 20, 30)), length) == pytest.approx(0.0, abs=1e-6)


def test_a_rollout_gets_the_same_score_as_its_texts() -> None:
    judge: Any = Given(1.0, 2.0, 6.0)
    shorn, _ = without_length(judge, endings(10, 20, 30))
    for lengths in ((10, 20, 30), (30, 20, 64)):
        rollout = SimpleNamespace(lengths=torch.tensor(lengths))
        assert shorn.of_rollout(rollout).tolist() == pytest.approx(shorn.of_samples(endings(*lengths)).tolist())


def test_accuracy_of_a_combination_is_that_of_its_only_member(start: FinishedRun) -> None:
    pairs = held_out_pairs(start)
    alone = Combined((start.reward_model,), COMBINED["mean"])
    assert alone.accuracy(pairs) == pytest.approx(start.reward_model.accuracy(pairs))


def held_out_pairs(start: FinishedRun) -> list[tuple[str, str, str]]:
    """Held-out pairs of the run."""
    return rankings.to_pairs(start.judgements[1])


def test_heads_learn_from_the_mean_of_their_losses() -> None:
    several = Heads(3, seed=0)
    states = torch.arange(12.0).view(4, 3) / 10
    first = several(states).view(2, 2)
    competes = competition([[[0], [1]], [[1], [0]]], 2)
    each = [plackett_luce_losses((states @ weight).view(2, 2), competes) for weight in several.weights.weight]
    assert several.losses(first, competes).tolist() == pytest.approx(torch.stack(each).mean(0).tolist())
    assert len({tuple(weight.tolist()) for weight in several.weights.weight}) == MEMBERS


def test_heads_share_a_trunk_and_fits_do_not(start: FinishedRun, work: Path) -> None:
    bench = begin(start, work, QUICK)
    for members, shared in ((judges.heads(bench), True), (judges.fits(bench), False)):
        trunks = [member.model.transformer.h[0].mlp.c_fc.weight for member in members]
        assert all(torch.equal(trunk, trunks[0]) for trunk in trunks[1:]) == shared
        assert not torch.equal(members[0].model.score.weight, members[1].model.score.weight)


# --- old endings ------------------------------------------------------------------------------------------------


def test_truncated_weights_by_hand() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    old = torch.tensor([[-1.0, -3.0], [-2.0, 0.0]])
    rollout = Rollout(((1,), (1,)), torch.zeros(2, 2, dtype=torch.long), mask, old, torch.zeros(2, 2, 1),
                      torch.zeros(2, 2), torch.ones(2, dtype=torch.bool))
    batch = Batch(rollout, torch.zeros(2), old, torch.zeros(2), 0.0, 0.2, endings=2, tokens=3)
    logp = torch.tensor([[-1.5, -1.0], [-2.0, 9.0]], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0])

    def gradient(truncation: float | None) -> list[list[float]]:
        loss = repairs.stale_loss(logp, batch, advantages, truncation)
        return torch.autograd.grad(loss, logp)[0].mul(3).tolist()

    assert gradient(None) == [[-1.0, -1.0], [2.0, 0.0]]
    weighted = gradient(2.0)  # the ratios are e^-0.5, e^2 and 1; e^2 is more than 2
    assert weighted[0] == pytest.approx([-0.60653, -2.0], abs=1e-5) and weighted[1] == [2.0, 0.0]
    assert repairs.stale_loss(logp, batch, advantages, 2.0).item() == pytest.approx(
        (1.5 * 0.60653 + 1.0 * 2.0 - 2.0 * 2.0) / 3, abs=1e-5)


def test_a_batch_that_is_used_once_is_not_old(start: FinishedRun, tmp_path: Path) -> None:
    """Weights are 1 then: the same training with them and without."""
    bench = begin(start, tmp_path, replace(QUICK, samples=4))
    plain, weighted = (repairs.reused(bench, name, QUICK)["history"] for name in ("1", "1 truncated"))
    assert plain["score"] == pytest.approx(weighted["score"], abs=1e-4)


def test_a_training_that_diverges_is_a_result_and_any_other_error_is_none() -> None:
    def fails(message: str) -> Any:
        raise InputError(message)

    assert repairs.unless_it_diverges(lambda: fails("iteration 7: the policy has diverged")) == {
        "diverged": "iteration 7: the policy has diverged"}
    with pytest.raises(InputError, match="no run"):
        repairs.unless_it_diverges(lambda: fails("no run here"))


def test_the_baseline_is_kept_for_the_second_round(recorded: dict[str, Any], work: Path) -> None:
    assert load_language_model(work / "seed-3" / "baseline")
