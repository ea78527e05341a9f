"""A record that was acknowledged outlives a power cut, on a disk that keeps no more than what was synced."""

from __future__ import annotations

import json
import os
import random
import uuid
import warnings
from pathlib import Path

import pytest
from page_cache import Cut, Leftover, PageCache, a_part, nothing, zeros

from rlhf_mini.rankings import Ranking, RankingFileWarning, RankingSession, RankingStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")

ITEMS = [(f"P{number}", ["a", "b", "c" * 50]) for number in range(40)]

def work(cache: PageCache, folder: Path, count: int, session: str | None = None) -> list[Ranking]:
    """Answer, skip and undo through a session; returns what it saved."""
    chance, saved = random.Random(count), []
    running = RankingSession(ITEMS, "Ada", RankingStore(folder, "Ada"), session=session)
    for _ in range(count):
        act = chance.choice([running.undo, running.skip] if running.can_undo else [running.skip])
        saved.append(running.submit([[2], [0, 1]]) if chance.random() < 0.6 else act())
        cache.acknowledged.append(saved[-1].id)
        cache.cut()
    return saved


def after(cache: PageCache, cut: Cut, folder: Path, leftover: Leftover = nothing) -> list[Ranking]:
    """The records that a power cut leaves below the root's folder `a/b`."""
    cache.rebuild(cut, folder, leftover)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankingFileWarning)
        return RankingStore(folder / "a" / "b", "reader").records()


@pytest.mark.parametrize("leftover", [nothing, a_part, zeros])
def test_what_was_acknowledged_outlives_a_power_cut_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   leftover: Leftover) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with monkeypatch.context() as spied:
        cache = PageCache(root, spied)
        saved = [*work(cache, root / "a" / "b", 8), *work(cache, root / "a" / "b", 8)]
    assert len(cache.cuts) > 16 * 6 and len(cache.cuts[-1].acknowledged) == 16
    for number, cut in enumerate(cache.cuts):
        found = after(cache, cut, tmp_path / str(number), leftover)
        assert len(found) == len(set(found)) <= len(cut.acknowledged) + 1
        assert cut.acknowledged <= {record.id for record in found} and set(found) <= set(saved)


@pytest.mark.parametrize("ignored", ["file", "folder"])
def test_a_disk_that_ignores_syncs_loses_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 ignored: str) -> None:
    """So these tests would notice if the store did not sync."""
    root = tmp_path / "root"
    root.mkdir()
    with monkeypatch.context() as spied:
        cache = PageCache(root, spied, ignored)
        work(cache, root / "a" / "b", 8)
    left = [len(after(cache, cut, tmp_path / str(number))) for number, cut in enumerate(cache.cuts)]
    assert set(left) == {0} and len(cache.cuts[-1].acknowledged) == 8


@pytest.mark.parametrize("tail", [b'{"id": "torn', b"\0" * 50], ids=["half", "zeros"])
def test_a_power_cut_while_a_torn_line_is_repaired_harms_no_earlier_record(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes) -> None:
    folder = tmp_path / "root" / "a" / "b"
    store = RankingStore(folder, "Ada")
    old = [store.append({"id": str(uuid.UUID(int=number)), "prompt": f"P{number}", "completions": ITEMS[0][1],
                         "kind": "skip", "session": "s"}) for number in range(3)]
    with store.path("s").open("ab") as file:
        file.write(tail)
    with monkeypatch.context() as spied, pytest.warns(RankingFileWarning, match="cut off"):
        cache = PageCache(tmp_path / "root", spied)
        new = work(cache, folder, 3, session="s")
    for number, cut in enumerate(cache.cuts):
        found = set(after(cache, cut, tmp_path / str(number)))
        assert set(old) <= found <= {*old, *new} and cut.acknowledged <= {record.id for record in found}


@pytest.mark.parametrize("leftover", [nothing, a_part, zeros])
@pytest.mark.parametrize("acts", [2, pytest.param(6, marks=pytest.mark.faults)])
def test_a_session_goes_on_after_every_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 acts: int, leftover: Leftover) -> None:
    (tmp_path / "root").mkdir()
    with monkeypatch.context() as spied:
        cache = PageCache(tmp_path / "root", spied)
        work(cache, tmp_path / "root" / "a" / "b", acts, session="s")
    for number, cut in enumerate(cache.cuts):
        before = after(cache, cut, tmp_path / str(number), leftover)
        store = RankingStore(tmp_path / str(number) / "a" / "b", "Ada")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankingFileWarning)
            record = RankingSession(ITEMS, "Ada", store, session="s").submit([[0], [1], [2]])
        assert {*before, record} == set(store.records())  # without a warning now
        lines = store.path("s").read_bytes().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [*(old.id for old in before), record.id]


def test_a_folder_that_a_killed_writer_made_outlives_a_power_cut(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(file: int) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "root"
    root.mkdir()
    with monkeypatch.context() as spied:
        cache = PageCache(root, spied)
        with monkeypatch.context() as kill, pytest.raises(KeyboardInterrupt):
            kill.setattr(os, "fsync", killed)
            work(cache, root / "a" / "b", 1)
        saved = work(cache, root / "a" / "b", 1)
    assert after(cache, cache.cuts[-1], tmp_path / "cut") == saved
