"""The ranking store: what was acknowledged is there, what is damaged is named, nothing is made up."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_mini import disk
from rlhf_mini.errors import InputError
from rlhf_mini.rankings import (
    NotSavedError,
    Ranking,
    RankingFileWarning,
    RankingStore,
    load_rankings,
    merge,
    save_rankings,
)
from rlhf_mini.rankings.durable import read_lines

NAMES = ["Ada", "Ада", "阿達", "../../etc/passwd", "a/b\\c:*?", "\n", "x" * 5000, "CON", "é", "e\u0301", ".",
         "\ud83d"]


def mapping(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": str(uuid.UUID(int=number)), "prompt": f"P{number}", "completions": ["a", "b"],
            "ranking": [[0], [1]], "session": "one", **fields}


def lines(count: int) -> list[bytes]:
    return [Ranking.from_mapping(mapping(number, annotator="Ada")).to_line() for number in range(count)]


def ids(records: list[Ranking]) -> list[int]:
    return [uuid.UUID(record.id).int for record in records]


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.jsonl")
    return path


# Appending and reading


def test_append_fills_in_what_is_missing_and_all_annotators_are_read(tmp_path: Path) -> None:
    ada, ben = RankingStore(tmp_path / "new" / "folder", "Ada"), RankingStore(tmp_path / "new/folder", "Ben")
    assert ada.records() == []
    stored = ada.append({"prompt": "P", "completions": ["a", "b"], "ranking": [[1], [0]], "session": "s"})
    assert stored.annotator == "Ada" and uuid.UUID(stored.id) and stored.time is not None
    other = ben.append(Ranking(id="2", prompt="P", completions=["a", "b"], kind="skip", annotator="Ben"))
    assert set(ada.records()) == set(ben.records()) == {stored, other}


def test_one_file_for_each_annotator_and_session(tmp_path: Path) -> None:
    for name in ("Ada", "Ben"):
        for session in ("one", "two", "one"):
            RankingStore(tmp_path, name).append({**mapping(), "id": str(uuid.uuid4()), "session": session})
    assert sorted(len(read_lines(path)[0]) for path in tmp_path.iterdir()) == [1, 1, 2, 2]


@pytest.mark.parametrize("name", [name for name in NAMES if name.strip()])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "rankings"
    RankingStore(folder, name).append(mapping(session=name))
    assert [path.parent for path in tmp_path.rglob("*.jsonl")] == [folder]
    assert only_file(folder).name.isascii() and only_file(folder).stem.replace("-", "").isalnum()
    (found,) = RankingStore(folder, "another").records()
    assert found.annotator == found.session == name


def test_names_have_files_of_their_own(tmp_path: Path) -> None:
    assert len({RankingStore(tmp_path, name).path("") for name in NAMES if name.strip()}) == len(NAMES) - 1


@pytest.mark.parametrize("name", ["", " \n", None, 3])
def test_a_store_needs_a_name(tmp_path: Path, name: Any) -> None:
    with pytest.raises(InputError, match="give a name"):
        RankingStore(tmp_path, name)


def test_a_store_takes_only_good_records_of_its_annotator(tmp_path: Path) -> None:
    store = RankingStore(tmp_path, "Ada")
    for wrong in ({"annotator": "Ben"}, {"ranking": [[0]]}, {"note": {1, 2}}, {"note": float("nan")}):
        with pytest.raises(InputError):
            store.append(mapping() | wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_same_id_counts_once_in_all_files(tmp_path: Path) -> None:
    store = RankingStore(tmp_path, "Ada")
    for _ in range(2):
        store.append(mapping(1, timestamp="2026-01-01T00:00:00Z"))
    (tmp_path / "copy.jsonl").write_bytes(only_file(tmp_path).read_bytes())
    assert ids(store.records()) == [1]


# Durability


Calls = list[tuple[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was written and synced, in order, with the kind of thing it was done to."""
    seen: Calls = []

    def spied(name: str) -> Any:
        real = getattr(os, name)

        def call(file: int, *rest: Any) -> Any:
            seen.append((name, "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"))
            return real(file, *rest)
        return call

    for name in ("write", "fsync"):
        monkeypatch.setattr(f"rlhf_mini.files.os.{name}", spied(name))
    return seen


def test_append_returns_after_folder_and_file_are_synced(tmp_path: Path, calls: Calls) -> None:
    """The folder first: where the name cannot be kept, nothing is written."""
    store = RankingStore(tmp_path, "Ada")
    store.append(mapping(0))
    calls.clear()
    store.append(mapping(1))
    assert calls == [("fsync", "folder"), ("write", "file"), ("fsync", "file")]


