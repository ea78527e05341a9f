"""The widgets of 07: the story against the price, and fooling the reward model."""

from __future__ import annotations

import pytest

from rlhf_mini.errors import InputError
from rlhf_mini.teaching.overoptimisation import FoolTheRewardModel, StoryAgainstPrice
from rlhf_mini.teaching.overoptimisation.stories import path_picture

OPENING = "Ada found a drum."


def run(*endings: str) -> dict[str, object]:
    """A recorded run of two iterations, in the first and second of which these were told."""
    return {"history": {"score": [0.1, 1.4], "gold": [0.2, -3.5]},
            "told": {str(i): [{"opening": OPENING, "ending": ending, "proxy": 0.5 * i, "gold": -1.0 * i, "kl": 1.0}]
                     for i, ending in enumerate(endings, start=1)}}


def test_price_and_iteration_move_the_story_and_the_dot() -> None:
    widget = StoryAgainstPrice({"0": run("plain", "<b>drum</b>"), "0.15": run("fine", "finer"), "sft": {}})
    assert widget.price.value == "0" and "&lt;b&gt;drum" in widget.card.value and "<b>drum" not in widget.card.value
    free = widget.card.value
    widget.price.value = "0.15"
    assert "finer" in widget.card.value
    widget.iteration.value = "1"
    assert "fine<br>" in widget.card.value and "score +0.50" in widget.card.value
    assert free != widget.card.value
    assert widget._repr_mimebundle_()["text/html"] == widget.card.value


def test_a_dot_stands_where_the_run_was() -> None:
    first, second = (path_picture({"score": [0.0, 2.0], "gold": [0.0, -9.0]}, i) for i in (1, 2))
    assert 'cx="34"' in first and 'cx="322" cy="166"' in second  # at the edge where it lies outside


def test_runs_without_stories_are_refused() -> None:
    with pytest.raises(InputError, match="no run of these holds stories"):
        StoryAgainstPrice({"0": {"history": {}}})


def score(endings: list[str]) -> list[float]:
    return [float(ending.count("gave")) for ending in endings]


def test_an_ending_is_scored_its_words_are_coloured_and_the_largest_gaps_stay() -> None:
    widget = FoolTheRewardModel(OPENING, score, "<i>gave gave")
    assert "score +2.00" in widget.card.value and "&lt;i&gt;gave" in widget.card.value
    for ending in ("gave", "gave gave gave", "", "word " * 65, "gave gave gave gave"):
        widget.show(ending)
    assert [one["score"] for one in widget.found] == [4, 3, 2, 1]
    widget.field.value = "Ada played it."
    widget.button.click()
    assert "Ada" in widget.card.value and len(widget.found) == 5
    widget.show("")
    assert "1 to 64 words" in widget.card.value
    assert widget._repr_mimebundle_()["text/plain"] == "Fool the reward model"
