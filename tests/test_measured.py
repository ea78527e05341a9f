"""Numbers with errors: by hand, as printed, and read back from what was printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhf_mini.errors import InputError
from rlhf_mini.teaching.compared import numbers
from rlhf_mini.teaching.measured import (
    Measured,
    change_of_share,
    decimals,
    difference,
    mean_error,
    over_seeds,
    print_table,
    resampled,
    share_of,
)


@pytest.mark.parametrize(("number", "printed"), [
    (Measured(0.8312, 0.0512), "0.83 ± 0.05"),
    (Measured(0.8312, 0.0512, "+"), "+0.83 ± 0.05"),
    (Measured(-0.8312, 0.0151), "-0.831 ± 0.015"),
    (Measured(0.9719, 0.0083, "%"), "97.2 ± 0.8 %"),
    (Measured(0.0214, 0.0119, "+%"), "+2.1 ± 1.2 percentage points"),
    (Measured(-0.004, 0.05, "+"), "+0.00 ± 0.05"),  # not -0.00
    (Measured(9.96, 0.096), "9.96 ± 0.10"),
    (Measured(1234.5, 121.0), "1230 ± 120"),
    (Measured(1234.5, 3.0), "1234.5 ± 3.0"),
    (Measured(1234.5, 9.0), "1234 ± 9"),
    (Measured(0.5, 0.0), "0.50 ± 0.00"),
])
def test_the_error_chooses_the_digits(number: Measured, printed: str) -> None:
    assert str(number) == f"{number}" == printed


def test_a_format_adds_a_sign_percent_and_a_width() -> None:
    number = Measured(0.0214, 0.0119)
    assert f"{number:+}" == "+0.021 ± 0.012"
    assert f"{number:%}" == "2.1 ± 1.2 %"
    assert f"{number:+%}" == "+2.1 ± 1.2 percentage points"
    assert f"{number:>16}" == "   0.021 ± 0.012"
    assert f"{Measured(0.0214, 0.0119, '%'):<14}|" == "2.1 ± 1.2 %   |"


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.sampled_from(["", "+", "%", "+%"]))
def test_what_is_printed_is_read_back_to_half_a_digit(value: float, error: float, form: str) -> None:
    assume(error > 2e-9 * abs(value))  # below that it counts as rounding
    scale = 100 if "%" in form else 1
    [found] = numbers(f"so: {Measured(value, error, form)}.")
    half = 0.5 * 10.0**-decimals(scale * error) * (1 + 1e-6) + 1e-12 * abs(value)
    assert float(found.value) == pytest.approx(scale * value, abs=half)
    assert float(found.error) == pytest.approx(scale * error, rel=0.15)
    assert ("+" in found.text) == ("+" in form and not found.text.startswith("-"))


@pytest.mark.parametrize("bad", [(math.nan, 0.1), (0.1, math.inf), (0.1, -0.1)])
def test_what_is_no_measured_number_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="is not a measured number"):
        Measured(*bad)


def test_a_mean_by_hand() -> None:
    found = mean_error([1.0, 2.0, 3.0, 4.0])
    assert (found.value, found.error) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
    assert mean_error(torch.tensor([1, 2, 3, 4])) == mean_error(np.arange(1, 5))


def test_equal_numbers_have_no_error() -> None:
    """Their mean differs from them in the last bit, which was printed as an error with seventeen decimals."""
    assert str(mean_error([-3.57542512342293] * 192)) == "-3.58 ± 0.00"


def test_rows_of_one_group_are_one_piece_of_evidence() -> None:
    x = [0.1, 1.3, 0.7, 2.2]
    alone = mean_error(x)
    assert mean_error(x * 4).error < 0.5 * alone.error  # copies taken for evidence
    again = mean_error(x * 4, by=[0, 1, 2, 3] * 4)
    assert (again.value, again.error) == pytest.approx((alone.value, alone.error))


def test_the_error_of_a_mean_is_how_much_means_vary() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(2000, 10, 1)) + generator.normal(size=(2000, 10, 4))  # four rows per group
    groups = np.repeat(np.arange(10), 4).tolist()
    errors = [mean_error(rows, by=groups).error for rows in shared[:200]]
    assert math.sqrt(np.square(errors).mean()) == pytest.approx(shared.mean((1, 2)).std(), rel=0.1)


def test_a_difference_of_pairs_leaves_out_what_they_share() -> None:
    before = np.array([5.0, -3.0, 40.0, 0.0])
    found = difference(before + np.array([1.0, 1.2, 0.8, 1.0]), before)
    assert (found.value, found.error) == pytest.approx((1.0, math.sqrt(0.08 / 3) / 2))
    assert str(found) == "+1.00 ± 0.08"
    assert str(difference([True, True], [False, True], form="%")) == "+50 ± 50 percentage points"


def test_a_share_that_changes_is_compared_flag_by_flag_and_never_sure() -> None:
    before, after = [True] * 50 + [False] * 50, [True] * 48 + [False] * 52
    found = change_of_share(after, before)
    assert found.value == pytest.approx(-0.02) and found.form == "+%"
    assert found.error == pytest.approx(math.hypot(difference(after, before).error, 0.01))
    assert found.error < 0.3 * (share_of(after) - share_of(before)).error  # as if of other rows
    assert change_of_share(before, before).error == pytest.approx(0.01)


def test_a_share_of_none_or_all_has_an_error() -> None:
    none, every = share_of([False] * 64), share_of(torch.ones(64).bool())
    assert none.value == 0 and every.value == 1
    assert (none.error, every.error) == pytest.approx((1 / 66 * math.sqrt(65 / 67),) * 2)
    assert str(every) == f"{every:%}" == "100.0 ± 1.5 %"
    half = share_of([True, False] * 200)
    assert half.error == pytest.approx(0.5 / math.sqrt(400), rel=0.01)
    assert share_of([True, False] * 200, by=[0, 1] * 200).error > 0.3  # two pieces of evidence


def test_a_share_of_pairs_has_the_error_of_a_bootstrap_over_prompts() -> None:
    """Of a prompt's pairs most are right or most are wrong, and prompts have one to six of them."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 7, size=150)
    chances = np.repeat(generator.beta(1, 0.5, size=150), sizes)
    right, prompts = generator.random(len(chances)) < chances, np.repeat(np.arange(150), sizes)
    clustered = share_of(right, by=prompts.tolist())
    counts = np.array([[right[prompts == p].sum(), (prompts == p).sum()] for p in range(150)])
    drawn = counts[generator.integers(150, size=(4_000, 150))].sum(1)
    assert clustered.error == pytest.approx((drawn[:, 0] / drawn[:, 1]).std(), rel=0.06)
    assert clustered.error > 1.3 * share_of(right).error  # every pair taken for evidence