def test_every_folder_above_is_synced_once_whoever_made_it(tmp_path: Path, calls: Calls) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    RankingStore(folder, "Ada").append(mapping())
    assert calls == [("fsync", "folder")] * (len(folder.parents) + 1) + [("write", "file"), ("fsync", "file")]


def test_a_folder_that_cannot_be_synced_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RankingStore(tmp_path, "Ada")
    store.append(mapping(0))

    def refused(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken, pytest.raises(NotSavedError):
        broken.setattr("rlhf_mini.disk.sync_folder", refused)
        store.append(mapping(1))
    assert ids(store.records()) == [0]


def test_a_read_only_disk_above_the_folder_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def read_only(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EROFS, "Read-only file system")
        real(file)

    monkeypatch.setattr("rlhf_mini.files.os.fsync", read_only)
    store = RankingStore(tmp_path / "new", "Ada")
    store.append(mapping(0))
    assert ids(store.records()) == [0]


def test_a_batch_is_synced_before_it_returns(tmp_path: Path, calls: Calls) -> None:
    store = RankingStore(tmp_path, "Ada")
    with pytest.raises(KeyboardInterrupt), store.batch():
        for number in range(5):
            store.append(mapping(number))
        raise KeyboardInterrupt
    assert calls[-7:] == [("write", "file")] * 5 + [("fsync", "file"), ("fsync", "folder")]
    assert ids(store.records()) == [0, 1, 2, 3, 4]
    calls.clear()
    store.append(mapping(5))
    assert ("fsync", "file") in calls


WRITER = """
import os, sys, uuid
from rlhf_mini.rankings import RankingStore
store = RankingStore(sys.argv[1], sys.argv[2])
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    record = store.append({"prompt": "P", "completions": ["a" * 500, "b"], "kind": "skip", "session": "s"})
    os.write(1, (record.id + "\\n").encode())
"""


def start_writer(folder: Path, annotator: str, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(folder), annotator, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.faults)])
def test_records_acknowledged_before_a_kill_are_there(tmp_path: Path, rounds: int) -> None:
    """Writers of the same file, four at a time, killed at random moments."""
    acknowledged: list[str] = []
    moment = random.Random(0)
    for _ in range(rounds):
        writers = [start_writer(tmp_path, "Ada", 10_000) for _ in range(4)]
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            acknowledged.append(writer.stdout.readline().decode().strip())
        for writer in writers:
            time.sleep(moment.uniform(0, 0.02))
            writer.kill()
        for writer in writers:
            assert writer.stdout is not None
            acknowledged += writer.stdout.read().decode().splitlines()
            writer.communicate()
    RankingStore(tmp_path, "Ada").append(mapping(0, session="s"))  # repairs the line that a kill tore
    with warnings.catch_warnings(record=True) as torn:
        warnings.simplefilter("always")
        found = [record.id for record in RankingStore(tmp_path, "Ben").records()]
    assert torn == [] and len(found) == len(set(found))
    assert len(acknowledged) > 4 * rounds and set(acknowledged) <= set(found)
    assert len(found) <= len(acknowledged) + 4 * rounds + 1  # each kill may fall between the sync and the word


@pytest.mark.parametrize("names", [("Ada", "Ben"), ("Ada", "Ada")])
def test_two_writers_lose_nothing(tmp_path: Path, names: tuple[str, str]) -> None:
    writers = [start_writer(tmp_path, name, 150) for name in names]
    reader = RankingStore(tmp_path, "reader")
    while any(writer.poll() is None for writer in writers):
        reader.records()  # a line that is half-written now would be an error here
    told = [line for writer in writers for line in writer.communicate()[0].decode().split()[1:]]
    assert len(told) == 300 and sorted(told) == sorted(record.id for record in reader.records())


@pytest.mark.skipif(os.name == "nt", reason="files are not locked there")
def test_a_reader_waits_for_a_line_that_is_half_written(tmp_path: Path) -> None:
    import fcntl

    (line,) = lines(1)
    with (tmp_path / "busy.jsonl").open("wb", buffering=0) as file, ThreadPoolExecutor(1) as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line[:20])
        reading = other.submit(RankingStore(tmp_path, "Ada").records)
        time.sleep(0.05)
        file.write(line[20:])
        fcntl.flock(file, fcntl.LOCK_UN)
        assert ids(reading.result()) == [0]  # and no warning


