"""One go at what is out of date: which part comes next, what is gathered when, and what cannot be had."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from freshness import Stamp
from keeping import Recording, kept_parts, remove_parts
from processes import Job, begin
from shelf import Shelf

LOOK_EVERY = 0.1  # seconds between two looks at the processes


@dataclass
class Sitting:
    """One go at what is out of date."""

    shelf: Shelf
    chosen: Collection[str]
    named: Collection[str]  # those for which a note that they are kept counts for nothing
    jobs: int
    settled: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)  # what cannot be had in this sitting, and why
    failed: set[tuple[str, str]] = field(default_factory=set)  # recordings and parts
    stamps: dict[str, Stamp] = field(default_factory=dict)  # of the parts of recordings that have begun
    running: list[Job] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)

    def run(self) -> int:
        """Record until nothing is left that can be; returns the exit code."""
        try:
            while True:
                ready = self.look()
                self.start(ready)
                if not self.running:
                    break
                self.wait()
        except KeyboardInterrupt:
            say("stopped: finished parts are kept, and the same command goes on")
            return 130
        finally:
            for job in self.running:
                job.process.terminate()
            for job in self.running:
                job.process.wait()
        missing = [name for name in self.lost if name in self.chosen]
        for name in missing:
            say(f"{name}: not recorded, {self.lost[name]}")
        if not self.recorded and not missing:
            say("everything is up to date, or kept as it is")
        return 1 if missing else 0

    def look(self) -> list[tuple[Recording, str]]:
        """Settle, gather and give up what can be; returns the parts that could be made now."""
        ready: list[tuple[Recording, str]] = []
        for recording in self.shelf.recordings:
            if recording.name not in self.settled and recording.name not in self.lost:
                ready += self.next_parts(recording)
        return ready

    def next_parts(self, recording: Recording) -> list[tuple[Recording, str]]:
        """The parts of one recording that could be made now."""
        name = recording.name
        reads, besides = (self.shelf.makers(recording, paths) for paths in (recording.reads, recording.gather_reads))
        if self.shelf.kept(recording) and name not in self.named:
            self.settled.add(name)
        elif blocked := [other for other in (*reads, *besides) if other in self.lost]:
            self.lost[name] = f"it reads {blocked[0]}, of which: {self.lost[blocked[0]]}"
        elif self.settled.issuperset(reads):
            return self.parts_of(recording, whole=self.settled.issuperset(besides))
        return []

    def parts_of(self, recording: Recording, whole: bool) -> list[tuple[Recording, str]]:
        """The same, where all is there that the parts read; and for gathering, if that is `whole`."""
        name = recording.name
        if name not in self.stamps:
            reason = self.shelf.why(recording, whole)
            if reason is None:
                if whole:
                    self.settle(recording)
                return []
            if name not in self.chosen:
                self.lost[name] = f"out of date and not asked for: {reason}"
                return []
            say(f"{name}: {reason}")
            self.stamps[name] = self.shelf.stamp(recording, whole=False)
        kept, parts = kept_parts(recording, self.stamps[name]), recording.parts or {}
        if len(kept) == len(parts):
            if whole:
                self.gather(recording, kept)
            return []
        busy = {job.part for job in self.running if job.recording is recording}
        failed = [part for part in parts if (name, part) in self.failed]
        ready = [(recording, part) for part, needs in parts.items()
                 if part not in kept and part not in (*busy, *failed) and all(other in kept for other in needs)]
        if failed and not ready and not busy:
            self.lost[name] = f"part {failed[0]} failed"
        return ready

    def settle(self, recording: Recording) -> None:
        """Up to date: what a crash left of its parts is not needed."""
        self.settled.add(recording.name)
        if kept_parts(recording, self.shelf.stamp(recording, whole=False)):
            remove_parts(recording)

    def gather(self, recording: Recording, kept: dict[str, Any]) -> None:
        """Make the recording of its finished parts."""
        try:
            words = recording.gather({part: one["value"] for part, one in kept.items()}) if recording.gather else None
        except Exception as error:  # whatever it is, other recordings can still be made
            self.lost[recording.name] = f"its parts could not be gathered ({type(error).__name__}: {error})"
            return
        self.shelf.enter(recording, self.stamps[recording.name], sum(one["seconds"] for one in kept.values()))
        self.settled.add(recording.name)
        self.recorded.append(recording.name)
        say(f"{recording.name}: recorded" + (f"; {words}" if words else ""))

    def start(self, ready: list[tuple[Recording, str]]) -> None:
        """Start parts while there is room; one that measures time has the machine to itself."""
        for recording, part in sorted(ready, key=lambda pair: pair[0].alone):
            if any(job.recording.alone for job in self.running) or (recording.alone and self.running):
                return
            if len(self.running) < self.jobs:
                self.running.append(begin(self.shelf.declared, recording, part, self.stamps[recording.name]))

    def wait(self) -> None:
        """Until a part is finished, or has failed."""
        while all(job.process.poll() is None for job in self.running):
            time.sleep(LOOK_EVERY)
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            name, took = f"{job.recording.name}: {job.part}", duration(time.monotonic() - job.started)
            if job.process.returncode == 0:
                say(f"{name} done in {took}")
            else:
                last = (job.log.read_text(encoding="utf-8", errors="replace").split("\n")[-2:] or [""])[0]
                say(f"{name} failed after {took}: {last} (all of it: {job.log})")
                self.failed.add((job.recording.name, job.part))  # its other parts can still be made


def say(line: str) -> None:
    """One line for the person who waits."""
    print(line, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
