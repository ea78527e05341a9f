"""A record that was acknowledged outlives a kill and a second writer of the same file, and none is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlhf_mini.rankings import (
    Ranking,
    RankingFileWarning,
    RankingSession,
    RankingStore,
    load_rankings,
    merge,
    save_rankings,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL, and folders cannot be synced there")

ITEMS = [(f"P{number}\n", ["a", "b\u2028\x85\r", "c" * 300]) for number in range(1500)]

# Each line read starts a writer, which the test may kill: its process id, the ids of its records as they are saved,
# "dead" when it has ended. The disk of a slow writer takes a line in small pieces.
NURSERY = """
import os, random, signal, sys, time
from rlhf_mini.rankings import RankingSession, RankingStore

ITEMS = [(f"P{number}\\n", ["a", "b\\u2028\\x85\\r", "c" * 300]) for number in range(1500)]
real = os.write

def slow(file, content):
    time.sleep(0.0003)
    return real(file, content[:90])

def write(folder, seed, pieces, limit, session):
    signal.alarm(60)
    real(1, f"{os.getpid()}\\n".encode())
    os.write = slow if pieces == "pieces" else real
    chance = random.Random(int(seed))
    session = RankingSession(ITEMS, "Ada", RankingStore(folder, "Ada"), 0, None if session == "own" else session)
    for _ in range(int(limit)):
        if session.can_undo and chance.random() < 0.2:
            record = session.undo()
        elif chance.random() < 0.2:
            record = session.skip()
        else:
            record = session.submit([[2], [0, 1]])
        real(1, f"{record.id}\\n".encode())

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            write(sys.argv[1], *line.split())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    real(1, b"dead\\n")
"""


class Nursery:
    """Starts writers one after the other, without importing anything again."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.acknowledged: list[str] = []

    def start(self, seed: int, pieces: bool, limit: int = 10_000, session: str = "own") -> int:
        assert self.process.stdin is not None
        print(seed, "pieces" if pieces else "whole", limit, session, file=self.process.stdin, flush=True)
        return int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def await_acknowledged(self, count: int) -> None:
        for _ in range(count):
            record_id = self.line()
            assert record_id not in ("dead", ""), "the writer ended by itself"
            self.acknowledged.append(record_id)

    def await_end(self) -> None:
        while (line := self.line()) != "dead":
            assert line, "the nursery is gone"
            self.acknowledged.append(line)


@contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    command = [sys.executable, "-W", "ignore", "-c", NURSERY, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Nursery(process)


def read(folder: Path) -> tuple[list[Ranking], list[str]]:
    """The records, and what the warnings say; only torn lines may be warned of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        records = RankingStore(folder, "reader").records()
    assert all(issubclass(warning.category, RankingFileWarning) for warning in seen)
    assert all("cut off" in str(warning.message) for warning in seen), [str(warning.message) for warning in seen]
    return records, [str(warning.message) for warning in seen]


def holds_once(acknowledged: list[str], records: list[Ranking]) -> bool:
    found = Counter(record.id for record in records)
    return set(acknowledged) <= set(found) and set(found.values()) <= {1}


def hit(folder: Path) -> bool:
    """Whether some line was cut off by a kill, be it still there or set aside."""
    return any(folder.glob("*.torn")) or any(not path.read_bytes().endswith(b"\n") for path in folder.glob("*.jsonl")
                                             if path.stat().st_size)


def goes_on(folder: Path, session: str | None = None) -> None:
    """A new session stands where the history says, and its next records are there too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankingFileWarning)
        store = RankingStore(folder, "Ada")
        history = store.records()
        undone = {record.undoes for record in history}
        done = {record.prompt for record in history if record.kind != "undo" and record.id not in undone}
        resumed = RankingSession(ITEMS, "Ada", store, session=session)
        assert resumed.progress == (len(done), len(ITEMS)) and not resumed.done
        for count in (1, 2):
            assert resumed.current is not None and resumed.current.prompt not in done
            history.append(resumed.submit([[1], [0, 2]]))
            assert resumed.progress.done == len(done) + count
        assert Counter(store.records()) == Counter(history)


# Kills

