"""Whatever is in a ranking file: what is whole loads, what is not is named, nothing is made up, nothing crashes."""

from __future__ import annotations

import json
import tempfile
import uuid
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf_mini.errors import InputError, shown
from rlhf_mini.rankings import Ranking, RankingFileWarning, RankingSession, RankingStore, load_rankings

EXAMPLES = settings(max_examples=300, deadline=None)


def record(number: int, **fields: Any) -> Ranking:
    usual: dict[str, Any] = {
        "id": str(uuid.UUID(int=number)), "prompt": f"P{number}\n\u2028é", "completions": ["a", "b\r", "c\0"],
        "shown_order": [2, 0, 1], "ranking": [[1], [0, 2]], "annotator": "Ada", "session": "one",
        "timestamp": f"2026-01-0{number % 9 + 1}T00:00:00+00:00", "seconds": 1.5}
    return Ranking.from_mapping(usual | fields)


WRITTEN = [record(1), record(2, kind="skip", ranking=[]),
           record(3, kind="rating", ranking=None, ratings=[7, 1, 7]),
           record(4, kind="undo", ranking=[], undoes=str(uuid.UUID(int=1))), record(5, note={"deep": [1, None]})]
LINES = [written.to_line() for written in WRITTEN]

# Raw JSON for a field's value
NASTY = [b"NaN", b"-Infinity", b"1e999", b"1" + b"0" * 400, b"9" * 5000, b"-0.0", b"1e308", b"true", b"null", b"[]",
         b"{}", b"[[0],[1],[2]]", b"[[[0]]]", b"[[0,1,2]]", b"[0.0,1,2]", b"[true,0,2]", b"[null]", b"[[]]", b'""',
         b'"\\ud83d"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"a\\nb"', b'"CON"', b'"../x"', b'"1"',
         b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59-23:59"', b'"2026-02-30"', b'"2026-01-01T00:00:00"',
         b'"20260101T00Z"', b'"2026-W01-1"', b'"NaN"', b'"' + b"x" * 70_000 + b'"',
         *(b"[" * depth + b"]" * depth for depth in (50, 300, 900, 985, 2000, 100_000)),
         *(b'{"a":' * depth + b"1" + b"}" * depth for depth in (50, 300, 900, 985, 2000, 100_000))]
FIELDS = [*(name.encode() for name in json.loads(LINES[2])), b"undoes", b"extra", b"other", b"\\u0069d", b""]


def with_field(line: bytes, name: bytes, value: bytes, first: bool) -> bytes:
    """The line's object with one field more, which may be there twice then."""
    inner, field = line.strip()[1:-1], b'"' + name + b'": ' + value
    return b"{" + (field + b", " + inner if first else inner + b", " + field) + b"}\n"


ODD_LINES = st.one_of(
    st.builds(with_field, st.sampled_from(LINES), st.sampled_from(FIELDS), st.sampled_from(NASTY), st.booleans()),
    st.sampled_from(NASTY).map(lambda value: value + b"\n"),
    st.sampled_from([b"\xef\xbb\xbf" + LINES[0], LINES[1].rstrip() + b"\r\n", b"  " + LINES[2], b"\x0c\n", b"\x85\n",
                     LINES[0].rstrip() + LINES[1], b"[" + LINES[1].rstrip() + b"]\n", b"//\n", b"\0" * 512,
                     LINES[3].decode().encode("utf-16"), LINES[4].replace(b", ", b"\r"), b"{}\n", b"\x1a\n"]),
    st.binary(max_size=40))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file of good lines, some of them twice, with odd lines between them and a few wounds."""
    parts = draw(st.lists(st.one_of(st.sampled_from(LINES), ODD_LINES), min_size=1, max_size=7))
    content = b"".join(parts)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["flip", "remove", "insert", "cut", "repeat"])):
            case "flip" if place < len(content):
                changed = content[place] ^ 1 << draw(st.integers(0, 7))
                content = content[:place] + bytes([changed]) + content[place + 1:]
            case "remove":
                content = content[:place] + content[place + draw(st.integers(1, 600)):]
            case "insert":
                content = content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
            case "cut":
                content = content[:place]
            case "repeat":
                content = content[:place] + content[max(0, place - draw(st.integers(1, 600))):]
    return content


def read(folder: Path) -> tuple[list[Ranking], list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        records = RankingStore(folder, "reader").records()
    assert all(warning.category is RankingFileWarning for warning in seen), seen
    return records, [str(warning.message) for warning in seen]


def fields_of(line: bytes) -> dict[str, Any]:
    """What a line says, by Python's own reader; nothing where it says nothing."""
    try:
        found = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def says(fields: dict[str, Any], found: Ranking) -> bool:
    """Whether a record is what the fields of a line say; a field that is null or missing has its usual value."""
    known = {name: value for name, value in vars(found).items() if name != "extra"}
    told = {name: value for name, value in fields.items() if value is not None}
    derived = {"ranking"} if found.kind == "rating" else set()
    extra = {name: value for name, value in fields.items() if name not in known}
    return (all(known[name] == told[name] for name in told.keys() & known.keys() - derived)
            and {"id", "annotator"} <= told.keys() and found.extra == extra)


