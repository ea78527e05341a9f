"""Press the stop button early: every notebook with a live plot, stopped after a few steps, must run on to its end.

    PYTHONPATH=. python tests/stop_early.py                 # all of them, after two steps, about a minute each
    PYTHONPATH=. python tests/stop_early.py --after 1 06    # those whose name holds the word, after one

Facts may then print False: only errors count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from seed_bugs import tampered

STEP = "            rows.append(row)\n"
STOP = "            if len(rows) == {after}:\n                raise KeyboardInterrupt\n"


def errors(path: Path) -> list[str]:
    """What went wrong in which cell when the notebook ran to its end."""
    notebook: Any = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True,
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    return [f"cell {i}: {output.ename}: {output.evalue}" for i, cell in enumerate(notebook.cells)
            for output in cell.get("outputs", []) if output.output_type == "error"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only notebooks whose name holds it")
    parser.add_argument("--after", type=int, default=2, help="steps until the stop")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        notebooks = tampered(Path(temporary), STEP, STEP + STOP.format(after=given.after))
        for path in sorted(notebooks.glob("*.ipynb")):
            if given.word in path.stem and "live_plot(" in path.read_text(encoding="utf-8"):
                found = errors(path)
                failed += bool(found)
                print(f"{path.stem}: {'; '.join(found) or 'runs on'}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
