"""The KL microscope: a widget that shows one ending as a row of tokens, and the numbers of the chosen token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anywidget
import traitlets

from rlhf_mini.errors import InputError
from rlhf_mini.token_views import TokenView, describe

WHITE, ORANGE = (255, 255, 255), (0xD5, 0x5E, 0x00)
SMALLEST_SCALE = 0.1  # nats: a token with the full colour has at least this KL
HERE = Path(__file__).parent


class KLMicroscope(anywidget.AnyWidget):
    """The ending as a row of buttons, more orange where the exact KL is larger; the chosen token shows its numbers.

    A click chooses a token, and so do the arrow keys. It shows the `opening` before the ending. It needs no kernel.
    """

    _esm = HERE / "microscope.js"
    _css = HERE / "microscope.css"
    view = traitlets.Dict().tag(sync=True)
    chosen = traitlets.Int().tag(sync=True)

    def __init__(self, views: Sequence[TokenView], kl_coef: float, opening: str = "") -> None:
        if not views:
            raise InputError("there are no tokens to show: give the views that `view_tokens` returns")
        self.views, self.kl_coef = list(views), kl_coef
        largest = max(SMALLEST_SCALE, *(view.kl for view in views))
        tokens = [{"label": view.label, "title": f"KL {view.kl:z.3f} nats", "colour": _colour(view.kl / largest),
                   "numbers": self.numbers(place)} for place, view in enumerate(self.views)]
        super().__init__(view={"opening": opening, "scale": f"{largest:.2f}", "tokens": tokens},
                         chosen=max(range(len(views)), key=lambda place: views[place].kl))

    def numbers(self, place: int) -> list[str]:
        """The sentences about the token at this place."""
        first, *others = describe(self.views[place], self.kl_coef)
        return [f"Token {place + 1} of {len(self.views)}. {first}", *others]

    def choose(self, place: int) -> None:
        """Show the token at this place, as a click on it does."""
        if not 0 <= place < len(self.views):
            raise InputError(f"place is {place}: give 0 to {len(self.views) - 1}")
        self.chosen = place

    def __repr__(self) -> str:
        return f"KLMicroscope of {len(self.views)} tokens: run this cell to press them"


def _colour(share: float) -> str:
    share = max(0.0, share)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(WHITE, ORANGE, strict=True))
