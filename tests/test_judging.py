"""What notebook 03 measures and draws: sessions of programs, agreement with an error, wins, and the pictures."""

from __future__ import annotations

import base64
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_mini.assets import asset
from rlhf_mini.rankings import Ranking, load_rankings
from rlhf_mini.tales import PANEL
from rlhf_mini.teaching import judging
from rlhf_mini.teaching.judging import EXAMPLE, Spoilt, alike, mean_ranks, ranked_by, ranks, wins_of
from rlhf_mini.teaching.judging_plots import pair_arrows, shares_over, show_card, who_agrees
from rlhf_mini.teaching.measured import Measured

PLAIN = PANEL[-1]
ITEMS = list({r.prompt: (r.prompt, r.completions) for r in load_rankings(asset("run-3") / "rankings.jsonl")}.values())


def record(name: str, ranking: list[list[int]], shown: list[int]) -> Ranking:
    return Ranking.from_mapping({"id": name, "annotator": name, "prompt": name, "completions": list("abc"),
                                 "shown_order": shown, "ranking": ranking})


def test_the_same_seed_gives_the_same_impressions_whatever_is_asked() -> None:
    ranked, forced = ranked_by(PLAIN, ITEMS[:20]), judging.forced_to_choose(PLAIN, ITEMS[:20])
    assert alike((ranks(ranked), ranks(forced))) == Measured(1, 0, "%")
    assert alike((ranks(ranked), ranks(judging.rated_by(PLAIN, ITEMS[:20])))) == Measured(1, 0, "%")
    again = alike((ranks(ranked), ranks(ranked_by(PLAIN, ITEMS[:20], seed=1))))
    assert isinstance(again, Measured) and 0.5 < again.value < 1
    assert ranked_by(PLAIN, ITEMS[:20])[3].ranking == ranked[3].ranking


def test_a_spoilt_annotator_without_faults_has_the_impressions_of_its_base() -> None:
    prompt, endings = EXAMPLE
    spoilt = Spoilt("spoilt", PLAIN.weights)
    assert replace(spoilt, first=3).impressions(prompt, endings, random.Random(0))[0] == pytest.approx(
        3 + spoilt.impressions(prompt, endings, random.Random(0))[0])
    assert wins_of(ranked_by(replace(spoilt, first=1000), ITEMS[:5])) == [1] * 5


def test_wins_are_shared_in_a_tie_and_count_for_the_card_or_the_ending() -> None:
    found = [record("1", [[1], [0], [2]], [1, 0, 2]), record("2", [[0, 2], [1]], [2, 1, 0]),
             record("3", [[0], [1], [2]], [2, 1, 0])]
    assert wins_of(found) == [1, 0.5, 0]
    assert wins_of(found, 0) == [0, 0.5, 1]


def test_agreement_needs_two_items_and_takes_items_whole() -> None:
    one = ranks([record("1", [[0], [1], [2]], [])])
    assert alike((one, one)) == "n/a"
    two = ranks([record("1", [[0], [1], [2]], []), record("2", [[0], [1], [2]], [])])
    other = ranks([record("1", [[0], [1], [2]], []), record("2", [[2], [1], [0]], [])])
    found = alike((two, other))
    assert isinstance(found, Measured) and found.value == 0.5
    assert found.error == pytest.approx(0.5 / 2**0.5, rel=0.15)  # of two items, not of six pairs
    assert list(mean_ranks([two, other]).values()) == [(0, 1, 2), (1, 1, 1)]


def test_a_record_is_printed_whole_in_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    judging.print_record(ranked_by(PLAIN, [EXAMPLE])[0])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 110
    for text in EXAMPLE[1]:
        assert text in " ".join(printed.split())


def test_arrows_are_as_many_as_pairs() -> None:
    from matplotlib.patches import FancyArrowPatch

    axes = pair_arrows([[0], [1], [2], [3]], [[2, 3], [1], [0]], [[0, 1, 2, 3]])
    assert [sum(isinstance(patch, FancyArrowPatch) for patch in ax.patches) for ax in axes] == [6, 5, 0]
    assert [ax.get_title().split("\n")[1] for ax in axes] == ["6 pairs", "5 pairs", "0 pairs"]


def test_shares_are_drawn_with_two_errors_and_what_is_no_number_is_left_out() -> None:
    ax = who_agrees({"you": {"you and kind": Measured(0.8, 0.1), "you and poet": "n/a"},
                     "panel": {"kind and poet": Measured(0.7, 0.02)}})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["you and kind", "kind and poet"]
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 0]  # type: ignore[attr-defined]
    assert (low, high) == pytest.approx((60, 100))
    shares = {"a": [Measured(0.5, 0.1)] * 2, "b": [Measured(0.2, 0.1)] * 2}
    ax = shares_over((0, 1), shares, {"chance": 0.25}, "title", "x", "y")
    assert {"a", "b", "chance"} <= {text.get_text() for text in ax.texts}


def test_a_card_shows_the_widget_and_carries_a_picture_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    class Card:
        def _repr_mimebundle_(self) -> Any:
            return {"application/x": "view", "text/plain": "Card at 0x7f"}, {}
    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **named: shown.append((data, named)))
    (tmp_path / "still.png").write_bytes(b"picture")
    show_card(Card(), tmp_path / "still.png", "cards")
    (data, named), = shown
    assert data == {"application/x": "view", "image/png": base64.b64encode(b"picture").decode()}
    assert named == {"metadata": {"image/png": {"alt": "cards"}}, "raw": True}
