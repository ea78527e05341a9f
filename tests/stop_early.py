"""Press the stop button early: every notebook with a live picture, stopped after a few steps, must run on to its end.

    python tests/stop_early.py                 # all of them, after two steps, about a minute each
    python tests/stop_early.py --after 1 06    # those whose name holds the word, after one

Facts may then print False: only errors count.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
STEP = "            rows.append(row)\n"
STOP = "            if len(rows) == {after}:\n                raise KeyboardInterrupt\n"


def copied(folder: Path, after: int) -> Path:
    """The notebooks and what they need, in a copy in which `live` is interrupted after that many steps."""
    for name in ("rlhf_mini", "assets", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "my_rankings"))
    module = folder / "rlhf_mini" / "notebook.py"
    source = module.read_text(encoding="utf-8")
    assert source.count(STEP) == 1, f"{module.name} has changed: say anew where a step is collected"
    module.write_text(source.replace(STEP, STEP + STOP.format(after=after)), encoding="utf-8")
    return folder / "notebooks"


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
        for path in sorted(copied(Path(temporary), given.after).glob("*.ipynb")):
            if given.word in path.stem and "live(" in path.read_text(encoding="utf-8"):
                found = errors(path)
                failed += bool(found)
                print(f"{path.stem}: {'; '.join(found) or 'runs on'}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