# When writing fails


def broken(monkeypatch: pytest.MonkeyPatch, name: str, after: int = 0) -> None:
    """Let the disk fill: os.write stores `after` bytes more, or the sync fails."""
    real_write, left = os.write, [after]

    def write(file: int, content: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real_write(file, content[:left[0]])
        left[0] -= written
        return written

    def fsync(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk.os, name, {"write": write, "fsync": fsync}[name])


@pytest.mark.parametrize("name, after", [("write", 0), ("write", 40), ("fsync", 0)])
def test_a_full_disk_is_reported_at_once_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       name: str, after: int) -> None:
    store = RankingStore(tmp_path, "Ada")
    store.append(mapping(1))
    before = only_file(tmp_path).read_bytes()
    with monkeypatch.context() as full:
        broken(full, name, after)
        with pytest.raises(NotSavedError, match=r"^not saved: .* cannot be written \(.*\); what was saved") as error:
            store.append(mapping(2))
    assert isinstance(error.value, OSError) and error.value.errno in (errno.ENOSPC, errno.EIO)
    assert only_file(tmp_path).read_bytes() == before
    store.append(mapping(2))
    assert ids(store.records()) == [1, 2]


def test_if_the_file_cannot_even_be_restored_the_next_record_is_whole(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ftruncate(file: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = RankingStore(tmp_path, "Ada")
    store.append(mapping(1))
    with monkeypatch.context() as full:
        broken(full, "write", 40)
        full.setattr(disk.os, "ftruncate", ftruncate)
        with pytest.raises(NotSavedError):
            store.append(mapping(2))
    with pytest.warns(RankingFileWarning, match="cut off"):
        store.append(mapping(3))
    assert ids(store.records()) == [1, 3]


def test_a_batch_that_cannot_be_synced_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RankingStore(tmp_path, "Ada")
    broken(monkeypatch, "fsync")
    with pytest.raises(NotSavedError), store.batch():
        store.append(mapping(1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RankingStore(tmp_path, "Ada")
    monkeypatch.setattr(os, "O_NOFOLLOW", 0)  # else a link to the device is refused as a link
    store.path("one").symlink_to("/dev/full")
    with pytest.raises(NotSavedError, match="No space left"):
        store.append(mapping(1))


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotSavedError, match="not saved"):
            RankingStore(folder, "Ada").append(mapping(1))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.name == "nt", reason="folders have other permissions there")
def test_a_read_only_folder(tmp_path: Path) -> None:
    """In a process without root's rights, for whom no folder is read-only."""
    RankingStore(tmp_path, "Ada").append(mapping(1, session="earlier"))
    code = """
import os, sys
from rlhf_mini.rankings import RankingStore
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)
store = RankingStore(".", "Ada")
print(len(store.records()))
try:
    store.append({"prompt": "P", "completions": ["a", "b"], "ranking": [[0, 1]], "session": "new"})
except OSError as error:
    print(error)
"""
    tmp_path.chmod(0o555)
    try:
        told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    finally:
        tmp_path.chmod(0o755)
    assert told.returncode == 0, told.stderr
    count, message = told.stdout.splitlines()
    assert count == "1" and message.startswith("not saved: ") and "Permission denied" in message


# Damage


def test_a_torn_last_line_is_set_aside_and_the_next_append_starts_afresh(tmp_path: Path) -> None:
    store = RankingStore(tmp_path, "Ada")
    path = store.path("one")
    good, torn = lines(2), lines(3)[2][:40]
    path.write_bytes(b"".join(good) + torn)
    with pytest.warns(RankingFileWarning, match="line 3 is cut off"):
        assert ids(store.records()) == [0, 1]
    with pytest.warns(RankingFileWarning, match="line 3 is cut off"):
        assert ids(load_rankings(path)) == [0, 1]
    with pytest.warns(RankingFileWarning, match="moved to"):
        store.append(mapping(7))
    assert ids(store.records()) == [0, 1, 7]  # without a warning now
    assert path.read_bytes().splitlines(keepends=True)[:2] == good
    assert path.with_name(path.name + ".torn").read_bytes() == torn + b"\n"


@pytest.mark.parametrize("tail", [b"{", b"\0" * 4096, b"\xe2\x82", b'{"id": "1"}'])
def test_whatever_the_tail_is_the_next_append_is_whole(tmp_path: Path, tail: bytes) -> None:
    store = RankingStore(tmp_path, "Ada")
    store.path("one").write_bytes(tail)
    with pytest.warns(RankingFileWarning):
        store.append(mapping(7))
    assert ids(store.records()) == [7]


def test_a_whole_last_line_without_its_newline_is_a_record(tmp_path: Path) -> None:
    store = RankingStore(tmp_path, "Ada")
    store.path("one").write_bytes(b"\xef\xbb\xbf" + lines(1)[0].rstrip())
    assert ids(store.records()) == [0]
    store.append(mapping(7))
    assert ids(store.records()) == [0, 7]


def test_a_damaged_middle_line_is_named_and_the_rest_loads(tmp_path: Path) -> None:
    good = lines(3)
    path = tmp_path / "class.jsonl"
    path.write_bytes(good[0] + good[1][10:] + b"\n" + good[2])
    with pytest.warns(RankingFileWarning, match=r"class\.jsonl, line 2 is damaged: .*JSON"):
        assert ids(RankingStore(tmp_path, "Ada").records()) == [0, 2]
    with pytest.raises(InputError, match=r"class\.jsonl, line 2 is damaged: .*JSON") as error:
        load_rankings([path])
    assert "\n" not in str(error.value)


def test_blank_lines_and_windows_line_ends_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "edited.jsonl"
    path.write_bytes(b"\r\n".join(line.rstrip() for line in lines(2)) + b"\r\n\r\n  \n")
    assert ids(load_rankings(path)) == [0, 1]


@settings(deadline=None)
@given(st.integers(0, 2000))
def test_any_cut_leaves_the_records_before_it(cut: int) -> None:
    whole = b"".join(lines(4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.jsonl"
        path.write_bytes(whole[:cut])
        records, damages = read_lines(path)
    complete = [number for number in range(4) if len(b"".join(lines(number + 1))) - 1 <= cut]
    assert ids(records) == complete
    assert all(damage.torn and damage.line == len(complete) + 1 for damage in damages) and len(damages) <= 1


NEAR_RECORDS = st.fixed_dictionaries(  # the last field spoils them all
    {}, optional={name: st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3)
                  | st.lists(st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2), max_size=3)
                  for name in json.loads(lines(1)[0])}).map(lambda fields: fields | {"kind": "opinion"})
JUNK = st.one_of(
    st.binary(max_size=60).map(lambda junk: junk.replace(b"\n", b"")),
    st.sampled_from([b"{", b"null", b"[1]", b'{"id": 1}', b'"\\ud800"', b"\xff", b"[" * 50_000, b"1" * 5000]),
    NEAR_RECORDS.map(lambda fields: json.dumps(fields).encode()))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), JUNK), max_size=8), st.booleans())
