"""A part is made in a process of its own, with one thread and no GPU, which ends when the one that started it ends."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from freshness import Stamp
from keeping import Recording, keep_part

SCRIPT = Path(__file__).with_name("record.py")
WORK = Path("runs/record")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
OFFLINE = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass
class Job:
    """A part that is being made."""

    recording: Recording
    part: str
    process: subprocess.Popen[str]
    log: Path
    started: float = field(default_factory=time.monotonic)


def command(declared: Path, *arguments: str) -> list[str]:
    """The command that starts another process of ours."""
    return [sys.executable, str(SCRIPT), "--declared", str(declared), *arguments]


def environment(alone: bool) -> dict[str, str]:
    """Of a process: no GPU, no network, and one thread where other parts run beside it."""
    return {**os.environ, **OFFLINE, **({} if alone else ONE_THREAD)}


def work_folder(recording: Recording, stamp: Stamp) -> Path:
    """Where parts made of this keep what they need on the way."""
    key = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:8]
    return WORK / f"{recording.name.replace('/', '-')}-{key}"


def begin(declared: Path, recording: Recording, part: str, stamp: Stamp) -> Job:
    """Start to make a part. It ends with us, for its standard input ends then, however we end."""
    log = work_folder(recording, stamp) / f"{part.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command(declared, "--part", recording.name, part), text=True, stdout=file,
                                   stderr=subprocess.STDOUT, stdin=subprocess.PIPE, env=environment(recording.alone))
    assert process.stdin is not None  # as asked for
    process.stdin.write(json.dumps(stamp) + "\n")
    process.stdin.flush()
    return Job(recording, part, process, log)


def make_part(recording: Recording, part: str) -> None:
    """Make and keep one part; the stamp comes on standard input."""
    stamp, started = json.loads(sys.stdin.readline()), time.monotonic()
    threading.Thread(target=end_with_parent, daemon=True).start()
    assert recording.make is not None
    value = recording.make(part, work_folder(recording, stamp))
    keep_part(recording, part, stamp, value, time.monotonic() - started)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, even if that was killed."""
    sys.stdin.read()
    os._exit(1)
