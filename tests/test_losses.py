"""What notebooks 01 and 02 measure and draw: losses of tales, endings in lines, rows as cells, the next token."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from rlhf_mini.sft import Example
from rlhf_mini.teaching import loss_plots, losses, next_token, printed, row_plots
from rlhf_mini.teaching.losses import HeldOut
from rlhf_mini.teaching.measured import Measured
from rlhf_mini.teaching.verdicts import recorded_shares

ROWS = [torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0, 5.0])]  # the losses of two tales, EOS last


@pytest.fixture(autouse=True)
def no_figures_left() -> Any:
    yield
    plt.close("all")


class Words:
    """A tokenizer of five words."""

    def decode(self, tokens: list[int]) -> str:
        return [" had", " ran", "\n", " saw", "t"][tokens[0]]


@pytest.fixture
def held_out() -> HeldOut:
    """Two tales of prompts of 2 and 1 tokens; the grammar's own surprise is 2 and 4 nats."""
    return HeldOut([("a", "b"), ("c", "d")], [Example([5, 6, 7, 0], 2), Example([5, 6, 7, 0], 1)], [2.0, 4.0])


def test_losses_by_hand(held_out: HeldOut) -> None:
    assert held_out.lengths == [2, 3]
    assert held_out.entropy.value == pytest.approx(6 / 5)
    assert held_out.above_entropy(ROWS).value == pytest.approx((13 - 6) / 5)
    assert held_out.shared_out(ROWS).value == pytest.approx(8 / 5)
    assert losses.per_token(ROWS).value == pytest.approx(13 / 5)
    last, rest = losses.last_and_rest(ROWS)
    assert (last.value, rest.value) == pytest.approx((4.0, 5 / 3))
    assert losses.change_per_token([row + 1 for row in ROWS], ROWS).value == pytest.approx(1.0)


def test_each_row_has_its_losses_whatever_goes_through_together(held_out: HeldOut,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def of_tokens(model: Any, batch: list[Example]) -> Tensor:
        return torch.tensor([10.0 * len(row) + t for row, start in batch for t in range(start, len(row))])
    monkeypatch.setattr(losses, "next_token_losses", of_tokens)
    examples = [Example(list(range(length)), 1) for length in (3, 5, 2)]
    for size in (1, 2, 64):
        monkeypatch.setattr(losses, "AT_ONCE", size)
        found = losses.losses_of(None, examples)
        assert [row.tolist() for row in found] == [[31.0, 32.0], [51.0, 52.0, 53.0, 54.0], [21.0]]


def test_endings_are_printed_in_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    printed.print_endings(["Tom " * 40, "Ann"], ["He ran.\nA note.", ""], ["it goes on"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= printed.WIDTH
    assert "He ran. / A note." in "\n".join(lines) and "(nothing)" in "\n".join(lines)
    assert sum("reader: it goes on" in line for line in lines) == 1


def test_recorded_shares_have_the_error_of_their_number() -> None:
    found = recorded_shares("sft", ("coherent", "ended"))
    assert 0.9 < found["coherent"].value < 1 and 0 < found["ended"].error < found["coherent"].error < 0.01


def texts_of(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_a_row_is_drawn_with_its_mask_and_one_arrow_for_each_learnt_token() -> None:
    assert row_plots.kinds_of(2, 4, 6) == ["prompt", "prompt", "ending", "EOS", "padding", "padding"]
    ax = row_plots.row_diagram(["a", "b", "c", "EOS"], start=2)
    said = texts_of(ax)
    assert said.count("1") == 2 + 1 and said.count("0") == 4 + 1  # the mask, and the positions 1 and 0
    assert len([one for one in ax.texts if getattr(one, "arrow_patch", None)]) == 2
    assert any(text.startswith("position 1 predicts token 2,") for text in said)
    assert "2 learnt, 1 padding" in texts_of(row_plots.batch_diagram([(1, 3), (2, 4)]))


def test_bars_of_the_next_token_hold_all_the_probability() -> None:
    axes = next_token.next_token_bars(torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0]), Words(), (0.5, 1, 2), shown=3)
    for ax in axes:
        assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(1.0)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["had", "ran", "line break", next_token.REST]
    assert axes[0].patches[0].get_width() > axes[1].patches[0].get_width() > axes[2].patches[0].get_width()


def test_the_slider_begins_at_its_text() -> None:
    asked: list[str] = []

    def next_logits(text: str) -> Tensor:
        asked.append(text)
        return torch.arange(50.0)
    box = next_token.temperature_slider(next_logits, type("T", (), {"decode": lambda self, t: str(t)})(), "Once")
    assert [type(knob).__name__ for knob in box.children[:3]] == ["Text", "FloatSlider", "IntSlider"]
    assert box.children[0].value == "Once" and set(asked) <= {"Once"}


def test_pictures_of_losses_say_what_they_show() -> None:
    many = [torch.rand(6) + 1 for _ in range(5)]
    assert "pretrained model" in texts_of(loss_plots.loss_by_place(many, 0.3, places=4))
    rows = [{"tokens": 4000 * i, "loss": 7.0 / i, "step": i} for i in (1, 2)]
    assert "yours" in texts_of(loss_plots.pretraining_curve(rows, math.log(1400), 0.5))
    assert "entropy of the tales" in texts_of(loss_plots.fine_tuning_curve(rows, 0.3))
    ladder = loss_plots.loss_ladder({"untrained": 7.24, "pretrained": Measured(0.77, 0.01)}, {})
    assert texts_of(ladder) == ["7.24", "0.77"]
    ax = loss_plots.before_and_after(["He", "ran", "EOS"], torch.tensor([1.0, 2, 17]), torch.tensor([1.0, 2, 0.1]))
    assert texts_of(ax) == ["before: 17.0", "after: 0.10"]
    share = {"coherent": Measured(0.9, 0.02, "%"), "different": Measured(0.5, 0.1, "%")}
    assert {"coherent", "different"} <= set(texts_of(loss_plots.temperature_curves({0.1: share, 0.7: share}, 0.7)))
    assert texts_of(loss_plots.gold_curves({"one": torch.rand(9), "other": torch.rand(9)})) == ["one", "other"]
