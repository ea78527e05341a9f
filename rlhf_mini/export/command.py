"""The command `export`: its options, and what it prints. Nothing slow is imported before the options are read."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, TypeVar

from rlhf_mini import team
from rlhf_mini.errors import InputError, visible

ABOUT = """Write what a finished run was made from and what it learnt into a new folder, for another library: the data
of each stage, the models, and a commented script that trains on them."""
LIBRARIES = ("trl",)

P = TypeVar("P", bound=ArgumentParser)


def add_options(parser: P) -> P:
    """The parser with the options of `export`."""
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run, such as runs/001")
    parser.add_argument("--to", required=True, choices=LIBRARIES, help="the library (trl: version 1.16)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new folder")
    return parser


def export(options: dict[str, Any]) -> int:
    """Export a run, and print what has been written and what to do next."""
    team.join()
    if team.size() > 1:
        raise InputError(f"export is for one process and there are {team.size()}: start it without a launcher")
    for name in ("run", "out"):
        if not options[name].strip():
            raise InputError(f"{name} is empty: give a folder")
    run, out = Path(options["run"]), Path(options["out"])
    print(f"export of {run}: importing torch", file=sys.stderr, flush=True)
    from rlhf_mini.export.trl import export_trl

    written = export_trl(run, out, lambda line: print(visible(line), file=sys.stderr, flush=True))
    for name, what in written.items():
        print(f"{name:<27} {what}")
    script = shlex.quote(visible(out / "train_trl.py"))
    print(f"\nNext: pip install trl==1.16.0, then python {script} --help")
    return 0
