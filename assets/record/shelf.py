"""What is up to date and what is not: the declared recordings beside what `made.json` says of those that are made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from freshness import Stamp, content, difference, stamp_of
from keeping import MADE, Recording, kept_parts, remove_parts, write
from processes import command, environment


@dataclass
class Shelf:
    """The declared recordings, and what `made.json` says of those that are made."""

    declared: Path
    recordings: list[Recording]
    made: dict[str, Any]

    @cached_property
    def micro_run(self) -> dict[str, float]:
        """The numbers of the micro-run, in a process as every part has."""
        done = subprocess.run(command(self.declared, "--micro-run"), env=environment(alone=False), check=False,
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the micro-run failed:\n{done.stderr}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    def makers(self, recording: Recording, paths: Sequence[str]) -> list[str]:
        """The names of the recordings that make these paths, or folders that they are in."""
        return [other.name for other in self.recordings if other is not recording
                and any(Path(path).is_relative_to(file) for path in paths for file in other.files)]

    def stamp(self, recording: Recording, whole: bool) -> Stamp:
        """What the recording, or a part of it, would be made of now."""
        paths = (*recording.reads, *(recording.gather_reads if whole else ()))
        return stamp_of(paths, recording.settings, self.micro_run if recording.core else {})

    def kept(self, recording: Recording) -> str | None:
        """Why a recording is to stay as it is, if it is."""
        reason: str | None = self.made.get(recording.name, {}).get("kept")
        return reason

    def why(self, recording: Recording, whole: bool = True) -> str | None:
        """Why the recording is out of date, or None; `whole` is whether what `gather` reads is known, too."""
        entry = self.made.get(recording.name)
        if not entry or "stamp" not in entry:
            return "it was not recorded by this command"
        for file in recording.files:
            if not Path(file).exists():
                return f"{file} is missing"
        if entry["parts"] != list(recording.parts or {}):
            return "it has other parts now"
        old = entry["stamp"]
        if not whole:
            old = {**old, "inputs": {path: found for path, found in old["inputs"].items() if path in recording.reads}}
        if (differs := difference(old, self.stamp(recording, whole))) is not None:
            return differs
        for file in recording.files:
            if content(Path(file)) != entry["files"].get(file):
                return f"{file} is not what was recorded"
        return None

    def enter(self, recording: Recording, stamp: Stamp, seconds: float) -> None:
        """Note that the recording has been made of what its parts were made of, and remove those."""
        besides = {path: content(Path(path)) for path in recording.gather_reads}
        self.made[recording.name] = {
            "recorded": time.strftime("%Y-%m-%d"), "seconds": round(seconds, 1),
            "files": {file: content(Path(file)) for file in recording.files}, "parts": list(recording.parts or {}),
            "stamp": {**stamp, "inputs": {**stamp["inputs"], **besides}}}
        write(MADE, self.made)
        remove_parts(recording)


def list_all(shelf: Shelf, chosen: Collection[str]) -> None:
    """Print of every chosen recording whether it is up to date, and why not."""
    stale: set[str] = set()
    for recording in shelf.recordings:
        waits = [name for name in shelf.makers(recording, (*recording.reads, *recording.gather_reads))
                 if name in stale]
        if reason := shelf.kept(recording):
            said = f"kept: {reason}"
        elif reason := shelf.why(recording):
            said = f"out of date: {reason}"
        else:
            said = f"reads {waits[0]}, which is out of date" if waits else "up to date"
        if said != "up to date" and not shelf.kept(recording):
            stale.add(recording.name)
            if finished := len(kept_parts(recording, shelf.stamp(recording, whole=False))):
                said += f"; {finished} of {len(recording.parts or {})} parts are finished"
        if recording.name in chosen:
            print(f"{recording.name:34} {said}")
