"""Preference data in and out."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
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
    with pytest.raises(InputError, match="space is 5: give a text"):
        to_dataset([ranked()], space=5)  # type: ignore[arg-type]


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
    path.write_bytes(gzip.compress(lines.encode(), mtime=0) if zipped else lines.encode())
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


# The shapes that rows have


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def says(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


SKY, BLUE, GREEN = user("Sky?"), says("Blue."), says("Green.")
CHAT = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Sky?\n\nAssistant:"


@pytest.mark.parametrize("row, prompt", [
    ({"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}, "Sky?"),
    ({"prompt": "Sky?", "chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}, "Sky?"),
    ({"prompt": "Sky?", "chosen": [BLUE], "rejected": [GREEN]}, "Sky?"),
    ({"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]}, "Sky?"),
    ({"prompt": [SKY], "chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}, "Sky?"),
    ({"prompt": [SKY], "chosen": "Blue.", "rejected": "Green."}, "Sky?"),
    ({"prompt": [user("Hi."), says("Hello."), SKY], "chosen": [BLUE], "rejected": [GREEN]}, CHAT),
    ({"chosen": [user("Hi."), says("Hello."), SKY, BLUE], "rejected": [user("Hi."), says("Hello."), SKY, GREEN]}, CHAT),
    ({"prompt": "Sky?", "chosen": CHAT + " Blue.", "rejected": CHAT + " Green."}, CHAT),
    ({"prompt": [{"role": "system", "content": "Be brief."}, SKY], "chosen": [BLUE], "rejected": [GREEN]},
     "Be brief.\n\nHuman: Sky?\n\nAssistant:"),
    ({"prompt": [{"from": "human", "value": "Sky?"}], "chosen": [{"from": "gpt", "value": "Blue."}],
      "rejected": [{"from": "gpt", "value": "Green."}]}, "Sky?"),
    ({"question": "Sky?", "response_chosen": "Blue.", "response_rejected": "Green."}, "Sky?"),
    ({"instruction": "Say", "input": "Sky?", "chosen": "Blue.", "rejected": "Green."}, "Say\nSky?"),
    ({"prompt": float("nan"), "chosen": CHAT + " Blue.", "rejected": CHAT + " Green."}, CHAT),
])
def test_rows_are_read_in_the_shapes_people_have(row: dict[str, Any], prompt: str) -> None:
    assert to_pairs(from_dataset([row], "Ada")) == [(prompt, "Blue.", "Green.")]


@pytest.mark.parametrize("row, told", [
    ({"chosen": [SKY, BLUE], "rejected": [user("Sea?"), GREEN]}, "do not differ in one last message"),
    ({"chosen": [SKY, BLUE], "rejected": [SKY, GREEN, user("No.")]}, "do not differ in one last message"),
    ({"chosen": [BLUE], "rejected": [GREEN]}, "there is no prompt"),
    ({"prompt": "Sea?", "chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}, '"prompt" is not in the messages'),
    ({"chosen": [SKY, {"role": "tool", "content": "x"}], "rejected": [SKY, GREEN]}, "'tool'"),
    ({"chosen": [SKY, {"role": ["x"], "content": "x"}], "rejected": [SKY, GREEN]}, "give messages"),
    ({"chosen": [SKY, says([]), ], "rejected": [SKY, GREEN]}, "give messages"),  # type: ignore[arg-type]
    ({"prompt": 3, "chosen": "a", "rejected": "b"}, '"prompt" is 3: give a text'),
    ({"prompt": "p", "chosen": [BLUE], "rejected": "b"}, '"chosen" is ['),
    ({"history": "Why?", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "'human_ref_A'"),
    ({"id": "1", "annotator": "Ada", "prompt": "p", "completions": ["a", "b"]}, "rankings.load_rankings"),
    ("text", "it is 'text', not a JSON object"),
])
def test_a_row_of_another_shape_is_named(row: Any, told: str) -> None:
    with pytest.raises(InputError) as error:
        from_dataset([row], "Ada")
    assert told in str(error.value) and len(str(error.value)) < 300


def test_a_prompt_that_answers_repeat_is_removed_where_most_rows_repeat_it() -> None:
    rows = [{"prompt": f"Q{i}:", "chosen": f"Q{i}: yes", "rejected": f"Q{i}: no"} for i in range(3)]
    assert to_pairs(from_dataset(rows, "Ada")) == [(f"Q{i}:", "yes", "no") for i in range(3)]
    others = [{"prompt": "I", "chosen": f"{i} am", "rejected": f"{i} was"} for i in range(3)]
    assert to_pairs(from_dataset([*others, {"prompt": "I", "chosen": "I am", "rejected": "I was"}], "Ada"))[-1] == (
        "I", "I am", "I was")


def test_one_empty_answer_does_not_change_how_the_other_rows_are_read() -> None:
    rows = [{"prompt": "p", "chosen": " a", "rejected": " b"}, {"prompt": "q", "chosen": " c", "rejected": ""}]
    assert to_pairs(from_dataset(rows, "Ada")) == [("p", "a", "b"), ("q", "c", "")]
    assert [record.id for record in from_dataset(rows[:1], "Ada")] == [from_dataset(rows, "Ada")[0].id]


ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_tables_are_read_and_what_is_none_is_named_with_what_to_give() -> None:
    for several in (Dataset.from_list([ROW]), Dataset.from_list([ROW]).to_pandas(), (ROW,), iter([ROW])):
        assert to_pairs(from_dataset(several, "Ada")) == [("p", "a", "b")]
    messages = Dataset.from_list([{"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}]).to_pandas()
    assert to_pairs(from_dataset(messages, "Ada")) == [("Sky?", "Blue.", "Green.")]
    wrong: dict[str, Any] = {
        "give one of them": DatasetDict(train=Dataset.from_list([ROW])), "is one row with the keys": ROW,
        "datasets.Dataset.from_dict": {name: [text] for name, text in ROW.items()},
        "load_preferences(file": "pairs.jsonl", "the dataset is None": None, "the dataset is 3": 3}
    for told, given_instead in wrong.items():
        with pytest.raises(InputError) as error:
            from_dataset(given_instead, "Ada")
        assert told in str(error.value)
    with pytest.raises(InputError, match="annotator is 3"):
        from_dataset([ROW], 3)  # type: ignore[arg-type]


# Files


@pytest.mark.parametrize("content", [
    json.dumps([ROW]).encode(), json.dumps([ROW], indent=2).encode(), b"\n " + json.dumps([ROW]).encode(),
    (json.dumps(ROW) + "\r\n").encode("utf-16"), b"\xff\xfe" + json.dumps(ROW).encode("utf-16-le"),
    json.dumps([ROW]).encode("utf-16"), json.dumps(ROW).encode("utf-32"), json.dumps(ROW).encode("utf-8-sig"),
    gzip.compress(json.dumps([ROW]).encode("utf-16"), mtime=0)])
def test_arrays_and_other_encodings_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert to_pairs(load_preferences(tmp_path / "file", "Ada")) == [("p", "a", "b")]


@pytest.mark.parametrize("name, content, told", [
    ("a.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ("a.parquet", b"PAR1\x15\x04", "from_dataset(pandas.read_parquet(file), annotator)"),
    ("a.csv", b"prompt,chosen,rejected\nx,a,b\n", "from_dataset(pandas.read_csv(file), annotator)"),
    ("a.zip", b"PK\3\4", "unpack it"), ("a", gzip.compress(b"PK\3\4", mtime=0), "unpack it"),
    ("a", json.dumps({"prompt": "天", "chosen": "蓝", "rejected": "绿"}, ensure_ascii=False).encode("gb18030"),
     "save it as UTF-8"),
    ("a", b"[" * 100_000, "not one whole JSON array"), ("a", b'[{"prompt": "p"', "not one whole JSON array"),
    ("a", b'{"data": [{"prompt": "p"}]}', "'data'"), ("a", gzip.compress(b"x" * 5000, mtime=0)[:-9], "cannot be read"),
])
def test_other_formats_are_named_with_what_reads_them(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        load_preferences(tmp_path / name, "Ada")
    assert told in str(error.value) and str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("path", ["", "\0", b"x", None, 3, ["a", "b"], "\ud83d", "n" * 300])
def test_what_is_no_path_is_named(path: Any) -> None:
    with pytest.raises(InputError):
        load_preferences(path, "Ada")


def test_a_file_above_a_limit_is_not_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content unpacks to a thousand times its size."""
    row = json.dumps(ROW).encode() + b"\n"
    contents = {"one line": b" " * 3_000_000, "blank lines": b"\n" * 3_000_000, "rows": row * 50_000,
                "an array": b"[" + row + b", " * 3_000_000, "long rows": (b" " * 1999 + row) * 2000}
    for name, value in {"LONGEST_LINE": 10_000, "LONGEST_ARRAY": 20_000, "MOST_LINES": 30_000,
                        "MOST_TEXT": 1_000_000}.items():
        monkeypatch.setattr(f"rlhf_mini.rankings.reading.{name}", value)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(gzip.compress(content, mtime=0))
        with pytest.raises(InputError, match=r"is too large: .* in all|at most 20,000 char"):
            load_preferences(tmp_path / name, "Ada")
    monkeypatch.setattr("rlhf_mini.rankings.interchange.MOST_ROWS", 100)
    with pytest.raises(InputError, match="more than 100 rows"):
        from_dataset((ROW for _ in iter(int, 1)), "Ada")  # without an end


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes with names there")
def test_a_pipe_or_a_device_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, told in ((tmp_path / "pipe.jsonl", "it is a pipe"), (tmp_path, "it is a folder"),
                       (Path("/dev/null"), "it is a device")):
        with pytest.raises(InputError, match=told):
            load_preferences(path, "Ada")


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(
        [CHAT, CHAT + " x", "p", "pa", " p", "user", "assistant"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "x"]), inner, max_size=3), max_leaves=6)
