"""Preference data in and out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_mini.errors import InputError
from rlhf_mini.rankings import (
    Ranking,
    RankingFileWarning,
    from_dataset,
    load_preferences,
    split_conversations,
    to_dataset,
    to_pairs,
)

TALK = "\n\nHuman: Hello?\n\nAssistant: Yes.\n\nHuman: A tale, please.\n\nAssistant:"


def ranked(**values: Any) -> Ranking:
    return Ranking(**{"id": "1", "annotator": "Ada", "prompt": "Once.", "completions": ["a", "b", "c"],
                      "ranking": [[2], [0, 1]], **values})


def test_a_ranking_becomes_its_pairs_and_comes_back() -> None:
    dataset = to_dataset([ranked()])
    assert dataset.column_names == ["prompt", "chosen", "rejected"]
    assert dataset[:] == {"prompt": ["Once."] * 2, "chosen": [" c"] * 2, "rejected": [" a", " b"]}
    assert to_pairs(from_dataset(dataset, "Ada")) == to_pairs([ranked()])


def test_margin_is_points_where_rated_and_places_where_ranked() -> None:
    rated = ranked(id="2", kind="rating", ratings=[7, 2, 5], ranking=[], prompt="Twice.")
    dataset = to_dataset([ranked(ranking=[[2], [0], [1]]), rated], margin=True)
    found = {(row["prompt"], row["chosen"], row["rejected"]): row["margin"] for row in dataset}
    assert found == {("Once.", " c", " a"): 1, ("Once.", " c", " b"): 2, ("Once.", " a", " b"): 1,
                     ("Twice.", " a", " c"): 2, ("Twice.", " a", " b"): 5, ("Twice.", " c", " b"): 3}


def test_a_file_written_is_a_file_read(tmp_path: Path) -> None:
    to_dataset([ranked()]).to_json(tmp_path / "pairs.jsonl")
    assert to_pairs(load_preferences(tmp_path / "pairs.jsonl", "Ada")) == to_pairs([ranked()])


def test_nothing_but_ties_is_an_error() -> None:
    with pytest.raises(InputError, match="no pair"):
        to_dataset([ranked(ranking=[[0, 1, 2]])])


@pytest.mark.parametrize("zipped", [False, True])
def test_conversations_split_at_the_last_answer(tmp_path: Path, zipped: bool) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in (
        {"chosen": TALK + " Once upon a time.", "rejected": TALK + " No."},
        {"chosen": TALK + " Once.", "rejected": TALK + " Maybe.\n\nHuman: Please!\n\nAssistant: No."},
        {"chosen": "Hello", "rejected": "Good-bye"},
        {"chosen": TALK + " Same.", "rejected": TALK + " Same."},
        {"chosen": TALK},
    )) + "{not JSON\n"
    path = tmp_path / ("talk.jsonl.gz" if zipped else "talk.jsonl")
    path.write_bytes(gzip.compress(lines.encode()) if zipped else lines.encode())
    with pytest.warns(RankingFileWarning, match="5 of 6 rows cannot be used") as caught:
        records = load_preferences(path, "Ada")
    assert to_pairs(records) == [(TALK, "Once upon a time.", "No.")]
    for name in ("line 2: they differ before", "line 3: they share no", "line 4", "line 5", "line 6: it is not a line"):
        assert name in str(caught[0].message)


def test_the_same_data_twice_has_the_same_ids() -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2
    first, second = (from_dataset(rows, "Ada") for _ in range(2))
    assert [record.id for record in first] == [record.id for record in second]
    assert len({record.id for record in first}) == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\x1f\x8bbroken", b"[1]\n", b'{"chosen": 1}\n'])
def test_files_without_preferences_are_one_line_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_preferences(path, "Ada")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl"):
        load_preferences(tmp_path / "none.jsonl", "Ada")


@given(st.text(), st.text(), st.text())
def test_a_split_loses_nothing(shared: str, one: str, other: str) -> None:
    prompt = shared + "\n\nAssistant:"
    try:
        found = split_conversations(prompt + one, prompt + other)
    except InputError:
        return
    assert found[0] + found[1] == prompt + one
    assert found[0] + found[2] == prompt + other
