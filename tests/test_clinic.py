"""The clinic: its recording at tiny size, what each fault replaces, and the program that reads the logs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clinic as recording
import pytest
import torch
import workbench
from finished_run import make_run, shrink_constants
from stages import FinishedRun

from rlhf_mini import ppo, sampling
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.kl import token_logprobs
from rlhf_mini.teaching import clinic_cases, clinic_plots
from rlhf_mini.teaching.alarms import seed_histories
from rlhf_mini.teaching.clinic import NOT_ENOUGH, RULES, Finding, diagnose
from rlhf_mini.teaching.clinic_cases import HEALTHY, Clinic, departure, lines_of

TINY = recording.Sizes(seeds=(1, 2), references=(11,), iterations=3, episodes=8, samples=2)
REPLACED = [(ppo, name) for name in ("shaped_rewards", "rollout_of", "adapt_kl_coef", "update", "gae",
                                     "compare_to_reference")] + [(sampling, "token_logprobs")]
CLINIC = clinic_cases.clinic()
NUMBERS = CLINIC.numbers
FAULTY = [number for number in NUMBERS if CLINIC.cause(number) != HEALTHY]

# --- the recording, at tiny size --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The first seed of every case, of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        patch.setattr(workbench, "DEMONSTRATIONS", 50)
        patch.setattr(recording, "DEMONSTRATIONS", 50)
        run = FinishedRun.open(make_run(tmp_path_factory.mktemp("run")))
        right = [getattr(module, name) for module, name in REPLACED]
        found = {case: recording.make(f"{case}/1", run, TINY) for case in recording.FAULTS}
        assert [getattr(module, name) for module, name in REPLACED] == right
        return found


def column(made: dict[str, Any], case: str, key: str) -> list[float]:
    return list(made[case]["history"][key])


def test_every_case_has_a_history_and_samples(made: dict[str, Any]) -> None:
    assert list(made) == list(recording.FAULTS)
    for found in made.values():
        assert set(found["history"]) == set(recording.HISTORY)
        assert len(found["samples"]) == 2 and set(found["samples"][0]) == {"opening", "ending", "ended"}
    assert made[HEALTHY]["history"]["iteration"] == [1, 2, 3]


def test_a_healthy_run_begins_as_the_reference(made: dict[str, Any]) -> None:
    assert column(made, HEALTHY, "ratio_first") == pytest.approx([1, 1, 1], abs=1e-4)
    assert abs(column(made, HEALTHY, "kl_k1")[0]) < 1e-3
    assert column(made, HEALTHY, "kl_coef") == [PPOConfig().kl_coef] * 3


def test_each_fault_shows_in_the_quantity_that_it_touches(made: dict[str, Any]) -> None:
    assert column(made, "no KL", "kl_coef") == [0, 0, 0]
    assert column(made, "own reference", "kl") == pytest.approx([0, 0, 0], abs=1e-4)
    assert abs(column(made, "temperature", "ratio_first")[0] - 1) > 1e-4
    assert abs(column(made, "temperature", "kl_k1")[0]) > 0.02
    assert abs(column(made, "dropout", "ratio_first")[0] - 1) > 1e-4
    assert abs(column(made, "dropout", "kl_k1")[0]) < 1e-3
    assert column(made, "learning rate", "learning_rate")[0] == pytest.approx(50 * TINY.learning_rate)
    falling = column(made, "KL per token", "kl_coef")
    assert falling[0] == pytest.approx(0.05) and falling[0] > falling[1] > falling[2]
    assert column(made, "score at the pad", "score")[0] != column(made, HEALTHY, "score")[0]
    assert column(made, "KL sign", "kl_coef") == column(made, HEALTHY, "kl_coef")


def test_the_first_line_is_that_of_the_healthy_run_where_the_fault_comes_later(made: dict[str, Any]) -> None:
    for case in ("KL sign", "EOS masked", "whitened returns", "no KL", "own reference", "dropout"):
        assert column(made, case, "score")[0] == column(made, HEALTHY, "score")[0], case


def test_what_is_replaced() -> None:
    score, ones = torch.tensor([1.0]), torch.ones(1, 3)
    paid = recording.kl_sign(ppo.shaped_rewards)(score, ones, 0 * ones, ones, 0.5)
    assert paid.tolist() == [[0.5, 0.5, 1.5]]
    advantages, returns = recording.whitened_returns(ppo.gae)(torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, -9.0]]),
                                                              torch.zeros(2, 3), torch.ones(2, 3).bool(), 1.0, 1.0)
    assert returns.var().item() == pytest.approx(1) and torch.equal(advantages, returns)
    logits, tokens = torch.tensor([[1.0, 3.0]]), torch.tensor([1])
    assert torch.equal(recording.untempered(token_logprobs)(logits, tokens, 0.7), token_logprobs(logits, tokens))


def test_the_mask_without_eos_keeps_what_has_not_ended() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    rollout = sampling.Rollout(((1,), (1,)), torch.zeros(2, 3).long(), mask, torch.zeros(2, 3), torch.zeros(2, 3, 1),
                               torch.zeros(2, 3), torch.tensor([True, False]))
    seen: list[Any] = []
    recording.without_eos(lambda state, rollout, *rest: seen.append(rollout.mask.tolist()))(None, rollout)
    assert seen == [[[True, False, False], [True, True, True]]] and torch.equal(rollout.mask, mask)


def test_a_run_that_diverges_keeps_the_iterations_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink_constants(monkeypatch)
    monkeypatch.setattr(recording, "DEMONSTRATIONS", 50)

    def stops_at_two(right: Any) -> Any:
        def update(state: Any, *rest: Any) -> Any:
            if state.iteration == 1:
                raise InputError("the norm of the gradient is nan")
            return right(state, *rest)
        return update

    fault = recording.Fault(patch=lambda: recording.replaced(ppo, "update", stops_at_two))
    monkeypatch.setitem(recording.FAULTS, "broken", fault)
    found = recording.make("broken/1", FinishedRun.open(make_run(tmp_path)), replace(TINY, episodes=4))
    assert found["history"]["iteration"] == [1] and "iteration 2" in found["stopped"]


def test_gathered_cases_are_numbered_and_their_names_sealed(made: dict[str, Any], tmp_path: Path) -> None:
    found = {f"{case}/{seed}": one for seed in (1, 2) for case, one in made.items()} | {"healthy/11": made[HEALTHY]} \
        | {f"{case}/1": made[HEALTHY] for case in recording.HARMLESS}
    assert set(found) == set(recording.parts(TINY))
    recording.gather(found, TINY, tmp_path / "clinic.json")
    text = (tmp_path / "clinic.json").read_text()
    assert not [case for case in recording.FAULTS if case != HEALTHY and f'"{case}"' in text]
    gathered = Clinic(json.loads(text))
    assert sorted(map(gathered.cause, gathered.numbers)) == sorted(recording.FAULTS)
    assert len(gathered.again(1)) == 1 and len(gathered.references) == 1
    with pytest.raises(InputError, match="there is no case 12: choose from"):
        gathered.history(12)


# --- the program on the recorded runs --------------------------------------------------------------------------------


def causes(history: Any) -> list[str]:
    return [finding.cause for finding in diagnose(history)]


def named(number: int) -> list[str]:
    """What diagnose should find."""
    return [] if CLINIC.cause(number) == HEALTHY else [CLINIC.cause(number)]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_recorded_case_is_named_first(number: int) -> None:
    assert causes(CLINIC.history(number))[:1] == named(number)
    assert diagnose(lines_of(CLINIC.history(number))) == diagnose(CLINIC.history(number))


@pytest.mark.parametrize("number", NUMBERS)
def test_each_fault_is_named_with_seeds_that_the_rules_have_not_seen(number: int) -> None:
    assert CLINIC.again(number)
    for history in CLINIC.again(number):
        assert causes(history)[:1] == named(number)


def test_healthy_runs_have_no_finding() -> None:
    assert [causes(one) for one in CLINIC.references] == [[]] * len(CLINIC.references)
    assert [causes(arms["ppo"]) for arms in seed_histories().values()] == [[]] * 5


def test_whole_runs_without_kl_are_named_too() -> None:
    for arms in seed_histories().values():
        assert causes(arms["ppo_no_kl"])[:1] == ["no KL"]


def test_the_run_that_notebooks_start_from_is_read_from_its_own_lines() -> None:
    path = Path(__file__).parent.parent / "assets" / "run-3" / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert causes([line for line in lines if line["arm"] == "ppo"]) == []
    assert causes([line for line in lines if line["arm"] == "ppo_no_kl"]) == ["no KL"]
    with pytest.raises(InputError, match="lines of 2 arms: give those of one"):
        diagnose(lines)


@pytest.mark.parametrize("number", FAULTY)
def test_the_evidence_is_a_quantity_of_the_history_at_one_of_its_iterations(number: int) -> None:
    columns = CLINIC.history(number)
    evidence = diagnose(columns)[0].evidence
    assert evidence is not None
    assert columns[evidence.quantity][evidence.iteration - 1] == evidence.value
    assert f"{evidence.quantity} = " in str(evidence) and f"iteration {evidence.iteration}" in str(evidence)


# --- short, damaged and hand-made histories --------------------------------------------------------------------------


def hand_made(count: int = 20, **changes: Any) -> list[dict[str, Any]]:
    """A healthy history, with some quantities replaced: each a number or a function of the iteration."""
    healthy: dict[str, Any] = {
        "score": lambda i: 1 - math.exp(-(i - 1) / 5), "score_std": lambda i: 1 - 0.02 * i, "kl_coef": 0.15,
        "reward": lambda i: 0.8 * (1 - math.exp(-(i - 1) / 5)), "kl": lambda i: 3 * (1 - math.exp(-(i - 1) / 5)),
        "kl_k1": lambda i: 3 * (1 - math.exp(-(i - 1) / 5)), "value_loss": lambda i: 0.5 / i**0.5,
        "explained_variance": lambda i: 0.01 * i, "policy_loss": lambda i: -0.01 / i, "ratio_first": 1.0,
        "clip_fraction": lambda i: 0.04 / i, "approx_kl": lambda i: 0.008 / i}
    return [{"iteration": i, **{key: make(i) if callable(make) else make
                                for key, make in {**healthy, **changes}.items()}} for i in range(1, count + 1)]


HAND_MADE: dict[str, dict[str, Any]] = {
    "temperature": {"ratio_first": 0.5, "kl_k1": -9.0},
    "dropout": {"ratio_first": 1.02},
    "learning rate": {"clip_fraction": 0.7},
    "no KL": {"kl_coef": 0.0},
    "own reference": {"kl": 1e-9},
    "score at the pad": {"score": -2.0},
    "KL per token": {"kl": lambda i: i - 1.0, "kl_coef": lambda i: 0.15 * 0.98**i},
    "KL sign": {"kl": lambda i: i**2.0 - 1, "reward": lambda i: -0.15 * i**2},
    "whitened returns": {"value_loss": 0.5},
    "EOS masked": {"policy_loss": -0.02},
}


def test_a_hand_made_healthy_history_has_no_finding() -> None:
    assert diagnose(hand_made()) == []
    assert diagnose(list(reversed(hand_made()))) == []


@pytest.mark.parametrize("cause", HAND_MADE)
def test_each_rule_fires_on_a_history_made_for_it_and_no_other_does(cause: str) -> None:
    assert causes(hand_made(**HAND_MADE[cause])) == [cause]


def test_every_fault_has_a_rule_and_a_hand_made_history() -> None:
    assert set(HAND_MADE) == set(RULES) == set(recording.FAULTS) - {HEALTHY}


def test_an_adaptive_coefficient_that_follows_the_kl_is_healthy() -> None:
    kl = [0.0, 2.0, 4.0, 6.0, 8.0, 7.0, 6.0, 5.0, 4.5, 4.2, 4.1, 4.0]
    coefficients = [0.05]
    for x in kl[:-1]:
        coefficients.append(ppo.adapt_kl_coef(coefficients[-1], x, 4.0, 64, 640))
    assert causes(hand_made(12, kl=lambda i: kl[i - 1], kl_coef=lambda i: coefficients[i - 1])) == []


@pytest.mark.parametrize("history", [[], {}, hand_made(4), [{"iteration": i} for i in range(20)],
                                     [{"score": 1.0}] * 20, [{"iteration": None, "kl": 1.0}] * 20,
                                     [{"iteration": i, "score": 0.0, "kl": 0.5} for i in range(1, 21)],
                                     {"iteration": [1, 2, 3], "score": [0.0], "kl": []},
                                     hand_made(kl=None, score="a word", ratio_first=math.nan, value_loss=math.inf)])
def test_what_is_too_short_or_too_poor_is_not_called_healthy(history: Any) -> None:
    found = diagnose(history)
    assert [finding.cause for finding in found] == [NOT_ENOUGH]
    assert found[0].evidence is None and found[0].why in str(found[0])


def test_a_fault_that_shows_at_once_is_named_in_a_short_history() -> None:
    for cause in ("temperature", "dropout", "learning rate", "no KL", "score at the pad"):
        assert causes(hand_made(2, **HAND_MADE[cause])) == [cause]


def test_a_rule_whose_quantities_are_missing_does_not_fire() -> None:
    for cause, changes in HAND_MADE.items():
        for key in changes:
            lines = [{name: value for name, value in line.items() if name != key} for line in hand_made(**changes)]
            assert cause not in causes(lines), (cause, key)


@pytest.mark.parametrize("number", FAULTY)
def test_holes_in_a_history_change_no_cause(number: int) -> None:
    lines: Sequence[dict[str, Any]] = lines_of(CLINIC.history(number))
    holed = [{key: None if key != "iteration" and i % 5 == 3 else value for key, value in line.items()}
             for i, line in enumerate(lines)]
    assert causes(holed)[:1] == [CLINIC.cause(number)]
    assert causes([*lines, *lines[:4]])[:1] == [CLINIC.cause(number)]  # a resumed run may have lines twice


def test_a_finding_says_cause_evidence_and_why() -> None:
    [finding] = diagnose(hand_made(kl_coef=0.0))
    assert isinstance(finding, Finding) and finding.evidence is not None
    assert (finding.evidence.quantity, finding.evidence.iteration) == ("kl_coef", 1)
    assert str(finding).startswith("no KL (kl_coef = 0 at iteration 1): ")


def test_quantities_stand_in_the_order_of_their_medians() -> None:
    found: dict[str, list[int | None]] = {"gold": [9, 15], "kl": [8, 10], "ended": [None, None], "length": [2, None]}
    assert clinic_plots.in_order(found, list(found)) == "kl 8–10, gold 9–15, ended never, length 2 (1 of 2)"


def test_a_departure_lasts_two_iterations() -> None:
    references: list[dict[str, Any]] = [{"iteration": list(range(1, 9)), "kl": [0.0, 1.1] * 4, "score": [0.0] * 8}]
    case: dict[str, Any] = {"iteration": list(range(1, 9)), "kl": [0.0, 9.0, 1.0, 1.0, 9.0, 9.0, 1.0, None],
                            "score": [0.5, *[0.0] * 7]}
    assert departure(case, "kl", references) == 5
    assert departure(case, "score", references) == 1  # the fine-tuned model's mean score is 0
    assert departure(references[0], "kl", references) is None
