"""A disk that keeps no more than what was synced: what a power cut at any moment would leave."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

Leftover = Callable[[bytes, bytes], bytes]  # from what was synced and what is cached, what the cut leaves


class Cut(NamedTuple):
    """What the disk and the cache held at one moment, by inode, and what had been acknowledged."""

    files: dict[int, bytes]
    cached: dict[int, bytes]
    folders: dict[int, dict[str, int]]
    acknowledged: frozenset[str]


class PageCache:
    """Spies on what is synced below `root`, and can rebuild what a power cut at any moment would leave.

    A file falls back to its content, a folder to its names, when it was last synced; what is there at the beginning
    counts as synced. There is a moment before and after every call that changes or syncs something; those that are
    `wanted`, by their number, are kept.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, ignored: str = "",
                 wanted: Callable[[int], bool] = lambda moment: True) -> None:
        self.root, self.ignored, self.wanted = root, ignored, wanted
        self.moments = 0
        self.files, self.folders = self.contents(), self.listings()
        self.acknowledged: list[str] = []
        self.cuts: list[Cut] = []
        for name in ("open", "write", "ftruncate", "fsync", "mkdir", "rename", "replace", "unlink"):
            monkeypatch.setattr(os, name, self.spied(name, getattr(os, name)))

    def contents(self) -> dict[int, bytes]:
        return {path.stat().st_ino: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def listings(self) -> dict[int, dict[str, int]]:
        folders = [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]
        return {folder.stat().st_ino: {path.name: path.stat().st_ino for path in folder.iterdir()}
                for folder in folders}

    def spied(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.cut()
            result = real(*args, **named)
            if name == "fsync":
                self.synced(os.fstat(args[0]))
            self.cut()
            return result
        return call

    def synced(self, file: os.stat_result) -> None:
        kind = "folder" if stat.S_ISDIR(file.st_mode) else "file"
        if kind != self.ignored and kind == "folder" and file.st_ino in self.listings():  # not those above ours
            self.folders[file.st_ino] = self.listings()[file.st_ino]
        elif kind != self.ignored and kind == "file":
            self.files[file.st_ino] = self.contents()[file.st_ino]

    def cut(self) -> None:
        self.moments += 1
        if self.wanted(self.moments):
            self.cuts.append(Cut(dict(self.files), self.contents(), dict(self.folders), frozenset(self.acknowledged)))

    def rebuild(self, cut: Cut, folder: Path, leftover: Leftover, inode: int | None = None) -> None:
        """Write what `cut` leaves of the root, or of the folder `inode` below it."""
        folder.mkdir()
        for name, below in cut.folders.get(inode or self.root.stat().st_ino, {}).items():
            synced = cut.files.get(below, b"")
            if below in cut.cached:
                (folder / name).write_bytes(leftover(synced, cut.cached[below]))
            elif below in cut.files:  # another file has taken its place, but not yet on the disk
                (folder / name).write_bytes(synced)
            else:
                self.rebuild(cut, folder / name, leftover, below)


def nothing(synced: bytes, cached: bytes) -> bytes:
    return synced


def a_part(synced: bytes, cached: bytes) -> bytes:
    return cached[:random.Random(len(cached)).randint(len(synced), max(len(synced), len(cached)))]


def zeros(synced: bytes, cached: bytes) -> bytes:
    return synced + b"\0" * (len(cached) - len(synced))
