"""What notebook 05 lets run and draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlhf_mini import ppo
from rlhf_mini.plots.backend import plt
from rlhf_mini.teaching import ppo_lesson, ppo_pictures, tiny_world
from rlhf_mini.teaching.policy_gradient import exact_gradient

LOGITS, REWARD = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([10.0, 14.0, 18.0])


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Any:
    yield
    plt.close("all")


def test_numbers_are_rounded_and_there_is_no_minus_zero() -> None:
    assert str(ppo_lesson.rounded(torch.tensor([[0.12345, -1e-9]]))) == "[[0.123, 0.0]]"


def test_the_made_up_run_overshoots_and_comes_to_its_target() -> None:
    nats, coefficients = ppo_lesson.controlled_run(0.05, 4.0)
    assert max(nats) > 12
    assert (nats[-1], coefficients[-1]) == pytest.approx((4, 0.25), abs=1e-3)


@pytest.mark.parametrize(("ratio", "advantage", "found"), [(1.5, 1.0, (-1.2, 0.0)), (0.5, 1.0, (-0.5, -0.5)),
                                                         (1.5, -1.0, (1.5, 1.5)), (0.5, -1.0, (0.8, 0.0))])
def test_loss_and_slope_in_the_four_cases(ratio: float, advantage: float, found: tuple[float, float]) -> None:
    assert ppo_lesson.slope_by_logp(ppo.policy_loss, ratio, advantage) == pytest.approx(found)


def test_training_in_the_world_takes_other_settings_and_gains() -> None:
    world = tiny_world.tiny_world()
    rows = list(ppo_lesson.train_in_world(world, 0.5, iterations=6, episodes=256, learning_rate=5e-3))
    assert [beta for beta, _ in rows] == [0.5] * 6
    assert 0.05 < ppo_lesson.share_of_best(world, *rows[-1]) <= 1
    axes = ppo_pictures.world_so_far(world, rows)
    assert len(axes[1].lines[1].get_xdata()) == 6
    for betas in ((0.1, 0.5, 2.0), (0.1,)):  # one, where the training was stopped early
        assert len(ppo_pictures.world_ends(world, dict.fromkeys(betas, rows[-1][1]))) == len(betas)


def test_the_credit_is_lambda_to_the_distance() -> None:
    drawn = ppo_pictures.credit(37, (1.0, 0.9)).images[0].get_array()
    assert drawn is not None and np.allclose(drawn[:, 0], [1, 0.9**36], atol=1e-6)


def test_the_other_pictures_draw_what_they_are_given() -> None:
    cost = torch.tensor([-0.25, 0.2, -0.05])
    bars = ppo_pictures.reward_of_each_token(["a", "b", "EOS"], cost, 1.5).patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1.4)  # type: ignore[attr-defined]
    line = ppo_pictures.gradient_spread(LOGITS, REWARD, {"none": 0.0, "mean": 13.0}).lines[-1]
    assert list(np.asarray(line.get_xdata())) == pytest.approx([exact_gradient(LOGITS, REWARD)[-1].item()] * 2)
    assert len(ppo_pictures.three_estimates().lines) == 4
    clipped = np.asarray(ppo_pictures.clip_and_gradient()[0, 0].lines[1].get_ydata())
    assert clipped.max() == pytest.approx(1.2)
    assert ppo_pictures.controlled([1.0, 2.0], [0.1, 0.2], 4.0)[0].get_ylabel() == "nats per ending"
    assert ppo_pictures.ratios_after(torch.tensor([0.1, 1.0, 9.0]), 0.2).get_xlim()[1] < 1.7
