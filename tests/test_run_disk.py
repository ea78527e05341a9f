"""A run outlives kills, power cuts and a full disk: resumed, it ends with the numbers of a run that nothing stopped."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_cache import PageCache, a_part, nothing, zeros
from tiny_run import make_base, numbers, shrink_constants, tiny_config

from rlhf_mini import files, pipeline
from rlhf_mini.files import NotSavedError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL, and folders cannot be synced there")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        yield make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def unbroken(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    pipeline.run(tiny_config(base, out))
    return numbers(out)


def go_on(base: Path, out: Path) -> None:
    """Begin the run, or resume it; what it says of stages that are done again is not looked at here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.run(tiny_config(base, out), resume=(out / "config.json").exists())


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_is_killed_thirty_times(seed: int) -> None:
    """`make kills` does it five hundred times, and at every call."""
    program = Path(__file__).with_name("kills.py")
    done = subprocess.run([sys.executable, program, "--kills", "30", "--seed", str(seed)], text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(program.parents[1])})
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 30


def after_power_cuts(base: Path, folder: Path, seed: int, count: int) -> Iterator[Path]:
    """The folders that power cuts at random moments of a run leave."""
    moments = random.Random(seed).sample(range(900), count)
    root = folder / "root"
    root.mkdir()
    with pytest.MonkeyPatch.context() as spied:
        cache = PageCache(root, spied, wanted=lambda moment: moment in moments)
        pipeline.run(tiny_config(base, root / "run"))
    assert cache.moments > 900
    for number, cut in enumerate(cache.cuts):
        cache.rebuild(cut, folder / str(number), (nothing, a_part, zeros)[number % 3])
        yield folder / str(number) / "run"


def test_the_old_file_is_there_until_the_name_of_the_new_one_is_synced(tmp_path: Path) -> None:
    """What rebuilds a disk after a power cut is right itself."""
    root = tmp_path / "root"
    files.write(root / "file", b"old")
    with pytest.MonkeyPatch.context() as spied:
        cache = PageCache(root, spied)
        files.write(root / "file", b"new")
    left = set()
    for number, cut in enumerate(cache.cuts):
        cache.rebuild(cut, tmp_path / str(number), nothing)
        left.add((tmp_path / str(number) / "file").read_bytes())
    assert left == {b"old", b"new"}


@pytest.mark.parametrize("count", [4, pytest.param(24, marks=pytest.mark.faults)])
def test_a_run_goes_on_after_a_power_cut(count: int, base: Path, unbroken: dict[str, Any]) -> None:
    shared = Path("/dev/shm")  # a file system in memory never gives the number of a removed file to a new one
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        for out in after_power_cuts(base, Path(folder), count, count):
            go_on(base, out)
            assert numbers(out) == unbroken


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB, which `grow` makes larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # loaded weights keep their file open


def grow(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)


def test_a_disk_that_is_full_gets_one_line_and_room_lets_the_run_go_on(base: Path, unbroken: dict[str, Any],
                                                                       small_disk: Path) -> None:
    out, said = small_disk / "run", []
    for kilobytes in (64, 128, 200, 260, 320, 400, 480, 560, 640, 720, 800, 900, 1000, 1200, 1400, 1600, 4000):
        grow(small_disk, kilobytes)
        try:
            go_on(base, out)
            break
        except NotSavedError as error:
            said.append(str(error))
    assert numbers(out) == unbroken
    assert len(said) > 6 and all("No space left on device" in line and "\n" not in line for line in said)
    assert len({line.split(" cannot")[0] for line in said}) > 4  # it was full at many places


@pytest.mark.parametrize("kilobytes", [1, 8, 24, 60])
def test_a_file_that_may_not_grow_gets_one_line(kilobytes: int, base: Path, unbroken: dict[str, Any],
                                                tmp_path: Path) -> None:
    """What no root is needed for: the system refuses larger files, in the libraries that write models, too."""
    import resource
    import signal

    config, (soft, hard) = tiny_config(base, tmp_path / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, hard))
        with pytest.raises(NotSavedError, match="File too large"):
            pipeline.run(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    go_on(base, config.out)
    assert numbers(config.out) == unbroken
    assert not list(config.out.rglob("*.tmp"))