def test_no_input_makes_the_reader_crash_or_invent(parts: list[int | bytes], ends: bool) -> None:
    """The good lines are the records, every other line that is not blank is reported with its number."""
    good = lines(6)
    written = [good[part].rstrip() if isinstance(part, int) else part for part in parts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.jsonl"
        path.write_bytes(b"\n".join(written) + (b"\n" if ends else b""))
        records, damages = read_lines(path)
        assert ids(records) == [part for part in parts if isinstance(part, int)]
        assert [damage.line for damage in damages] == [number for number, part in enumerate(parts, start=1)
                                                       if not isinstance(part, int) and part.strip()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(RankingStore(folder, "Ada").records()) == len(set(ids(records)))
            try:
                assert load_rankings(path) and not any(not damage.torn for damage in damages)
            except InputError as error:
                assert "\n" not in str(error) and (damages or not records)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), st.binary(max_size=3), st.integers(0, 3))
def test_a_changed_line_harms_no_other(place: int, put: bytes, removed: int) -> None:
    good = lines(3)
    changed = good[1][:place] + put + good[1][place + removed:].rstrip() + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.jsonl"
        path.write_bytes(good[0] + changed + good[2])
        records, damages = read_lines(path)
    assert [records[0].to_line(), records[-1].to_line()] == [good[0], good[2]]
    assert len(records) == 3 or (len(records) == 2 and damages and not damages[0].torn)


# Files for the command line


def test_load_reads_many_files_in_order_of_time_and_each_id_once(tmp_path: Path) -> None:
    days = [mapping(day, annotator="Ada", session=str(day), timestamp=f"2026-01-0{day}") for day in (1, 2, 3)]
    for name, chosen in (("late", [days[2], days[1]]), ("early", [days[0], days[1]])):
        save_rankings([Ranking.from_mapping(day) for day in chosen], tmp_path / name)
    assert ids(load_rankings([tmp_path / "late", str(tmp_path / "early")])) == [1, 2, 3]