ODD_ROWS = VALUES | st.dictionaries(st.sampled_from([*ROW, "question", "input", "annotator", "completions", "x"]),
                                    VALUES, max_size=4)


def read_or_refuse(call: Any) -> list[Ranking]:
    """The rankings; InputError, in one line that a terminal can show, is all that may be raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RankingFileWarning)
        try:
            return list(call())
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and "\x1b" not in str(error)
            return []


@settings(max_examples=60, deadline=None)
@given(st.lists(ODD_ROWS, max_size=4), st.integers(0, 4))
def test_odd_rows_do_not_change_what_a_good_row_says(odd: list[Any], place: int) -> None:
    good = {"prompt": "Once.", "chosen": "a\u2028", "rejected": "b\x1b"}
    found = read_or_refuse(lambda: from_dataset([*odd[:place], good, *odd[place:]], "Ada"))
    assert ("Once.", "a\u2028", "b\x1b") in to_pairs(found)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | st.lists(ODD_ROWS, max_size=3).map(lambda rows: json.dumps(rows).encode()),
       st.sampled_from([b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"[", b"{", b"PAR1"]),
       st.booleans())
def test_any_bytes_are_preferences_or_one_line(content: bytes, start: bytes, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any"
        path.write_bytes(gzip.compress(start + content, mtime=0) if packed else start + content)
        read_or_refuse(lambda: load_preferences(path, "Ada"))


TEXTS = st.text(alphabet="ab \n\u2028é", max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda row: row[1] != row[2]), min_size=1, max_size=5))
def test_pairs_written_are_pairs_read(rows: list[tuple[str, str, str]]) -> None:
    records = [ranked(id=str(number), prompt=f"P{number}{prompt}", completions=[chosen, rejected], ranking=[[0], [1]])
               for number, (prompt, chosen, rejected) in enumerate(rows)]
    assert to_pairs(from_dataset(to_dataset(records), "Ada")) == to_pairs(records)
