"""Rankings: the record, what holds now, the pairs, and the session that a person or a program drives."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_mini.errors import InputError
from rlhf_mini.rankings import (
    NotSavedError,
    Ranking,
    RankingSession,
    RankingStore,
    agreement,
    answer,
    chronological,
    current,
    load_rankings,
    ranking_from_ratings,
    save_rankings,
    to_dataset,
    to_pairs,
    unique_by_id,
)
from rlhf_mini.rankings.durable import RankingFileWarning
from rlhf_mini.rankings.record import parse_line

WORDS = ("ant", "bee", "cat", "dog")
ITEMS = [(f"Prompt {number}.", [f"{number} {word}" for word in WORDS]) for number in range(4)]


def record(act: str, **fields: Any) -> Ranking:
    """A record with an id of its own for every `act`."""
    usual: dict[str, Any] = {"prompt": "P", "completions": ["a", "b"], "annotator": "Ada", "session": "one"}
    if fields.get("kind", "ranking") == "ranking":
        usual["ranking"] = [[0], [1]]
    return Ranking(**{"id": str(uuid.uuid5(uuid.NAMESPACE_OID, act)), **usual, **fields})


def undo(act: str, of: Ranking, **fields: Any) -> Ranking:
    return record(act, kind="undo", undoes=of.id, **fields)


# The record


def test_a_line_has_the_fields_of_the_format_and_reads_back() -> None:
    rating = record("r", kind="rating", completions=["a", "b", "c"], shown_order=[2, 0, 1], ratings=[3, 7, 3],
                    timestamp="2026-11-22T17:00:00Z", seconds=4.5)
    assert json.loads(rating.to_line()) == {
        "schema_version": 1, "id": rating.id, "kind": "rating", "prompt": "P", "completions": ["a", "b", "c"],
        "shown_order": [2, 0, 1], "ranking": [[1], [0, 2]], "ratings": [3, 7, 3], "annotator": "Ada",
        "session": "one", "timestamp": "2026-11-22T17:00:00Z", "seconds": 4.5}
    assert parse_line(rating.to_line()) == rating


def test_an_absent_kind_means_ranking_and_null_means_absent() -> None:
    line = {"id": "1", "annotator": "Ada", "prompt": "P", "completions": ["a", "b"], "ranking": [[1], [0]]}
    assert Ranking.from_mapping(line).kind == "ranking"
    assert Ranking.from_mapping({**line, "kind": None, "seconds": None}) == Ranking.from_mapping(line)


def test_fields_that_are_not_ours_are_kept() -> None:
    line = {**json.loads(record("r").to_line()), "model": "sft", "note": None}
    assert json.loads(Ranking.from_mapping(line).to_line()) == line


@pytest.mark.parametrize("fields, named", [
    ({"id": ""}, '"id"'), ({"id": 7}, '"id"'), ({"annotator": "  "}, '"annotator"'),
    ({"kind": "rank"}, '"kind" is \'rank\''), ({"kind": ["ranking"]}, '"kind"'),
    ({"schema_version": 2}, "update rlhf_mini"), ({"schema_version": True}, '"schema_version"'),
    ({"prompt": None}, '"prompt"'), ({"completions": ["a"]}, "two or more"),
    ({"completions": ["a"] * 10, "ranking": [list(range(10))]}, "at most 9"),
    ({"completions": ["a"] * 2000, "ranking": [list(range(2000))]}, "at most 9"),
    ({"completions": "ab"}, '"completions"'), ({"completions": ["a", 1]}, '"completions"'),
    ({"shown_order": [0, 0]}, '"shown_order"'), ({"shown_order": [1]}, '"shown_order"'),
    ({"ranking": [[0]]}, '"ranking"'), ({"ranking": []}, '"ranking"'), ({"ranking": [0, 1]}, '"ranking"'),
    ({"ranking": [[0], [1], []]}, '"ranking"'), ({"ranking": [[0, 1], [1]]}, '"ranking"'),
    ({"ranking": [[False], [True]]}, '"ranking"'), ({"ranking": [[0.0], [1]]}, '"ranking"'),
    ({"ratings": [1, 2]}, '"ratings"'), ({"undoes": "x"}, '"undoes"'),
    ({"kind": "rating"}, '"ratings"'), ({"kind": "rating", "ratings": [0, 7]}, '"ratings"'),
    ({"kind": "rating", "ratings": [1, 8]}, '"ratings"'), ({"kind": "rating", "ratings": [1]}, '"ratings"'),
    ({"kind": "skip", "ranking": [[0], [1]]}, '"ranking"'), ({"kind": "undo"}, '"undoes"'),
    ({"timestamp": "yesterday"}, '"timestamp"'), ({"timestamp": 3}, '"timestamp"'),
    ({"session": 3}, '"session"'), ({"seconds": -1}, '"seconds"'), ({"seconds": float("nan")}, '"seconds"'),
    ({"seconds": "1"}, '"seconds"'),
    ({"seconds": True}, '"seconds"'), ({"seconds": 10 ** 400}, '"seconds"'),
    ({"prompt": "x" * 9999, "annotator": "n\nn", "kind": "a\nb"}, '"kind"'),
])
def test_what_does_not_fit_the_format_is_named_in_one_line(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as error:
        record("r", **fields)
    assert named in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"3", b"null", b"NaN", b'"text"', b"{}", b'{"id": "1"}',
                                  b"\xff", b"\0\0\0", b"[" * 100_000, b"9" * 5_000, b'{"seconds": NaN}'])
def test_a_line_that_is_no_record_is_an_input_error(line: bytes) -> None:
    with pytest.raises(InputError) as error:
        parse_line(line)
    assert "\n" not in str(error.value)


@settings(deadline=None)
@given(st.text(), st.lists(st.text(), min_size=2, max_size=9), st.text().filter(str.strip))
def test_any_text_survives_the_file(prompt: str, completions: list[str], annotator: str) -> None:
    stored = record("r", prompt=prompt, completions=completions, annotator=annotator,
                    ranking=[list(range(len(completions)))])
    assert stored.to_line().count(b"\n") == 1
    assert parse_line(stored.to_line()) == stored


@pytest.mark.parametrize("ratings", ["47", None, 4, {"a": 4}, ["4"], [None], [float("nan")]])
def test_what_is_no_list_of_ratings_is_named_in_one_line(ratings: Any) -> None:
    with pytest.raises(InputError, match=r"^ratings"):
        ranking_from_ratings(ratings)


def test_half_a_surrogate_pair_survives_the_file() -> None:
    stored = record("r", prompt="\ud83d")
    assert parse_line(stored.to_line()) == stored


def test_a_rating_becomes_a_ranking_with_ties() -> None:
    assert ranking_from_ratings([5, 7, 5, 1]) == [[1], [0, 2], [3]]
    assert ranking_from_ratings([4, 4]) == [[0, 1]]


# What holds now


def test_the_latest_wins_per_annotator_prompt_and_completions() -> None:
    first, again = record("1"), record("2", ranking=[[1], [0]])
    others = [record("3", annotator="Ben"), record("4", prompt="Q"), record("5", completions=["a", "c"])]
    assert current([first, *others, again]) == [*others, again]


def test_the_same_completions_in_another_order_are_the_same_item() -> None:
    again = record("2", completions=["b", "a"])
    assert current([record("1"), again]) == [again]


def test_undo_brings_back_what_was_before() -> None:
    first, again = record("1"), record("2", ranking=[[0, 1]])
    assert current([first, again, undo("3", again)]) == [first]
    assert current([first, undo("2", first)]) == []


def test_a_skip_holds_until_it_is_undone() -> None:
    first, skip = record("1"), record("2", kind="skip")
    assert current([first, skip]) == [skip] and to_pairs([first, skip]) == []
    assert current([first, skip, undo("3", skip)]) == [first]


def test_an_undo_can_be_undone() -> None:
    first = record("1")
    back = undo("2", first)
    assert current([first, back, undo("3", back)]) == [first]
    assert current([first, back, undo("3", back), undo("4", record("3"))]) == []


def test_an_undo_of_another_annotators_record_does_nothing() -> None:
    first = record("1")
    assert current([first, undo("2", first, annotator="Ben")]) == [first]


def test_undos_that_name_each_other_or_nothing_do_no_harm() -> None:
    one, two = record("1"), record("2")
    circle = [undo("1", two), undo("2", one), undo("3", record("none"))]
    assert current(circle) == [] and to_pairs([*circle, record("4")]) == [("P", "a", "b")]


def test_sessions_are_ordered_by_time_and_one_session_by_its_own_order() -> None:
    late = record("1", session="x", timestamp="2026-01-03T00:00:00+00:00")
    early = record("2", session="y", timestamp="2026-01-02T23:00:00-00:30")
    set_back = record("3", session="x", timestamp="2026-01-01T00:00:00")
    assert chronological([late, set_back, early]) == [early, late, set_back]
    assert current([late, set_back, early]) == [set_back]


def test_an_id_counts_once_and_a_conflict_is_reported() -> None:
    first = record("1")
    assert unique_by_id([first, first]) == [first]
    with pytest.warns(RankingFileWarning, match=first.id):
        assert unique_by_id([first, record("1", ranking=[[1], [0]])]) == [first]


ACTS = st.lists(st.tuples(st.sampled_from(["ranking", "rating", "skip", "undo"]), st.sampled_from("PQ"),
                          st.integers(0, 20)), max_size=20)


@settings(deadline=None)
@given(ACTS)
def test_a_history_amounts_to_what_was_not_taken_back(acts: list[tuple[str, str, int]]) -> None:
    """A stack for each prompt is the whole rule as long as only answers and skips are undone."""
    history: list[Ranking] = []
    stacks: dict[str, list[Ranking]] = {"P": [], "Q": []}
    for number, (kind, prompt, choice) in enumerate(acts):
        standing = [act for stack in stacks.values() for act in stack]
        if kind == "undo" and standing:
            target = standing[choice % len(standing)]
            history.append(undo(str(number), target))
            stacks[target.prompt].remove(target)
        elif kind != "undo":
            answered = {"ratings": [1 + choice % 7, 4]} if kind == "rating" else {}
            history.append(record(str(number), kind=kind, prompt=prompt, **answered))
            stacks[prompt].append(history[-1])
    wanted = [stack[-1] for stack in stacks.values() if stack]
    assert sorted(current(history), key=lambda act: act.prompt) == wanted
    assert current(history + history) == current(history)
    assert current(current(history)) == current(history)


# Pairs


def test_pairs_by_hand() -> None:
    ranked = record("1", completions=["a", "b", "c", "d"], ranking=[[2], [0, 3], [1]])
    wanted = [("c", "a"), ("c", "d"), ("c", "b"), ("a", "b"), ("d", "b")]
    assert to_pairs([ranked]) == [("P", better, worse) for better, worse in wanted]


def test_ties_make_no_pairs_and_neither_do_equal_texts() -> None:
    assert to_pairs([record("1", ranking=[[0, 1]])]) == []
    twins = record("1", completions=["a", "a", "b"], ranking=[[0], [1], [2]])
    assert to_pairs([twins]) == [("P", "a", "b")] * 2


def test_ratings_make_pairs_and_mappings_are_taken() -> None:
    rating = record("1", kind="rating", ratings=[2, 6])
    assert to_pairs([json.loads(rating.to_line())]) == [("P", "b", "a")]


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=9))
def test_pairs_are_all_that_differ(ratings: list[int]) -> None:
    texts = [str(index) for index in range(len(ratings))]
    pairs = to_pairs([record("1", kind="rating", completions=texts, ratings=ratings)])
    assert sorted(pairs) == sorted(("P", better, worse) for better in texts for worse in texts
                                   if ratings[int(better)] > ratings[int(worse)])


# The session


def test_an_order_that_is_not_known_may_be_an_empty_tuple() -> None:
    assert record("a", shown_order=()).shown_order == []


def test_positions_become_completions_and_the_shown_order_is_recorded() -> None:
    session = RankingSession(ITEMS, "Ada", seed=3)
    item = session.current
    assert item is not None and item.shown == [item.completions[index] for index in item.shown_order]
    saved = session.submit([[2], [0, 3], [1]])
    wanted = [[item.shown[2]], sorted([item.shown[0], item.shown[3]]), [item.shown[1]]]
    assert [sorted(item.completions[index] for index in group) for group in saved.ranking] == wanted
    assert saved.completions == ITEMS[0][1] and saved.shown_order == item.shown_order
    assert saved.seconds is not None and uuid.UUID(saved.id).version == 4


def test_the_shown_order_depends_on_seed_and_annotator_and_repeats() -> None:
    def orders(annotator: str, seed: int) -> list[list[int]]:
        session = RankingSession(ITEMS, annotator, seed=seed)
        return [session.skip().shown_order for _ in ITEMS]

    assert orders("Ada", 0) == orders("Ada", 0) != orders("Ada", 1)
    assert orders("Ada", 0) != orders("Ben", 0)


def test_every_position_is_shuffled_to_equally_often() -> None:
    items = [(str(number), ["a", "b", "c", "d"]) for number in range(2000)]
    session = RankingSession(items, "Ada")
    first = [session.skip().shown_order[0] for _ in items]
    assert all(abs(first.count(index) - 500) < 80 for index in range(4))  # four standard deviations


def test_ratings_go_to_the_completions_that_were_rated() -> None:
    session = RankingSession(ITEMS, "Ada")
    item = session.current
    assert item is not None
    saved = session.rate([7, 1, 4, 4])
    assert [(saved.ratings or [])[index] for index in item.shown_order] == [7, 1, 4, 4]
    assert saved.kind == "rating" and saved.ranking[0] == [item.shown_order[0]] and len(saved.ranking) == 3


def test_progress_skip_undo_and_done() -> None:
    session = RankingSession(ITEMS[:2], "Ada")
    assert (session.progress, session.can_undo, session.done) == ((0, 2), False, False)
    session.submit([[0, 1, 2, 3]])
    session.skip()
    assert (session.progress, session.can_undo, session.done, session.current) == ((2, 2), True, True, None)
    for number in (1, 0):
        session.undo()
        item = session.current
        assert item is not None and item.prompt == f"Prompt {number}." and session.progress == (number, 2)
    assert current(session.records) == [] and len(session.records) == 4
    with pytest.raises(InputError, match="nothing to undo"):
        session.undo()


@pytest.mark.parametrize("ranking", [[], [[0], [1], [2]], [[0], [1], [2], [2]], [[0], [1], [2], [4]],
                                     [[0, 1, 2, 3], []], [0, 1, 2, 3], "0123", None])
def test_a_wrong_ranking_changes_nothing(ranking: Any) -> None:
    session = RankingSession(ITEMS, "Ada")
    with pytest.raises(InputError, match="each position 0 to 3 once"):
        session.submit(ranking)
    assert session.progress.done == 0 and session.records == []


@pytest.mark.parametrize("ratings", [[1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 8], [1.5, 2, 3, 4],
                                     [True, 2, 3, 4], "1234", None])
def test_wrong_ratings_change_nothing(ratings: Any) -> None:
    session = RankingSession(ITEMS, "Ada")
    with pytest.raises(InputError, match="1 to 7"):
        session.rate(ratings)
    assert session.progress.done == 0


def test_a_finished_session_says_so() -> None:
    session = RankingSession([], "Ada")
    assert session.done
    for act in (lambda: session.submit([[0], [1]]), session.skip, lambda: session.rate([1, 2])):
        with pytest.raises(InputError, match="are done"):
            act()


@pytest.mark.parametrize("items", [
    [("P", ["a", "b"])], (("P", ("a", "b")),), [["P", np.array(["a", "b"])]], (("P", list("ab")) for _ in range(1)),
    {"P": ["a", "b"]}.items(), [{"prompt": "P", "completions": ["a", "b"]}],
    [record("an earlier one")], [("P", (letter for letter in "ab"))]])
def test_items_of_a_clear_meaning_are_taken(items: Any) -> None:
    item = RankingSession(items, "Ada").current
    assert item is not None and (item.prompt, item.completions) == ("P", ["a", "b"])


def test_arrays_and_whole_floats_of_a_table_are_taken() -> None:
    groups: list[Any] = [[[np.int64(3)], [np.int64(0), 1, 2]], np.array([[3], [0], [1], [2]]), ((3,), (0, 1), (2,))]
    for given_groups in groups:
        saved = RankingSession(ITEMS, "Ada").submit(given_groups)
        assert saved.ranking[0] == [saved.shown_order[3]] and json.loads(saved.to_line())
    for points in (np.array([7, 1, 4, 4]), [7.0, 1.0, 4.0, 4.0], np.array([7, 1, 4, 4.0]), (7, 1, 4, np.int8(4))):
        saved = RankingSession(ITEMS, "Ada").rate(points)  # type: ignore[arg-type]
        assert saved.ratings is not None and [saved.ratings[index] for index in saved.shown_order] == [7, 1, 4, 4]
        assert all(type(rating) is int for rating in saved.ratings)
    assert ranking_from_ratings(np.array([4, 7])) == [[1], [0]]  # type: ignore[arg-type]
    assert record("r", completions=np.array(["a", "b"]), shown_order=np.array([1, 0])).shown_order == [1, 0]


@pytest.mark.parametrize("call", [current, to_pairs, to_dataset, agreement, chronological, unique_by_id,
                                  lambda records: save_rankings(records, "never written")])
@pytest.mark.parametrize("given_instead, told", [
    ("my.jsonl", "one text, 'my.jsonl'"), (json.loads(record("r").to_line()), "a dict with the keys 'schema_version'"),
    (record("r"), "Ranking("), (None, "None"), (7, "7"), ([3], "3"), (["my.jsonl"], "my.jsonl"),
    ([{"prompt": "P"}], ""), ({"a": record("r")}.keys(), "a"), (np.array(3), "array(3)")])
def test_what_is_no_list_of_records_is_named_in_one_line(call: Any, given_instead: Any, told: str) -> None:
    with pytest.raises(InputError) as error:
        call(given_instead)
    assert told in str(error.value) and len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300


@pytest.mark.parametrize("items, named", [
    ([("P", "abc")], "completions is one text, 'abc'"), (("P", ["a", "b"]), "item 0 is 'P'"), ("PQ", "one text"),
    ({"P": ["a", "b"]}, "a dict with the keys 'P'"), ([("P", {"sft": "a", "ppo": "b"})], "the keys 'sft', 'ppo'"),
    ([{"prompt": "P", "answers": ["a", "b"]}], "the keys ['prompt', 'answers']"), (["ab"], "item 0 is 'ab'"),
    ([("P", {"a", "b"})], "a set, which has no order"), (None, "items is None"), ([("P", ["a", None])], "is None"),
    ([("P", "a", "b")], "give (prompt, completions)"), ([("P", ["a", float("nan")])], "completions[1] is nan"),
    ([("P", ["a"])], "item 0 has 1 completions"), ([("P", list("abcdefghij"))], "item 0 has 10"),
    ([(1, ["a", "b"])], "item 0 is not text"),
    ([("P", ["a", "b"]), ("P", ["b", "a"])], "item 1 is given twice"),
])
def test_items_are_checked(items: Any, named: str) -> None:
    with pytest.raises(InputError) as error:
        RankingSession(items, "Ada")
    assert named in str(error.value) and len(str(error.value)) < 250


def test_the_session_needs_a_name_and_its_own_store(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="give a RankingStore"):
        RankingSession(ITEMS, "Ada", str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a name"):
        RankingSession(ITEMS, " ")
    with pytest.raises(InputError, match="as the store does"):
        RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ben"))
    with pytest.raises(InputError, match="session is 5: give a text"):  # before anybody has judged in it
        RankingSession(ITEMS, "Ada", session=5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match='"seconds" is a huge number'):
        Ranking(id="1", kind="skip", prompt="P.", completions=["a", "b"], annotator="Ada", seconds=10**5000)


def test_a_new_session_resumes_where_the_annotator_stopped_and_undoes_further_back(tmp_path: Any) -> None:
    ada = RankingStore(tmp_path, "Ada")
    before = RankingSession(ITEMS, "Ada", ada, seed=5)
    before.submit([[0], [1], [2], [3]])
    before.skip()
    shown = before.current

    after = RankingSession(ITEMS, "Ada", ada, seed=5)
    assert after.current == shown and after.progress == (2, 4) and after.session != before.session
    assert RankingSession(ITEMS, "Ben", RankingStore(tmp_path, "Ben")).progress == (0, 4)
    after.undo()
    after.undo()
    assert after.progress == (0, 4) and after.current is not None and after.current.prompt == "Prompt 0."
    assert current(ada.records()) == [] and RankingSession(ITEMS, "Ada", ada).progress == (0, 4)


def test_undo_goes_to_the_latest_act_even_if_an_earlier_item_waits(tmp_path: Any) -> None:
    ada = RankingStore(tmp_path, "Ada")
    before = RankingSession(ITEMS[2:], "Ada", ada)
    before.skip()
    before.skip()
    session = RankingSession(ITEMS, "Ada", ada)
    visited = [session.current]
    session.undo()
    for _ in range(2):
        visited.append(session.current)
        session.skip()
    assert [item and item.prompt for item in visited] == ["Prompt 0.", "Prompt 3.", "Prompt 0."]


def clock(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    monkeypatch.setattr("rlhf_mini.rankings.session.timestamp_now", lambda: f"{year}-01-01T00:00:00.000000+00:00")


@pytest.mark.parametrize("years", [(2031, 2030, 2030), (2030, 2031, 2030), (2031, 2030, 2029), (2030, 2030, 2030)])
def test_undo_goes_back_in_the_order_of_writing_whatever_the_clocks_said(
        tmp_path: Any, monkeypatch: pytest.MonkeyPatch, years: tuple[int, ...]) -> None:
    for year in years:
        clock(monkeypatch, year)
        RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada")).submit([[0], [1], [2], [3]])
    records = RankingStore(tmp_path, "Ben").records()
    assert [act.prompt for act in records] == [f"Prompt {number}." for number in range(3)]
    save_rankings(records[::-1], tmp_path / "pooled")
    assert current(load_rankings(tmp_path / "pooled")) == records
    session = RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada"))
    for number in (2, 1, 0):
        session.undo()
        assert session.current is not None and session.current.prompt == f"Prompt {number}."


def test_two_sessions_at_the_same_time_keep_the_order_of_writing(
        tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 2031)
    RankingSession(ITEMS[:1], "Ada", RankingStore(tmp_path, "Ada")).skip()
    clock(monkeypatch, 2030)
    one, other = (RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada")) for _ in range(2))
    written = [session.submit([[0], [1], [2], [3]]) for session in (one, other, other, one, one, other)]
    records = RankingStore(tmp_path, "Ben").records()
    assert records[1:] == written and len({act.timestamp for act in records}) == len(records)
    latest = {act.prompt: act for act in written}
    assert {act.prompt: act for act in current(records)[1:]} == latest
    session = RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada"))
    assert session.undo().undoes == written[-1].id


def test_a_record_without_a_time_is_appended_after_the_latest_one(tmp_path: Any) -> None:
    store = RankingStore(tmp_path, "Ada")
    late = store.append(record("late", timestamp="2999-12-31T23:59:59.999999-02:00", session="z"))
    act = {"prompt": "P", "completions": ["a", "b"], "ranking": [[1], [0]], "session": "a"}
    ben = RankingStore(tmp_path, "Ben").append(act)
    after = store.append(act)
    assert after.timestamp == "3000-01-01T02:00:00.000000+00:00" and ben.timestamp < "2999"
    assert current(store.records())[-1] == after and current([after, late]) == [after]
    store.append(record("last", timestamp="9999-12-31T23:59:59.999999+00:00"))
    assert store.append(act).timestamp  # there is no later one


def test_after_an_undo_an_older_answer_holds_until_the_item_is_judged_again(tmp_path: Any) -> None:
    """Two sessions at the same time have judged the same item."""
    sessions = [RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada")) for _ in range(2)]
    first, second = (session.submit([[0], [1], [2], [3]]) for session in sessions)
    session = RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada"))
    for holds in ([second], [first], []):
        assert current(RankingStore(tmp_path, "Ada").records()) == holds
        assert session.progress.done == len(holds) and session.can_undo == bool(holds)
        if holds:
            session.undo()
            assert session.current is not None and session.current.prompt == "Prompt 0."


def test_the_time_starts_when_the_item_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rlhf_mini.rankings.session.time.monotonic", lambda: now[0])
    session = RankingSession(ITEMS, "Ada")
    now[0] = 500.0
    assert session.current and session.current
    now[0] = 502.5
    assert session.skip().seconds == 2.5
    assert session.skip().seconds == 0.0  # nobody looked


def test_what_is_not_saved_is_not_done(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = RankingSession(ITEMS, "Ada", RankingStore(tmp_path, "Ada"))
    session.skip()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("rlhf_mini.files.os.write", full)
        for act in (session.skip, session.undo):
            with pytest.raises(NotSavedError, match=r"not saved.*No space left on device"):
                act()
    assert session.progress == (1, 4) and len(session.records) == 1
    session.undo()
    assert session.progress == (0, 4)


def longest_first(prompt: str, shown: list[str]) -> list[list[int]]:
    return [[position] for position in sorted(range(len(shown)), key=lambda position: (len(shown[position]),
                                                                                     shown[position]))]


def untimed(records: list[Ranking]) -> list[dict[str, Any]]:
    return [{**json.loads(act.to_line()), "timestamp": ""} for act in records]


def test_a_simulated_annotator_drives_the_session_and_can_be_repeated(tmp_path: Any) -> None:
    def simulate(folder: str, stop_at: int = 4) -> list[dict[str, Any]]:
        store = RankingStore(tmp_path / folder, "simulated Ada")
        session = RankingSession(ITEMS[:stop_at], "simulated Ada", store, seed=7, simulated=True)
        answer(session, longest_first)
        assert session.done
        return untimed(store.records())

    whole = simulate("whole")
    assert [act["ranking"] for act in whole] == [[[0], [1], [2], [3]]] * 4
    assert all("simulated" in act["session"] and act["seconds"] == 0 for act in whole)
    assert simulate("again") == whole
    assert simulate("in parts", stop_at=2) == whole[:2] and simulate("in parts") == whole


def test_ids_of_a_simulation_differ_after_an_undo() -> None:
    session = RankingSession(ITEMS, "simulated Ada", seed=7, simulated=True)
    once = session.skip()
    session.undo()
    assert len({once.id, session.skip().id, session.records[1].id}) == 3


def test_a_light_import() -> None:
    """Neither torch nor datasets, and well under half a second."""
    code = ("import sys, time; start = time.perf_counter(); import rlhf_mini.rankings; "
            "print(time.perf_counter() - start, *sys.modules)")
    seconds, *modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                       check=True).stdout.split()
    assert not {"torch", "numpy", "datasets", "transformers", "matplotlib"} & set(modules)
    assert float(seconds) < 0.5