def test_load_names_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "torn").write_bytes(lines(1)[0][:30])
    (tmp_path / "text").write_bytes(b"once upon a time\n")
    skip = Ranking.from_mapping(mapping(annotator="Ada", kind="skip", ranking=[]))
    (tmp_path / "skip").write_bytes(skip.to_line())
    (tmp_path / "whole").write_bytes(lines(1)[0] + b'{"id": "no newline, and not cut off"}')
    wrong = {"missing": "cannot be read", "empty": "has no records", "torn": "has no records",
             ".": "no *.jsonl in the folder", "text": "line 1 is damaged", "skip": "no current ranking",
             "whole": "line 2 is damaged"}
    for name, reason in wrong.items():
        with pytest.raises(InputError, match=re.escape(reason)) as error:  # and nothing but this error
            load_rankings([tmp_path / name])
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(InputError, match="give at least one"):
        load_rankings([])


def test_merge_pools_without_overwriting(tmp_path: Path) -> None:
    for name in ("Ada", "Ben"):
        store = RankingStore(tmp_path / "class", name)
        store.append({**mapping(), "id": name})
        store.append({**mapping(1), "id": name + " skips", "kind": "skip", "ranking": None})
    files = sorted((tmp_path / "class").iterdir())
    pooled = merge([*files, files[0]], tmp_path / "pooled.jsonl")
    assert len(pooled) == 4 and load_rankings(tmp_path / "pooled.jsonl") == pooled
    before = files[0].read_bytes()
    for out in (files[0], tmp_path / "pooled.jsonl"):
        with pytest.raises(InputError, match="not overwritten"):
            merge(files, out)
    assert files[0].read_bytes() == before


