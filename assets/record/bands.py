"""How far the numbers of notebooks that train move when they train again from weights moved by a millionth.

    PYTHONPATH=. python assets/record/bands.py notebooks/00_the_map.ipynb --restarts 4

Training is chaotic: a rounding error, which another processor makes differently, grows until other tokens are sampled.
The ± beside a number has to cover that, or the notebook fails on the next machine. This runs a notebook once as it is
and some times more with the weights moved, and prints for every measured number the stated error and the standard
deviation over the runs. Where the deviation is larger, it says by how much to widen the error (`Measured.widened`).
Nothing is written; a notebook takes as often its usual time as there are runs.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import torch
import transformers
from nbclient import NotebookClient

from rlhf_mini.teaching.compared import differences, numbers, words

MOVED = 1e-6  # of each weight
UNCOMPARED = {"nbval-ignore-output", "nbval-skip"}
FIRST_CELL = """import sys
sys.path[:0] = {folders!r}
import bands
bands.move_weights({restart})"""


def move_weights(restart: int) -> None:
    """From now on in this process, move every model that is loaded and every model that begins to be trained.

    The same weights are moved alike, so that two copies of one model stay copies.
    """
    load: Any = transformers.PreTrainedModel.from_pretrained
    begin = torch.optim.Optimizer.__init__

    def loaded(cls: Any, *args: Any, **kwargs: Any) -> Any:
        result = load.__func__(cls, *args, **kwargs)
        _move((result[0] if isinstance(result, tuple) else result).parameters(), restart)
        return result

    def begun(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        _move((parameter for group in self.param_groups for parameter in group["params"]), restart)

    transformers.PreTrainedModel.from_pretrained = classmethod(loaded)  # type: ignore[assignment]
    torch.optim.Optimizer.__init__ = begun  # type: ignore[method-assign]


@torch.no_grad()
def _move(parameters: Iterator[torch.Tensor], restart: int) -> None:
    generator = torch.Generator().manual_seed(restart)  # of its own: the notebook's random numbers stay as they are
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.mul_(1 + MOVED * noise.to(parameter))


def run(path: Path, restart: int) -> list[str]:
    """What each code cell of a notebook prints, with the weights moved unless `restart` is 0; '' where uncompared."""
    notebook: Any = nbformat.read(path, as_version=4)
    if restart:
        folder = Path(__file__).resolve().parent  # the kernel runs elsewhere: a relative PYTHONPATH would not do
        source = FIRST_CELL.format(folders=[str(folder), str(folder.parent.parent)], restart=restart)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
    client: Any = NotebookClient(notebook, timeout=None, kernel_name="python3", coalesce_streams=True,
                                 resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [printed(cell) for cell in (cells[1:] if restart else cells)]


def printed(cell: Any) -> str:
    """What nbval compares of a cell."""
    if UNCOMPARED & set(cell.metadata.get("tags", [])):
        return ""
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def report(runs: Sequence[Sequence[str]]) -> tuple[list[str], int]:
    """One line for each measured number, and how many lines need an author; the first run is the notebook as it is.

    A text that differs between runs counts too: nbval compares it to the letter.
    """
    lines, amiss = [], 0
    for cell, outputs in enumerate(zip(*runs, strict=True)):
        texts = {words(text) for text in outputs}
        if len(texts) > 1:
            amiss += 1
            other = next(text for text in outputs if words(text) != words(outputs[0]))
            changes = [f"    {line}" for line in differences(outputs[0], other)[1:]]
            lines += [f"Cell {cell}: TEXT DIFFERS between runs", *changes]
            continue
        for place, again in enumerate(zip(*map(numbers, outputs), strict=True), 1):
            deviation, stated = statistics.stdev(float(number.value) for number in again), float(again[0].error)
            lines.append(f"Cell {cell}, number {place}: {again[0].text}, over runs ± {deviation:.2g}")
            if deviation > stated:
                amiss += 1
                lines[-1] += f"  WIDEN by {deviation:.2g}, to {math.hypot(deviation, stated):.2g}"
    return lines, amiss


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--restarts", type=int, default=4, help="runs with moved weights, beside one without")
    asked = parser.parse_args(arguments)
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")  # as in notebooks/conftest.py, for the kernels
    amiss = 0
    for path in asked.notebooks:
        lines, more = report([run(path, restart) for restart in range(asked.restarts + 1)])
        print(f"{path.stem}, {asked.restarts + 1} runs: {more} to change", *lines, sep="\n", flush=True)
        amiss += more
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())
