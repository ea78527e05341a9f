"""How the command line reads its arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from rlhf_mini.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises errors as InputErrors, in one line and without the usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS,
                         formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def path_text(text: str) -> Path:
    """A path that an option gives; an empty text, such as of a variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a path")
    return Path(text)
