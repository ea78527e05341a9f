"""Run notebooks from top to bottom and store what they show: `python notebooks/execute.py [NAME.ipynb ...]`.

`make notebooks` does so with those that are out of date.

Widget state and timings are left out of the files: GitHub calls a notebook with widget metadata invalid, and timings
would change at every run.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> tuple[float, float]:
    """Run one notebook in place; returns the seconds and the GB that it took. Nothing is written where a cell fails."""
    notebook: Any = nbformat.read(path, as_version=4)
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", RLHF_MINI_IGNORE_MY_PARTS="1")  # as in conftest.py
    started, peak = time.monotonic(), [math.nan]
    client: Any = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
        on_cell_executed=lambda **_: peak.append(peak_memory(client.km.provisioner.pid)))
    client.execute()
    notebook.metadata = METADATA
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    scratch = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, scratch)
    scratch.replace(path)  # stopped while writing, the old one is there
    return time.monotonic() - started, peak[-1]


def peak_memory(process: int) -> float:
    """GB that a running process has used at most, where the system tells (Linux)."""
    status = Path(f"/proc/{process}/status")
    kilobytes = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(kilobytes[1]) / 2**20 if kilobytes else math.nan


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        seconds, memory = execute(path)
        print(f"{path.stem}: {seconds:.0f} s, {memory:.1f} GB", flush=True)