def check(content: bytes) -> None:
    lines = content.split(b"\n")
    objects = [fields_of(line) for line in lines]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "any.jsonl").write_bytes(content)
        whole = RankingStore(folder, "Ben").append(record(99, annotator="Ben"))
        records, told = read(folder)
        assert load(folder / "any.jsonl") <= {found.id for found in records}
    ids = Counter(found.id for found in records)
    assert max(ids.values()) == 1 and whole in records
    for found in records:  # nothing is made up
        assert found == whole or any(says(fields, found) for fields in objects if fields.get("id") == found.id), found
    for good, line in zip(WRITTEN, LINES, strict=True):  # what is whole loads
        if line.rstrip() in lines:
            assert good.id in ids
            others = [fields for fields in objects if fields.get("id") == good.id and fields != json.loads(line)]
            assert good in records or others
    for number, (line, fields) in enumerate(zip(lines, objects, strict=True), start=1):  # what is not is named
        if line.strip() and not any(says(fields, found) for found in records if found.id == fields.get("id")):
            names = f"any.jsonl, line {number} ", f"have the id {shown(fields.get('id'))}"
            assert any(name in words for words in told for name in names), (number, told)


def load(path: Path) -> set[str]:
    """The ids that `load_rankings` finds; InputError, in one line, is all that it may raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RankingFileWarning)
        try:
            return {found.id for found in load_rankings(path)}
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and str(error).isprintable() and str(path) in str(error)
            return set()


@EXAMPLES
@given(st.one_of(st.binary(max_size=400), st.text(alphabet='{}[]",:\\0eN\n\r\0 ', max_size=80).map(str.encode)))
def test_any_bytes_are_read_without_a_crash(content: bytes) -> None:
    check(content)


@EXAMPLES
@given(damaged())
@example(b"".join(LINES))
@example(LINES[0].replace(b"P1", b"P7") + LINES[0])
def test_damage_is_named_and_harms_no_whole_line(content: bytes) -> None:
    check(content)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(LINES), st.sampled_from(FIELDS), st.sampled_from(NASTY), st.booleans())
def test_a_nasty_value_in_any_field_harms_no_other_line(line: bytes, name: bytes, value: bytes, first: bool) -> None:
    odd = with_field(line, name, value, first)
    check(LINES[0] + odd + odd + line + LINES[4])


@EXAMPLES
@given(damaged())
def test_a_session_goes_on_in_a_damaged_file(content: bytes) -> None:
    """Its next record is whole, and every record that was there before still is."""
    items = [(written.prompt, written.completions) for written in WRITTEN] + [("new", ["a", "b"])]
    with tempfile.TemporaryDirectory() as name:
        store = RankingStore(name, "Ada")
        store.path("one").write_bytes(content)
        before = read(Path(name))[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankingFileWarning)
            saved = RankingSession(items, "Ada", store, session="one").skip()
        after = {found.id: found for found in read(Path(name))[0]}
    assert after == {found.id: found for found in (*before, saved)}
