"""How far numbers move when training restarts: on a notebook of a few cells, and on outputs by hand."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

PATH = Path(__file__).parent.parent / "assets" / "record" / "bands.py"
# A map that doubles distances is as chaotic as training: 24 steps make a millionth as large as anything.
CELLS = ["""import os
import torch
from transformers import GPT2Config, GPT2LMHeadModel
assert os.environ["OMP_NUM_THREADS"] == "1"
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
before = model.transformer.wte.weight.detach().clone()
torch.optim.Adam(model.parameters())
moved = (model.transformer.wte.weight / before - 1).abs()
print("moved a little:", bool(0 < moved.max() < 1e-5))""",
         "torch.manual_seed(1)\nprint(f'drawn: {torch.rand(1).item():.3f} ± 0.001')",
         """x = model.transformer.wte.weight[0, 0].item() % 1
for _ in range(24):
    x = 1 - abs(1 - 2 * x)
print(f"chaos: {x:.3f} ± 0.001, with an honest error: {x:.2f} ± 0.60")""",
         "model.save_pretrained('saved')\nloaded = [GPT2LMHeadModel.from_pretrained('saved') for _ in range(2)]\n"
         "weights = [m.transformer.wte.weight for m in (model, *loaded)]\n"
         "print('copies stay copies:', torch.equal(*weights[1:]), 'and moved:', not torch.equal(*weights[:2]))"]


@pytest.fixture
def bands() -> Any:
    spec = importlib.util.spec_from_file_location("bands", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, sources: list[str]) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_chaotic_number_is_found_and_the_others_are_left_alone(
        bands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = write(tmp_path / "chaos.ipynb", CELLS)
    as_it_was = path.read_bytes()
    assert bands.main([str(path), "--restarts", "1"]) == 1
    assert path.read_bytes() == as_it_was
    printed = capsys.readouterr().out
    assert "chaos, 2 runs: 3 to change" in printed  # the number, and two texts that say whether weights were moved
    assert "Cell 0: TEXT DIFFERS between runs\n    - moved a little: False\n    + moved a little: True\n" in printed
    assert re.search(r"Cell 1, number 1: \S+ ± 0.001, over runs ± 0\n", printed)
    assert re.search(r"Cell 2, number 1: \S+ ± 0.001, over runs ± 0\.\d+  WIDEN by 0\.\d+, to 0\.\d+\n", printed)
    assert re.search(r"Cell 2, number 2: \S+ ± 0.60, over runs ± 0\.\d+\n", printed)
    assert "- copies stay copies: True and moved: False" in printed
    assert "+ copies stay copies: True and moved: True" in printed


def test_the_deviation_and_the_wider_error_by_hand(bands: Any) -> None:
    runs = [["plain", "gain +1.00 ± 0.03, cost 2.0 ± 0.5"], ["plain", "gain +1.04 ± 0.03, cost 2.1 ± 0.5"],
            ["plain", "gain +1.08 ± 0.03, cost 2.2 ± 0.5"]]
    assert bands.report(runs) == ([
        "Cell 1, number 1: +1.00 ± 0.03, over runs ± 0.04  WIDEN by 0.04, to 0.05",
        "Cell 1, number 2: 2.0 ± 0.5, over runs ± 0.1"], 1)


def test_cells_that_nbval_does_not_compare_are_left_out(bands: Any) -> None:
    output = nbformat.v4.new_output("stream", text="gain 1.0 ± 0.1\n")
    cell = nbformat.v4.new_code_cell("print()", outputs=[output])
    assert bands.printed(cell) == "gain 1.0 ± 0.1\n"
    cell.metadata["tags"] = ["nbval-ignore-output"]
    assert bands.printed(cell) == ""
