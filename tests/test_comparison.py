"""Agreement between annotators, on numbers small enough to check by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from rlhf_mini.rankings import Ranking, agreement
from rlhf_mini.rankings.comparison import ranks_of
from rlhf_mini.tables import agreement_table, align_columns


def by(annotator: str, prompt: str, ranking: list[list[int]], **more: Any) -> Ranking:
    values = {"completions": ["x", "y", "z"], "shown_order": [0, 1, 2], "seconds": 4.0, **more}
    return Ranking(id=f"{annotator} {prompt}", annotator=annotator, prompt=prompt, ranking=ranking, **values)


BOTH = [by("Ada", "p", [[0], [1], [2]]), by("Ada", "q", [[0, 1], [2]]),
        by("Ben", "p", [[0], [2], [1]], seconds=2.0), by("Ben", "q", [[0], [1], [2]])]


def test_members_of_a_tie_share_their_mean_rank() -> None:
    assert ranks_of(by("Ada", "p", [[2], [0, 1]])) == (1.5, 1.5, 0)


def test_ranks_follow_the_texts_not_the_order_in_which_they_are_listed() -> None:
    assert ranks_of(by("Ada", "p", [[0], [1], [2]], completions=["z", "x", "y"])) == (1, 2, 0)


def test_completions_with_the_same_text_are_one() -> None:
    assert ranks_of(by("Ada", "p", [[0], [1], [2]], completions=["x", "x", "y"])) == (0.5, 0.5, 2)


def test_agreement_counts_the_pairs_that_both_order() -> None:
    found = agreement(BOTH).agreement["Ada", "Ben"]
    assert (found.value, found.count) == (pytest.approx(4 / 5), 5)  # p: 2 of 3; q: 2 of 2, for Ada ties one


def test_tau_b_by_hand() -> None:
    # 4 pairs ordered alike, 1 unlike, 1 that only Ben orders: (4 - 1) / sqrt(5 * 6)
    assert agreement(BOTH).tau["Ada", "Ben"].value == pytest.approx(3 / math.sqrt(30))


def test_one_who_copies_agrees_fully_and_one_who_reverses_not_at_all() -> None:
    orders = [[[0], [1], [2]], [[1], [0], [2]], [[2], [1], [0]]]
    records = [by("Ada", str(i), order) for i, order in enumerate(orders)]
    records += [by("Copy", str(i), order) for i, order in enumerate(orders)]
    records += [by("Reverse", str(i), order[::-1]) for i, order in enumerate(orders)]
    found = agreement(records)
    assert found.tau["Ada", "Copy"].value == found.agreement["Ada", "Copy"].value == 1
    assert found.tau["Ada", "Reverse"].value == -1
    assert found.agreement["Ada", "Reverse"].value == 0


def test_alpha_is_1_for_copies_and_near_0_for_chance() -> None:
    draw = random.Random(0)
    orders = [[[i] for i in draw.sample(range(3), 3)] for _ in range(300)]
    ada = [by("Ada", str(i), order) for i, order in enumerate(orders)]
    assert agreement([*ada, *(by("Copy", str(i), order) for i, order in enumerate(orders))]).alpha.value == 1
    chance = [by("Chance", str(i), [[j] for j in draw.sample(range(3), 3)]) for i in range(300)]
    assert agreement([*ada, *chance]).alpha.value == pytest.approx(0, abs=0.1)


def test_each_is_compared_with_the_mean_rank_of_the_others() -> None:
    others = [by("Ben", "p", [[0], [1], [2]]), by("Cem", "p", [[1], [0], [2]])]  # mean ranks 0.5, 0.5, 2
    found = agreement([*others, by("Ada", "p", [[2], [0], [1]])]).annotators["Ada"]
    assert (found.with_others.value, found.with_others.count) == (0, 2)


def test_position_bias_by_hand() -> None:
    first = agreement([by("Ada", str(i), [[2], [0, 1]], shown_order=[2, 1, 0]) for i in range(30)]).annotators["Ada"]
    assert (first.first_wins.value, first.first_by_chance.value) == (1, pytest.approx(1 / 3))
    z = (30 - 10) / math.sqrt(30 * (1 / 3 - 1 / 9))
    assert first.first_p.value == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_position_bias_of_a_tie_counts_in_part() -> None:
    assert agreement([by("Ada", "p", [[0, 1], [2]])]).annotators["Ada"].first_wins.value == 0.5


def test_time_is_the_median() -> None:
    assert agreement(BOTH).annotators["Ben"].seconds.value == 3


@pytest.mark.parametrize(("records", "reason"), [
    ([], "no judgements"),
    ([by("Ada", "p", [[0], [1], [2]])], "one annotator"),
    ([by("Ada", "p", [[0], [1], [2]]), by("Ben", "q", [[0], [1], [2]])], "no item was judged by two"),
    ([by("Ada", "p", [[0, 1, 2]]), by("Ben", "p", [[0, 1, 2]])], "ties all completions"),
])
def test_a_statistic_that_cannot_be_computed_says_why(records: list[Ranking], reason: str) -> None:
    found = agreement(records)
    assert found.alpha.value is None and reason in found.alpha.reason
    text = agreement_table(found)
    assert "n/a" in text and reason in text


def test_only_what_holds_now_counts() -> None:
    undo = Ranking(id="u", kind="undo", annotator="Ada", undoes="Ada q")
    assert agreement([*BOTH, undo]).annotators["Ada"].judged == 1


# The table


@pytest.mark.parametrize("name, shown", [
    ("Ada\nBen  100  99%", r"'Ada\nBen  100  99%'"), ("\x1b[2JAda", r"'\x1b[2JAda'"), ("Ada\u2028", r"'Ada\u2028'"),
    ("\u202eadA", r"'\u202eadA'"), ("Ada\u2066", r"'Ada\u2066'"), ("Ada\u200d", r"'Ada\u200d'"),
    ("\u3164", r"'\u3164'"),
    ("Ada  20  99%", "'Ada  20  99%'"), (" Ada", "' Ada'"), ("Ada ", "'Ada '"), ("Ada and Ben", "'Ada and Ben'"),
    ("'Ada'", r"'\'Ada\''"), ("Krippendorff's alpha (ordinal): 1.00", r"'Krippendorff\'s alpha (ordinal): 1.00'"),
    ("Ada\t20", r"'Ada\t20'"), ("A\u2003\u2003B", "'A\u2003\u2003B'"),
    ("x" * 300, "'" + "x" * 28 + "..." + "x" * 28 + "'"),
    *((name, name) for name in ("O'Brien", "小明", "山田\u3000太郎", "علي", "می\u200cخواهم", "José-María", "Ada (2)",
                                "👩\u200d💻"))])
def test_a_name_cannot_forge_a_row(name: str, shown: str) -> None:
    table = agreement_table(agreement([by(name, "p", [[0], [1], [2]]), *BOTH])).splitlines()
    usual = agreement_table(agreement([by("Cem", "p", [[0], [1], [2]]), *BOTH])).splitlines()
    assert len(table) == len(usual)
    assert sum(line.startswith(shown + " ") for line in table) >= 1
    assert sum(shown in line for line in table) >= 3  # its row, and the pairs with both others


def test_columns_are_aligned_where_characters_are_wide() -> None:
    rows = align_columns([["annotator", "n"], ["小明", "1"], ["Jose\u0301", "22"]])
    assert rows == ["annotator   n", "小明        1", "Jose\u0301       22"]
