"""Find the files that come with the package: the checkpoint, and what notebooks start from."""

from __future__ import annotations

from pathlib import Path

from rlhf_mini.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
PLACES = (_PACKAGE / "_assets", _PACKAGE.parent / "assets")  # of an installed wheel, and of the source tree


def asset(name: str) -> Path:
    """The path of an asset, such as `tiny-tales-gpt2`, in the source tree or in an installed wheel.

    Raises: InputError if it is in neither place.
    """
    for place in PLACES:
        if (place / name).exists():
            return place / name
    places = " or in ".join(str(place) for place in PLACES)
    raise InputError(f"asset {name!r} is not in {places}: reinstall rlhf_mini, or rebuild the asset with the "
                     "command in README")
