"""Keep a student's accepted functions in files, and find them again: notebook 06 trains with those of notebook 05."""

from __future__ import annotations

import builtins
import inspect
import linecache
import os
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_mini import files
from rlhf_mini.checks.exercise import Result

FOLDER = Path("my_parts")  # beside the notebooks; git ignores it
IGNORED = "RLHF_MINI_IGNORE_MY_PARTS"  # set where notebooks are executed or compared for everybody
HEADER = """\
import math

import torch
import torch.nn.functional as F
from torch import Tensor

"""


def keep(result: Result, check: Callable[[Any], Result] | None = None, folder: Path | None = None) -> Result:
    """Write the function of a right answer to a file of its own name, and say so in the result's line.

    An earlier version is renamed, not lost. With the `check`, the file is read again and checked before it counts: a
    function may lean on something that only the notebook has. Where the answer is not right, nothing is written.
    """
    if result.points < 2 or os.environ.get(IGNORED):
        return result
    try:
        source = textwrap.dedent(inspect.getsource(result.function))
    except (OSError, TypeError):
        return replace(result, line=f"{result.line} It is not kept: Python does not find its source; define it with "
                                    "`def` in a cell")
    name = result.function.__name__
    path = (folder or FOLDER) / f"{name}.py"
    text = f"{HEADER}\n{source}"
    again = check(function_of(text, name, path, kept(folder))) if check else result
    if again.points < 2:
        return replace(result, line=f"{result.line} It is not kept, because outside of the notebook it fails: "
                                    f"{again.line}")
    write_part(path, text)
    return replace(result, line=f"{result.line} Kept in {path.as_posix()}.")


def write_part(path: Path, text: str) -> None:
    """Write a file; what it held before, if it was something else, gets the first free name beside it."""
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return
        number = next(n for n in range(1, 10_000) if not path.with_name(f"{path.stem}.{n}.py").exists())
        path.rename(path.with_name(f"{path.stem}.{number}.py"))
    files.write(path, text.encode())


def kept(folder: Path | None = None) -> dict[str, Callable[..., Any]]:
    """The student's functions by their names; none where there are none. They may call one another.

    Raises: what a file raises that was changed by hand and is no Python any more.
    """
    place = folder or FOLDER
    if os.environ.get(IGNORED) or not place.is_dir():
        return {}
    texts = {path.stem: (path, path.read_text(encoding="utf-8")) for path in sorted(place.glob("my_*.py"))
             if path.stem.isidentifier()}
    found: dict[str, Callable[..., Any]] = {}
    for name, (path, text) in texts.items():
        found[name] = function_of(text, name, path, found)
    for function in found.values():
        function.__globals__.update({name: other for name, other in found.items() if name != function.__name__})
    return found


def function_of(text: str, name: str, path: Path, others: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that a kept file defines; it sees `others`."""
    names: dict[str, Any] = {"__builtins__": builtins, "__name__": name, **others}
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))  # for error messages
    exec(compile(text, str(path), "exec"), names)  # the student's own code, from the student's own disk
    function: Callable[..., Any] = names[name]
    return function
