"""Several processes on gloo do what one does: the same tokens, and weights that differ by rounding only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_mini import team
from rlhf_mini.errors import InputError

ROOT = Path(__file__).parent.parent
PROGRAM = Path(__file__).parent / "team_program.py"


def start(processes: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program in so many processes, as torchrun starts them."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_one_process_shares_nothing() -> None:
    x = torch.arange(3.0)
    assert team.size() == 1 and team.first() and team.share([1, 2, 3]) == [1, 2, 3]
    assert team.total(x) is x
    team.join()
    team.wait()
    team.leave()


def test_shares_are_whole_and_disjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(team.share(list(range(10))))
        assert team.first() == (rank == 0)
        assert team.once(lambda: "written")() == ("written" if rank == 0 else None)
    assert sorted(row for share in shares for row in share) == list(range(10))
    assert [len(share) for share in shares] == [4, 3, 3]
    with pytest.raises(InputError, match="batch_size is 2 and 3 processes share it: start at most 2 processes"):
        team.check_share(2, "batch_size")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("team")
    done = start(1, PROGRAM, folder)
    assert done.returncode == 0, done.stderr
    return folder, load_file(folder / "1.safetensors")


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.faults)])
def test_processes_do_what_one_does(processes: int, alone: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """Ten endings in two minibatches are uneven shares for 2 and for 3; of two groups, a third process has none."""
    folder, expected = alone
    done = start(processes, PROGRAM, folder)
    assert done.returncode == 0, done.stderr
    found = load_file(folder / f"{processes}.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("tokens"):
            assert torch.equal(found[name], value), name
        else:
            # The true gradients of key biases are 0; Adam makes steps of full size from their rounding.
            keys = name.endswith("c_attn.bias")
            torch.testing.assert_close(found[name], value, atol=1e-2 if keys else 1e-9, rtol=1e-7, msg=name)
