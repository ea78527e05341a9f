"""The one exception that user input can cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what, why and what to do."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say where an InputError happened, such as in which iteration."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
