"""Get the files of a checkpoint from the Hugging Face hub, or give up within seconds and say why."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.request import getproxies

from huggingface_hub import close_session, constants, get_session, snapshot_download

from rlhf_mini.errors import InputError, first_line

SECONDS = 5  # the hub's own client would try for minutes
PROXY_WANTS_PASSWORD = 407


def download(name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder of the hub's cache with the files of this model; files that it has already are not downloaded.

    Raises: InputError where there is no such model, or the hub cannot be reached and the cache does not have it.
    """
    problem = hub_problem()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns),
                                      local_files_only=problem is not None))
    except Exception as error:  # the hub's client has many kinds
        raise not_downloaded(name, problem or first_line(error)) from error


def not_downloaded(name: str, reason: str) -> InputError:
    """The error for a model that is neither a folder nor comes from the hub."""
    return InputError(f"{name} (not a folder here, so looked up on the Hugging Face hub) cannot be downloaded: with a "
                      f"network, run `hf download {name}` and repeat the command, or give a folder ({reason})")


def hub_problem() -> str | None:
    """Why the hub does not answer, through a proxy where one is set; None if it does.

    A thread asks, because no timeout of a client covers all that can hang: a name server, a proxy that is silent.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids the network"
    found: list[str | None] = []
    asking = threading.Thread(target=lambda: found.append(_problem()), daemon=True)
    asking.start()
    asking.join(SECONDS + 1)
    problem = found[0] if found else f"no answer within {SECONDS} seconds"
    if problem is None:
        return None
    close_session()  # the next call reads the proxies again
    proxies = sorted(set(getproxies()) - {"no"})
    return f"{problem}; a proxy is set for {', '.join(proxies)}" if proxies else problem


def _problem() -> str | None:
    try:
        status = get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code
    except Exception as error:  # a proxy's address may be anything
        return f"the hub does not answer: {first_line(error)}"
    return f"the hub or a proxy answers {status}" if status == PROXY_WANTS_PASSWORD or status >= 500 else None
