"""PPO from a student's own parts: with right ones it is the package's, and what is missing is the package's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import torch.nn.functional as F
from test_exercises import FOLDER, SOLUTION
from test_keep import typed
from test_ppo import EOS, PAD, PROMPTS, SMALL, how_often_five, make_model

from rlhf_mini import checks, ppo
from rlhf_mini.checks.keep import IGNORED
from rlhf_mini.config import PPOConfig
from rlhf_mini.teaching.own_iteration import OwnParts, own_ppo_iterations, parts

HARD = PPOConfig(iterations=2, episodes=15, max_new_tokens=8, minibatches=2, learning_rate=3e-3, lam=0.9, kl_coef=3.0,
                 adaptive=True)


def solutions() -> dict[str, str]:
    """The folded solutions of notebook 05, by the names of the functions."""
    cells = nbformat.read(FOLDER / "05_ppo_from_parts.ipynb", as_version=4).cells
    found = [source for cell in cells if cell.cell_type == "markdown" for source in SOLUTION.findall(cell.source)]
    return {source.split("(")[0].removeprefix("def "): source for source in found}


def solved() -> dict[str, Any]:
    """What a student has kept who filled in everything."""
    known: dict[str, Any] = {"math": math, "torch": torch, "F": F}
    for source in solutions().values():
        exec(source, known)
    return {name: thing for name, thing in known.items() if name.startswith("my_")}


def hundred_fives(rollout: Any) -> Any:
    """A score of such a spread that the value loss is divided by the variance of the returns."""
    return 100 * how_often_five(rollout)


def run(own: OwnParts | None, config: PPOConfig, score: Any) -> tuple[list[dict[str, float]], Any]:
    """The records of all iterations, without seconds, and the state at the end; without parts, the package's."""
    model = make_model()
    state = ppo.start_ppo(make_model(seed=1), config)
    common = (state, model, score, PROMPTS, config, EOS, PAD)
    records = own_ppo_iterations(own, *common) if own else ppo.train_ppo(*common)
    return [{**record.stats, "seconds": 0.0} for record in records], state


@pytest.mark.parametrize(("config", "score"), [(SMALL, how_often_five), (HARD, hundred_fives)], ids=["small", "hard"])
@pytest.mark.parametrize("filled", ["all", "none", "gae", "all but the whole"])
def test_right_parts_train_as_the_package_does(config: PPOConfig, score: Any, filled: str) -> None:
    everything = solved()
    kept = {"all": everything, "none": {}, "gae": {"my_gae": everything["my_gae"]},
            "all but the whole": {name: f for name, f in everything.items() if name != "my_ppo_iteration"}}[filled]
    own = parts(kept)
    assert own.made_by == {name: "you" if f"my_{name}" in kept else "the package" for name in own.functions}
    found, state = run(own, config, score)
    expected, state_expected = run(None, config, score)
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    assert len(found) == len(expected)
    assert found[-1] == pytest.approx(expected[-1], rel=1e-3, abs=1e-3)
    assert state.kl_coef == pytest.approx(state_expected.kl_coef, rel=1e-4)
    for name, x in state_expected.tensors().items():
        assert torch.allclose(state.tensors()[name], x, atol=2e-3), name


def test_the_parts_are_named_and_strangers_are_left_out() -> None:
    own = parts({"my_k3": lambda logp, logp_ref: logp, "my_poem": lambda: ""})
    assert list(own.made_by) == ["token_logprobs", "shaped_rewards", "gae", "whiten", "policy_loss", "value_loss",
                                 "adapt_kl_coef", "ppo_iteration"]
    assert set(own.made_by.values()) == {"the package"}


def test_every_part_is_used() -> None:
    """A part that raises stops the first iteration: each is called where it belongs."""
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    for name in parts({}).made_by:
        with pytest.raises(ZeroDivisionError):
            run(parts({f"my_{name}": broken}), HARD, how_often_five)


def test_a_whole_whose_part_was_removed_takes_the_package_s() -> None:
    everything = solved()
    whole = everything["my_ppo_iteration"]
    del whole.__globals__["my_gae"]
    own = parts({"my_ppo_iteration": whole})
    assert own.made_by["gae"] == "the package" and whole.__globals__["my_gae"] is ppo.gae
    found, _ = run(own, SMALL, how_often_five)
    assert found[0] == pytest.approx(run(None, SMALL, how_often_five)[0][0], rel=1e-5, abs=1e-5)


def test_a_student_who_fills_in_the_notebook_trains_with_all_parts(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """The check cells of 05 keep each function; the last one calls the others, also where it is read again."""
    monkeypatch.delenv(IGNORED, raising=False)
    names: dict[str, Any] = {"math": math, "torch": torch, "F": F}
    for name, source in solutions().items():
        names[name] = typed(source, name, **names)
        check = getattr(checks, f"check_{name.removeprefix('my_')}")
        assert "Kept in " in str(checks.keep(check(names[name]), check, tmp_path))
    own = parts(checks.kept(tmp_path))
    assert set(own.made_by.values()) == {"you"}
    found, _ = run(own, SMALL, how_often_five)
    assert found[0] == pytest.approx(run(None, SMALL, how_often_five)[0][0], rel=1e-5, abs=1e-5)
