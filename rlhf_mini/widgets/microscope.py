"""The KL microscope: a widget that shows one ending as a row of tokens, and the numbers of the chosen token."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import ipywidgets

from rlhf_mini.errors import InputError
from rlhf_mini.token_views import TokenView, describe

WHITE, BLACK, ORANGE = (255, 255, 255), "#111111", (0xD5, 0x5E, 0x00)
SMALLEST_SCALE = 0.1  # nats: a token with the full colour has at least this KL
PLAIN, CHOSEN = "2px solid #BBBBBB", "2px solid #0072B2"


class KLMicroscope(ipywidgets.VBox):
    """The ending as a row of buttons, more orange where the exact KL is larger; a click shows that token's numbers."""

    def __init__(self, views: Sequence[TokenView], kl_coef: float) -> None:
        if not views:
            raise InputError("there are no tokens to show: give the views that `view_tokens` returns")
        self.views, self.kl_coef, self.chosen = list(views), kl_coef, -1
        largest = max(SMALLEST_SCALE, *(view.kl for view in views))
        self.chips = [_chip(view, max(0.0, view.kl) / largest) for view in views]
        for place, chip in enumerate(self.chips):
            chip.on_click(lambda _, place=place: self.choose(place))
        self.details = ipywidgets.HTML()
        row = ipywidgets.Box(self.chips, layout=ipywidgets.Layout(flex_flow="row wrap"))
        head = _html([f"Click a token. More orange is more KL; the full colour is {largest:.2f} nats."])
        super().__init__([head, row, self.details])
        self.choose(max(range(len(views)), key=lambda place: views[place].kl))

    def choose(self, place: int) -> None:
        """Show the token at this place, as a click on it does."""
        if self.chosen >= 0:
            self.chips[self.chosen].layout.border = PLAIN
        self.chosen = place
        self.chips[place].layout.border = CHOSEN
        sentences = describe(self.views[place], self.kl_coef)
        self.details.value = _html([f"Token {place + 1} of {len(self.views)}. {sentences[0]}", *sentences[1:]]).value

    def __repr__(self) -> str:
        return f"KLMicroscope of {len(self.views)} tokens: run this cell to press them"


def _chip(view: TokenView, share: float) -> ipywidgets.Button:
    """A button; the front end shows its description as text, so that a model cannot write HTML into it."""
    colour = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(WHITE, ORANGE, strict=True))
    return ipywidgets.Button(description=view.label, tooltip=f"KL {view.kl:.3f} nats",
                             style={"button_color": colour, "text_color": BLACK},
                             layout={"width": "auto", "margin": "2px", "border": PLAIN})


def _html(sentences: Sequence[str]) -> ipywidgets.HTML:
    return ipywidgets.HTML("".join(f'<div style="line-height: 1.5">{escape(sentence)}</div>' for sentence in sentences))