SLOW_MERGE = """
import os, sys, time
from rlhf_mini.rankings import merge

real = os.write

def slow(file, content):
    written = real(file, content[:1000])
    real(1, b"some\\n")
    time.sleep(60)
    return written

os.write = slow
merge(sys.argv[1], sys.argv[2])
"""


def test_a_merge_that_is_killed_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    acts = [Ranking(id=str(number), annotator="Ada", prompt=f"P{number}", completions=["a" * 100, "b"],
                    ranking=[[0], [1]]) for number in range(50)]
    for folder in ("class", "out"):
        (tmp_path / folder).mkdir()
    save_rankings(acts, tmp_path / "class" / "ada.jsonl")
    out = tmp_path / "out" / "pooled.jsonl"
    command = [sys.executable, "-c", SLOW_MERGE, str(tmp_path / "class"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as merging:
        assert merging.stdout is not None and merging.stdout.readline() == b"some\n"
        merging.kill()
    assert any(out.parent.iterdir()), "nothing had been written: this test tests nothing"
    assert not out.exists() and not list(out.parent.glob("*.jsonl"))
    assert merge(tmp_path / "class", out) == acts == load_rankings(out.parent)


@pytest.mark.parametrize("session", ["own", "shared"])
@pytest.mark.parametrize("at_least", [12, pytest.param(120, marks=pytest.mark.faults)])
def test_what_was_acknowledged_outlives_many_kills(tmp_path: Path, session: str, at_least: int) -> None:
    """Each writer begins where the one before it was killed, in a file of its own or in the same one.

    It goes on until a kill has hit a line that was being written.
    """
    chance = random.Random(session)
    with nursery(tmp_path) as writers:
        for kills in range(1, 241):
            child = writers.start(kills, pieces=chance.random() < 0.5, session=session)
            writers.await_acknowledged(chance.randrange(4))
            time.sleep(chance.choice([0, chance.uniform(0, 0.005), chance.uniform(0, 0.03)]))
            os.kill(child, signal.SIGKILL)
            writers.await_end()
            if kills >= at_least and hit(tmp_path):
                break
    records, _ = read(tmp_path)
    assert hit(tmp_path), "no kill hit a line: this test tests nothing"
    assert len(writers.acknowledged) > kills and holds_once(writers.acknowledged, records)
    assert len(records) <= len(writers.acknowledged) + kills  # a kill may fall between the sync and the word
    goes_on(tmp_path, "shared" if session == "shared" else None)


@pytest.mark.parametrize("kills", [3, pytest.param(15, marks=pytest.mark.faults)])
def test_a_killed_writer_neither_blocks_nor_spoils_another_one_of_the_same_file(tmp_path: Path, kills: int) -> None:
    chance = random.Random(0)
    with nursery(tmp_path) as first, nursery(tmp_path) as second:
        for seed in range(kills):
            second.start(1000 + seed, pieces=True, limit=12, session="s")
            child = first.start(seed, pieces=True, session="s")
            first.await_acknowledged(chance.randrange(3))
            time.sleep(chance.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            first.await_end()
            second.await_end()
    assert len(second.acknowledged) == kills * 12
    assert holds_once(first.acknowledged + second.acknowledged, read(tmp_path)[0])


@pytest.mark.parametrize("session", ["own", "s"])
def test_two_sessions_at_the_same_time_lose_nothing_and_mix_no_lines(tmp_path: Path, session: str) -> None:
    with nursery(tmp_path) as first, nursery(tmp_path) as second:
        for seed, writers in enumerate((first, second)):
            writers.start(seed, pieces=True, limit=80, session=session)
        for writers in (first, second):
            writers.await_end()
    records, torn = read(tmp_path)
    assert torn == [] and len(records) == len(first.acknowledged + second.acknowledged) == 160
    files = list(tmp_path.iterdir())
    assert len(files) == (1 if session == "s" else 2)
    lines = [json.loads(line)["id"] for path in files for line in path.read_bytes().decode().split("\n") if line]
    assert sorted(lines) == sorted(first.acknowledged + second.acknowledged)
    assert session == "own" or lines not in (first.acknowledged + second.acknowledged,
                                             second.acknowledged + first.acknowledged), "they took turns"
