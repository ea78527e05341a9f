"""What surrounds a command: the folder it is started in, variables of the shell, warnings, the network and Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rlhf_mini import team
from rlhf_mini.errors import InputError, visible


@contextmanager
def command_environment(options: Mapping[str, Any]) -> Iterator[None]:
    """Use the network only for a hub name, print warnings as notes, and stop at once on a second Ctrl-C."""
    _require_folder()
    _drop_bad_settings_of_bars()
    base = str(options.get("base", "."))
    if Path(base).exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        os.environ["HF_HUB_OFFLINE"] = "1"

    def note(message: Warning | str, kind: type[Warning], *_: Any) -> None:
        if issubclass(kind, UserWarning) and team.first():
            from rlhf_mini.run.screen import write_line  # tqdm, whose settings have been looked at by now

            write_line("rlhf_mini: note: " + visible(" ".join(str(message).split())))

    def interrupt(*_: Any) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        with warnings.catch_warnings():
            if sys.warnoptions:  # such as PYTHONWARNINGS=error, meant for other programs, which would end a run
                warnings.resetwarnings()
            warnings.showwarning = note  # type: ignore[assignment]
            yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _require_folder() -> None:
    """Raises: InputError where the current folder has been deleted: transformers cannot be imported there."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(f"the current folder cannot be used ({error}): go to another one, and repeat the "
                         "command") from None


def _drop_bad_settings_of_bars() -> None:
    """Forget TQDM_NCOLS and its like where one has a value that tqdm cannot read: it cannot even be imported then."""
    try:
        import tqdm  # noqa: F401
    except ValueError:
        for name in [name for name in os.environ if name.startswith("TQDM_")]:
            del os.environ[name]