def test_an_error_widened_by_a_band_and_a_distance() -> None:
    assert Measured(1.0, 0.3, "+").widened(0.4) == Measured(1.0, 0.5, "+")
    assert Measured(0.75, 0.3, "%") - 0.5 == Measured(0.25, 0.3, "+%")
    assert Measured(0.75, 0.3) - Measured(0.5, 0.4) == Measured(0.25, 0.5, "+")


def test_over_seeds_is_half_the_range() -> None:
    assert str(over_seeds([1.0, 1.1, 1.5], "+")) == "+1.20 ± 0.25"


def test_resampling_gives_the_error_of_a_mean_and_of_a_correlation() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=400)
    y = 0.6 * x + 0.8 * generator.normal(size=400)
    assert resampled(np.mean, x).error == pytest.approx(mean_error(x).error, rel=0.15)
    found = resampled(lambda a, b: np.corrcoef(a, b)[0, 1], x, y)
    assert found.error == pytest.approx((1 - 0.36) / 20, rel=0.25) and abs(found.value - 0.6) < 4 * found.error
    assert found == resampled(lambda a, b: np.corrcoef(a, b)[0, 1], x, y)  # seeded
    twice, groups = np.repeat(x, 2), np.repeat(np.arange(400), 2).tolist()
    assert resampled(np.mean, twice, by=groups).error == pytest.approx(mean_error(x).error, rel=0.15)


@pytest.mark.parametrize("call", [
    lambda: mean_error([1.0]), lambda: mean_error([1.0, math.nan]), lambda: difference([1, 2, 3], [1, 2]),
    lambda: mean_error([1, 2], by=["a"]), lambda: mean_error([1, 2], by=["a", "a"])])
def test_too_little_to_measure_is_refused(call: object) -> None:
    with pytest.raises(InputError):
        call()  # type: ignore[operator]


def test_a_table_is_aligned_and_says_once_what_the_error_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows: dict[str, dict[str, object]] = {
        "after SFT": {"gold": Measured(0.0, 0.05, "+"), "endings": 256},
        "PPO": {"gold": Measured(1.04, 0.0151, "+"), "coherent": Measured(0.96, 0.012, "%")}}
    print_table(rows, "one standard error over endings")
    assert capsys.readouterr().out.splitlines() == [
        "                     gold  endings      coherent",
        "after SFT    +0.00 ± 0.05      256",
        "PPO        +1.040 ± 0.015           96.0 ± 1.2 %",
        "± is one standard error over endings"]


def test_a_table_with_differences_of_percentages_says_that_they_are_points(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"PPO": {"coherent": Measured(0.96, 0.01, "%"), "change": Measured(-0.02, 0.01, "+%")}}, "a band")
    assert capsys.readouterr().out.splitlines() == [
        "         coherent        change", "PPO  96.0 ± 1.0 %  -2.0 ± 1.0 %", "± is a band",
        "% with a sign are percentage points"]
