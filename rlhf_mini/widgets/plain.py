"""A ranking form in plain ipywidgets: a row of choices under each completion, and buttons."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets

from rlhf_mini.rankings import RankingSession
from rlhf_mini.widgets.controller import RankingController

TEXT = '<div dir="auto" style="white-space: pre-wrap; line-height: 1.4; padding: 4px 0">{}</div>'


class PlainRanking(ipywidgets.VBox):
    """A form for a session: each completion gets a place from 1 (best), where equal places tie, or 1 to 7 points."""

    def __init__(self, session: RankingSession, rating: bool = False) -> None:
        self.controller = RankingController(session, rating)
        self.controller.changed = lambda: self._show(self.controller.view())
        self.choices: list[ipywidgets.ToggleButtons] = []
        self.buttons = {name: ipywidgets.Button(description=name, button_style="primary" if name == "Submit" else "")
                        for name in ("Submit", "Skip", "Undo")}
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self.act(act=name.lower()))
        self.message = ipywidgets.HTML()
        self.row = ipywidgets.HBox([*self.buttons.values(), self.message])  # it stays where it is, and keeps the focus
        super().__init__()
        self._show(self.controller.view())

    def act(self, **act: Any) -> dict[str, Any]:
        """Do the same as a click on a button; "submit" uses the form's choices unless it has a ranking or ratings."""
        if act.get("act") == "submit" and not {"ranking", "ratings"} & act.keys():
            chosen = [choice.value for choice in self.choices]
            if None in chosen:
                self._show_message("choose a number for every text first, then submit", wrong=True)
                return self.controller.view()
            act |= {"ratings": chosen} if self.controller.rating else {"ranking": groups(chosen)}
        turn = self.controller.turn
        view = self.controller.handle(act)
        if self.controller.turn != turn:
            self._show(view)
        else:
            self._show_message(view["error"], wrong=True)
        return view

    def _show(self, view: dict[str, Any]) -> None:
        done, total = view["done"], view["total"]
        head: list[Any] = [ipywidgets.IntProgress(value=done, max=max(total, 1), description=f"{done} of {total}")]
        levels = range(7, 0, -1) if view["rating"] else range(1, len(view["shown"]) + 1)
        self.choices = [ipywidgets.ToggleButtons(options=list(levels), value=value, description=f"{position}:",
                                                 style={"button_width": "36px"})
                        for position, value in enumerate(_taken_back(view), start=1)]
        cards = [ipywidgets.VBox([_text(f"{position}. {text}"), choice]) for position, (text, choice)
                 in enumerate(zip(view["shown"], self.choices, strict=True), start=1)]
        if view["finished"]:
            head.append(_text(f"{view['closing']} Undo takes back the latest answer."))
        else:
            head += [_text(view["prompt"], strong=True), ipywidgets.HTML(
                "7 is best, 1 is worst" if view["rating"] else "1 is best; equal places are a tie")]
        self.buttons["Undo"].disabled = not view["can_undo"]
        for name in ("Submit", "Skip"):
            self.buttons[name].disabled = view["finished"]
        self._show_message(view["error"] or view["saved"], wrong=bool(view["error"]))
        self.children = (self.row, *head, *cards)

    def _show_message(self, message: str, wrong: bool = False) -> None:
        weight = "bold" if wrong else "normal"
        self.message.value = f'<span role="status" dir="auto" style="font-weight: {weight}">{escape(message)}</span>'


def groups(places: list[int]) -> list[list[int]]:
    """Tie groups of positions, best first, from the place of each position: [2, 1, 2] -> [[1], [0, 2]]."""
    return [[position for position, place in enumerate(places) if place == level] for level in sorted(set(places))]


def _taken_back(view: dict[str, Any]) -> list[int | None]:
    """The number of each position in the answer that an undo took back; None where there is none."""
    before = view["before"] or {}
    if view["rating"] and "ratings" in before:
        return list(before["ratings"])
    if view["rating"] or not before:
        return [None] * len(view["shown"])
    place = {position: place for place, group in enumerate(before["ranking"], start=1) for position in group}
    return [place[position] for position in range(len(view["shown"]))]


def _text(text: str, strong: bool = False) -> ipywidgets.HTML:
    """A text, escaped, because a model may write HTML."""
    return ipywidgets.HTML(TEXT.format(f"<strong>{escape(text)}</strong>" if strong else escape(text)))
