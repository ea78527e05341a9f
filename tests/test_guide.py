"""The pages beside the notebooks: sums on paper agree with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_mini import ppo
from rlhf_mini.reward import bradley_terry_loss

GUIDE = Path(__file__).parent.parent / "notebooks" / "guide"


def test_the_answers_of_the_paper_sums_are_the_package_s() -> None:
    answers = (GUIDE / "paper_sums.md").read_text(encoding="utf-8").split("**Answers.**")[1]
    one, old, new = torch.ones(1, 1), torch.tensor([[0.2]]).log(), torch.tensor([[0.3]]).log()
    losses = [ppo.policy_loss(new, old, sign * 2 * one, one, 0.2).item() for sign in (1, -1)]
    assert losses == pytest.approx([-2.4, 3.0]) and "−2.4, no; +3.0" in answers
    ratios = torch.tensor([[0.5, -0.1, 0.2]])
    rewards = ppo.shaped_rewards(torch.ones(1), ratios, torch.zeros(1, 3), torch.ones(1, 3), 0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, 0.01, 0.98]) and "−0.05, 0.01, 0.98; 0.94" in answers
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.8]])
    for lam, text in ((1.0, "0.5, 0.4, 0.2"), (0.0, "0.1, 0.2, 0.2")):
        advantages, returns = ppo.gae(rewards, values, torch.ones(1, 3), 1.0, lam)
        assert ", ".join(f"{x:.1f}" for x in advantages[0].tolist()) == text and text in answers
        assert lam == 0 or returns[0].tolist() == pytest.approx([1, 1, 1])
    loss = bradley_terry_loss(torch.tensor([1.5]), torch.tensor([0.5])).item()
    assert f"{loss:.3f}" == "0.313" and "0.731; 0.313" in answers