def test_a_folder_and_a_pattern_stand_for_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every shell replaces a pattern by the files."""
    (tmp_path / "class").mkdir()
    for number, name in enumerate(("a.jsonl", "b.jsonl", "c.jsonl.torn", "d[1].jsonl")):
        save_rankings([Ranking.from_mapping(mapping(number, annotator="Ada"))], tmp_path / "class" / name)
    monkeypatch.chdir(tmp_path)
    for given_path in ("class", Path("class"), "class/*.jsonl", str(tmp_path / "class" / "*.jsonl"), ["cl*/?*.jsonl"],
                       tmp_path / "class", ["class/a.jsonl", "class"], (path for path in ["class"])):
        assert ids(load_rankings(given_path)) == [0, 1, 3]
    assert ids(load_rankings("class/d[1].jsonl")) == [3]  # a file of this name, not a pattern
    assert ids(merge("class/[ab].jsonl", "pooled.jsonl")) == [0, 1]
    for wrong, told in (("class/*.json", r"no file matches class/\*\.json"), ("class/none", "cannot be read")):
        with pytest.raises(InputError, match=told):
            load_rankings(wrong)
    (tmp_path / "class").rename(tmp_path / "class [2024]")  # a folder of this name is no pattern
    for folder in (tmp_path, Path()):
        assert ids(load_rankings(folder / "class [2024]" / "*.jsonl")) == [0, 1, 3]


@pytest.mark.parametrize("paths", ["", None, 3, b"x", [None], [["a"]], {"a": 1}, "\0", "n" * 300, "\ud83d", {"a"}])
def test_what_is_no_path_is_named_in_one_line(tmp_path: Path, paths: Any) -> None:
    for call in (load_rankings, lambda paths: merge(paths, tmp_path / "out"), lambda out: save_rankings([], out)):
        with pytest.raises((InputError, NotSavedError)) as error:
            call(paths)
        assert len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


PAIR = json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}).encode()


@pytest.mark.parametrize("content, told", [
    (PAIR + b"\n", "load_preferences(file"), (b"[" + PAIR + b"]", "load_preferences(file"),
    (b"\n[" + PAIR + b"]", "a JSON array: write one object a line"),
    (PAIR.decode().encode("utf-16"), "UTF-16 text: save it as UTF-8"),
    (gzip.compress(PAIR, mtime=0), "unpack it"), (b"PAR1\x15", "Parquet"),
    (b"version https://git-lfs.github.com", "lfs pull"),
    (lines(1)[0].decode().encode("utf-16"), "UTF-16 text: save it as UTF-8")])
def test_a_ranking_file_of_another_format_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "file.jsonl").write_bytes(content)
    for call in (load_rankings, lambda path: merge(path, tmp_path / "out")):
        with pytest.raises(InputError, match=re.escape(told)) as error:
            call(tmp_path / "file.jsonl")
        assert "file.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_a_csv_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\nx,a,b\n")
    with pytest.raises(InputError, match=r"is CSV: give from_dataset"):
        load_rankings(tmp_path / "pairs.csv")


# What has no end, or is no file


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes with names there")
def test_a_pipe_or_a_folder_is_no_ranking_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    store = RankingStore(tmp_path, "Ada")
    store.append(mapping())
    with pytest.warns(RankingFileWarning) as told:
        assert ids(store.records()) == [0]
    assert [re.findall(r"(\w+)\.jsonl is not a file", str(one.message)) for one in told] == [["folder"], ["pipe"]]
    for path, why in ((tmp_path / "pipe.jsonl", "it is a pipe"), (Path("/dev/zero"), "it is a device"),
                      (tmp_path, "it is a"), ([tmp_path / "folder.jsonl"], "no *.jsonl in")):
        with pytest.raises(InputError, match=re.escape(why)):
            load_rankings(path)


def test_a_line_above_the_limit_is_named_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_mini.rankings.reading.LONGEST_LINE", 1000)
    monkeypatch.setattr("rlhf_mini.rankings.durable.LONGEST_LINE", 1000)
    store = RankingStore(tmp_path, "Ada")
    good = lines(3)
    path = store.path("one")
    with path.open("wb") as file:
        file.write(good[0])
        file.truncate(40_000_000)  # zeros, without a newline
    tracemalloc.start()
    store.append(mapping(1))
    with pytest.warns(RankingFileWarning, match="line 2 is damaged: it has more than 1,000 bytes"):
        assert ids(store.records()) == [0, 1]
    with pytest.raises(InputError, match="line 2 is damaged: it has more than"):
        load_rankings(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_record_that_no_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_mini.rankings.record.LONGEST_LINE", 1000)
    for call in (RankingStore(tmp_path, "Ada").append,
                 lambda fields: save_rankings([{**fields, "annotator": "Ada"}], tmp_path / "out")):
        with pytest.raises(InputError, match="give at most 1,000"):
            call(mapping(prompt="x" * 1000))
    assert list(tmp_path.iterdir()) == []


def test_of_many_damaged_lines_a_hundred_are_named_and_the_others_counted(tmp_path: Path) -> None:
    (tmp_path / "junk.jsonl").write_bytes(lines(1)[0] + b"x\n" * 500 + lines(2)[1] + b"{")
    records, damages = read_lines(tmp_path / "junk.jsonl")
    assert ids(records) == [0, 1] and len(damages) == 101
    assert damages[-1].line == 503 and damages[-1].torn and "400 others" in str(damages[-1])


def test_an_error_leaves_no_file_locked(tmp_path: Path) -> None:
    store = RankingStore(tmp_path, "Ada")
    store.path("one").write_bytes(b"junk\n" + lines(1)[0])
    with pytest.raises(InputError) as kept:
        load_rankings(store.path("one"))
    store.append(mapping(1))  # it would wait for ever
    assert kept.value


# Foreign text


def test_warnings_and_errors_show_foreign_text_escaped(tmp_path: Path) -> None:
    bad = "\x1b[2J\u202eBen\nAda\u2028"
    path = tmp_path / f"{bad.replace('/', '')}.jsonl"
    twice = [Ranking.from_mapping(mapping(annotator=name, id=bad)) for name in (bad, "小明")]
    path.write_bytes(b"".join(act.to_line() for act in twice) + b'{"id": "\x1b[2J"}\n')
    with pytest.warns(RankingFileWarning) as told, pytest.raises(InputError) as error:
        RankingStore(tmp_path, "Ada").records()
        load_rankings(path)
    messages = [str(warning.message) for warning in told] + [str(error.value)]
    messages += [str(damage) for damage in read_lines(path)[1]]
    with pytest.raises(NotSavedError) as not_saved:
        save_rankings([], path / "below")
    messages.append(str(not_saved.value))
    assert len(messages) == 5 and all(message.isprintable() and r"\x1b[2J" in message for message in messages)
    assert any("小明" in message for message in messages)


def test_a_merge_that_is_not_saved_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_rankings([Ranking.from_mapping(mapping(annotator="Ada"))], tmp_path / "in.jsonl")
    broken(monkeypatch, "write", 10)
    with pytest.raises(NotSavedError):
        merge([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
