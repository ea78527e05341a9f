"""The exception for user input that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Some input cannot be used; the message says in one line what it is, why, and what to do."""


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say where an InputError happened, such as in which iteration."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
