"""The exercises on one person's taste: the package's own answers by hand."""

from __future__ import annotations

import pytest

from rlhf_mini.checks.blind import WIN_RATE
from rlhf_mini.checks.control_gain import CONTROL_GAIN


def test_the_package_s_own_answers_by_hand() -> None:
    # gains 1 0 1 | 0 0, mean 0.4; the openings lie 0.8 and -0.8 off: sqrt(2 / 1 * 1.28) / 5 = 0.32
    gain, error = CONTROL_GAIN.right(*CONTROL_GAIN.cases["with five pairs of two openings"].values())
    assert (gain, error) == (pytest.approx(0.4), pytest.approx(0.32))
    # 1 0 1: mean 2/3, variance 1/3, error 1/3
    assert WIN_RATE.right(["after", "before", "after"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
