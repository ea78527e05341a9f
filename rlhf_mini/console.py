"""Standard output and standard error on which writing never fails: nobody loses a run because a pipe was closed."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Stream:
    """A text stream that writes what it can; `lost` is the error after which it writes nothing more.

    A letter that the encoding lacks is written as an escape, such as \\u2212.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = io.StringIO() if stream is None else stream  # None: it was closed before the program started
        self.lost: Exception | None = BrokenPipeError() if stream is None else None

    def write(self, text: str) -> int:
        """Write, unless the stream is lost; returns the length of the text, as streams do."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._try(self._stream.write, text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, unless the stream is lost."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Any, *arguments: str) -> None:
        if self.lost is None:
            try:
                act(*arguments)
            except (OSError, ValueError) as error:  # a ValueError: it was closed by this program
                self.lost = error
                self._forget()

    def _forget(self) -> None:
        """Let what is still buffered go nowhere, or Python would complain of it when it ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def safe(stream: Any) -> Stream:
    """The stream, or None for a closed one, as one on which writing never fails."""
    return stream if isinstance(stream, Stream) else Stream(stream)


def link(path: Path, stream: Any) -> str:
    """The address of a file, which a terminal opens with a click: most know an address, some want it marked (OSC 8)."""
    address = path.absolute().as_uri()
    return f"\x1b]8;;{address}\x1b\\{address}\x1b]8;;\x1b\\" if stream.isatty() else address


@contextlib.contextmanager
def safe_streams() -> Iterator[Stream]:
    """Make stdout and stderr safe for the block, which gets the safe stdout."""
    _open_closed()
    streams = sys.stdout, sys.stderr
    out, err = safe(sys.stdout), safe(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = streams


def _open_closed() -> None:
    """Open what is closed of stdin, stdout and stderr, or their numbers would go to files that are opened later.

    Libraries in C write to these numbers: their warnings would get into such a file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
