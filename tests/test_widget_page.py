"""The widgets' own pages in Chromium, without JupyterLab: keys on any keyboard, text in any direction, focus."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium, skip_without_browser

from rlhf_mini.token_views import TokenView
from rlhf_mini.widgets import KLMicroscope

skip_without_browser()

HERE = Path(__file__).parent
WIDGETS = HERE.parent / "rlhf_mini" / "widgets"
Open = Callable[..., Any]
KEYDOWN = """([key, code, more]) => document.activeElement.dispatchEvent(
    new KeyboardEvent('keydown', {key, code, bubbles: true, cancelable: true, ...more}))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    for path in (HERE / "widget_page.html", *WIDGETS.glob("*.js")):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/widget_page.html"
        server.shutdown()


@pytest.fixture
def open_widget(browser: Any, address: str) -> Iterator[Open]:
    context = browser.new_context(viewport={"width": 900, "height": 700})

    def opened(widget: str = "ranking", **view: Any) -> Any:
        page = context.new_page()
        page.add_init_script(f"window.WIDGET = {json.dumps(widget)}; window.VIEW = {json.dumps(view)}")
        page.goto(address)
        page.wait_for_function("window.ready")
        page.add_style_tag(path=str(WIDGETS / f"{widget}.css"))
        page.bring_to_front()
        return page

    yield opened
    context.close()


def press(page: Any, key: str, code: str, **more: Any) -> None:
    page.evaluate(KEYDOWN, [key, code, more])


def order(page: Any) -> list[str]:
    return list(page.locator(".rlhf-chip").all_inner_texts())


def acts(page: Any) -> list[str]:
    return [act["act"] for act in page.evaluate("acts()")]


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.className + document.activeElement.innerText"))


# Keys -----------------------------------------------------------------------------------------------------------


def test_the_digit_row_ranks_on_every_keyboard(open_widget: Open) -> None:
    page, no_more = open_widget(), dict[str, Any]()
    for first, second, more in [
            (("2", "Digit2"), ("1", "Digit1"), no_more), (("é", "Digit2"), ("&", "Digit1"), no_more),  # QWERTY, AZERTY
            (("2", "Digit2"), ("1", "Digit1"), {"shiftKey": True}),  # AZERTY, with Shift
            (("ě", "Digit2"), ("+", "Digit1"), no_more), (("٢", "Digit2"), ("١", "Digit1"), no_more),  # Czech, Arabic
            (("2", "Numpad2"), ("1", "Numpad1"), no_more), (("2", ""), ("1", ""), no_more),  # a screen's keyboard
            (("Dead", "Digit2"), ("1", "Digit1"), no_more)]:
        press(page, *first, **more)
        press(page, *second, **more)
        assert order(page) == ["2", "1"], (first, second)
        page.evaluate("nextItem()")


def test_letters_work_by_place_where_the_layout_has_no_latin_letter_there(open_widget: Open) -> None:
    page = open_widget()
    for key, code, expected in [
            ("s", "KeyS", ["skip"]), ("S", "KeyS", ["skip"]), ("ы", "KeyS", ["skip"]), ("ד", "KeyS", ["skip"]),
            ("σ", "KeyS", ["skip"]), ("س", "KeyS", ["skip"]), ("s", "Semicolon", ["skip"]),  # the last: Dvorak
            ("u", "KeyU", ["undo"]), ("г", "KeyU", ["undo"]), ("ש", "KeyA", []), ("o", "KeyS", []),
            ("è", "KeyT", []), ("v", "KeyU", []), ("End", "Numpad1", []), ("²", "Backquote", [])]:
        press(page, key, code)
        assert (acts(page), order(page)) == (expected, []), (key, code)
        page.evaluate("nextItem()")


def test_ties_work_by_place_too(open_widget: Open) -> None:
    page = open_widget()
    for key in ("t", "е", "ア"):
        for digit in "12":
            press(page, digit, f"Digit{digit}")
        press(page, key, "KeyT")
        assert page.locator(".rlhf-order").inner_text().split() == ["best", "1", "=", "2", "worst"]
        page.evaluate("nextItem()")


def test_a_held_key_acts_once(open_widget: Open) -> None:
    page = open_widget()
    for repeat in (False, True, True, True):
        press(page, "1", "Digit1", repeat=repeat)
    assert order(page) == ["1"]
    for turn, repeat in enumerate((False, True, True)):
        press(page, "s", "KeyS", repeat=repeat)
        page.evaluate("turn => become({turn})", turn + 1)
    assert acts(page) == ["skip"]
    page.locator(".rlhf-undo").focus()
    page.keyboard.down("Enter")
    page.keyboard.down("Enter")  # as a held key: the button would be pressed again
    page.keyboard.up("Enter")
    assert acts(page) == ["skip", "undo"]


def test_input_methods_and_combinations_are_left_alone(open_widget: Open) -> None:
    page = open_widget()
    for more in ({"isComposing": True}, {"keyCode": 229}, {"ctrlKey": True}, {"metaKey": True}, {"altKey": True},
                 {"modifierAltGraph": True}):
        for key, code in (("s", "KeyS"), ("u", "KeyU"), ("1", "Digit1")):
            press(page, key, code, **more)
        assert (acts(page), order(page)) == ([], []), more
    press(page, "Process", "KeyS")
    assert acts(page) == []


def test_backspace_is_listed_and_takes_the_latest_back(open_widget: Open) -> None:
    page = open_widget()
    assert "Backspace" in page.locator(".rlhf-keys").inner_text()
    for key in ("1", "3", "Backspace"):
        page.keyboard.press(key)
    assert order(page) == ["1"]
    page = open_widget(rating=True)
    assert "Backspace" in page.locator(".rlhf-keys").inner_text()
    for key in ("7", "3", "Backspace", "5", "1", "Backspace", "2", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("acts()") == [{"act": "submit", "turn": 0, "ratings": [7, 5, 2]}]


# Focus ----------------------------------------------------------------------------------------------------------


def test_a_widget_takes_the_focus_when_it_appears(open_widget: Open) -> None:
    page = open_widget()
    page.keyboard.press("3")
    assert order(page) == ["3"]
    assert not page.locator(".rlhf-away").is_visible()
    page.evaluate("document.activeElement.blur()")
    assert page.get_by_text("Click here, then type").is_visible()
    page.locator(".rlhf-prompt").click()
    page.keyboard.press("2")
    assert order(page) == ["3", "2"]


def test_after_the_last_item_a_second_enter_does_nothing(open_widget: Open) -> None:
    page = open_widget(shown=["one", "two"])
    for key in ("2", "1", "Enter"):
        page.keyboard.press(key)
    page.evaluate("become({turn: 1, finished: true, shown: [], saved: 'ranking saved', closing: 'Next: run on.'})")
    assert focused(page) == "rlhf-closingNext: run on."
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert acts(page) == ["submit"]
    page.keyboard.press("u")
    assert acts(page) == ["submit", "undo"]
    page.evaluate("become({turn: 2, finished: false, shown: ['one', 'two'], before: {ranking: [[1], [0]]}})")
    assert order(page) == ["2", "1"] and focused(page).startswith("rlhf-card")


def test_a_finished_view_is_drawn_even_in_the_same_turn(open_widget: Open) -> None:
    page = open_widget()
    page.evaluate("become({finished: true, done: 3, shown: [], closing: 'Next: run on.'})")
    assert page.locator(".rlhf-closing").inner_text() == "Next: run on."
    assert page.locator(".rlhf-count").inner_text() == "3 of 3" and page.locator(".rlhf-submit").count() == 0


def test_removing_a_tie_keeps_the_focus(open_widget: Open) -> None:
    page = open_widget()
    for key in ("1", "2", "t", "3", "t"):
        page.keyboard.press(key)
    page.get_by_role("button", name="remove this tie").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".rlhf-order").inner_text().split() == ["best", "1", ">", "2", "=", "3", "worst"]
    assert focused(page) == "rlhf-chip2"
    page.keyboard.press("Enter")
    assert page.evaluate("acts()") == [{"act": "submit", "turn": 0, "ranking": [[0], [1, 2]]}]


def test_chips_move_by_keyboard(open_widget: Open) -> None:
    page = open_widget()
    for key in ("1", "2", "3"):
        page.keyboard.press(key)
    page.locator(".rlhf-chip").nth(2).focus()
    expected = {"ArrowLeft": ["1", "3", "2"], "ArrowUp": ["3", "1", "2"], "Home": ["3", "1", "2"],
                "ArrowRight": ["1", "3", "2"], "t": ["1", "3", "2"], "ArrowDown": ["1", "3", "2"]}
    for key, after in expected.items():
        page.keyboard.press(key)
        assert (order(page), focused(page)) == (after, "rlhf-chip3"), key
    page.keyboard.press("Backspace")
    assert order(page) == ["1", "2"] and focused(page).startswith("rlhf-chip")


def test_what_is_chosen_outlives_a_kernel_that_does_not_answer(open_widget: Open) -> None:
    page = open_widget()
    for key in ("2", "3", "1", "Enter"):
        page.keyboard.press(key)
    page.get_by_text("Not saved yet: Python does not answer").wait_for()
    assert "run the cells above and then this one again" in page.locator(".rlhf-status").inner_text()
    page.keyboard.press("3")
    assert order(page) == ["2", "3", "1"]  # what was submitted stays
    page.reload()  # as when the cell is run again
    page.wait_for_function("window.ready")
    assert order(page) == ["2", "3", "1"]
    page.keyboard.press("Enter")
    page.evaluate("become({turn: 1, saved: 'ranking saved', prompt: 'Next.'})")
    assert order(page) == []
    page.evaluate("become({turn: 2, saved: 'undo saved', prompt: 'Prompt.'})")
    assert order(page) == []  # it was saved, so the page has forgotten it


def test_an_answer_to_an_earlier_message_is_not_taken_for_that_to_the_latest(open_widget: Open) -> None:
    page = open_widget(shown=["one", "two"])
    for key in ("1", "2", "Enter"):
        page.keyboard.press(key)
    page.evaluate("reply({act: 'seen', to: 0})")
    page.keyboard.press("1")  # the submitted order stays: its own answer is still to come
    assert order(page) == ["1", "2"]
    page.evaluate("become({turn: 1, saved: 'ranking saved', prompt: 'Next.'})")
    page.evaluate("become({turn: 2, saved: 'undo saved', prompt: 'Prompt.'})")
    assert order(page) == []  # no leftover of what was saved


def test_a_kernel_that_answers_late_is_believed(open_widget: Open) -> None:
    page = open_widget()
    page.keyboard.press("1")
    page.get_by_text("Python does not answer").wait_for()
    page.evaluate("become({})")
    assert page.locator(".rlhf-status").inner_text() == "Python answers again" and order(page) == ["1"]


# Text -----------------------------------------------------------------------------------------------------------


def test_every_text_has_its_own_direction(open_widget: Open) -> None:
    hebrew = "קמיל מצא תוף (fox) !"
    page = open_widget(prompt=hebrew, shown=[hebrew, "Plain English.", "one."], annotator="فاطمة")
    page.evaluate("text => become({error: text})", hebrew)
    for what, expected in ((".rlhf-prompt", "rtl"), (".rlhf-text >> nth=0", "rtl"), (".rlhf-text >> nth=1", "ltr"),
                           (".rlhf-annotator", "rtl"), (".rlhf-status", "rtl")):
        assert page.locator(what).evaluate("made => getComputedStyle(made).direction") == expected, what
    assert page.locator(".rlhf-cards").evaluate("made => getComputedStyle(made).direction") == "ltr"


def test_buttons_stand_still_from_item_to_item(open_widget: Open) -> None:
    for rating in (False, True):
        page = open_widget(rating=rating, prompt="Short.")
        names = [".rlhf-submit", ".rlhf-skip", ".rlhf-undo", *([] if rating else [".rlhf-tie", ".rlhf-order"])]
        before = [page.locator(name).bounding_box() for name in names]
        points = page.locator(".rlhf-point").first.bounding_box() if rating else None
        page.evaluate("text => become({turn: 1, prompt: text, shown: [text.repeat(4), 'x', text]})",
                      "A longer opening, which needs more than one line in a page as wide as this one is here. " * 2)
        assert [page.locator(name).bounding_box() for name in names] == before
        assert not rating or page.locator(".rlhf-point").first.bounding_box() == points


# The microscope -------------------------------------------------------------------------------------------------


def microscope(open_widget: Open, *texts: str, opening: str = "Ada found a drum.") -> Any:
    views = [TokenView(text, -0.5, -1.0, 0.5, 0.125, 0.1, 0.1, 0.0, -0.05, 0.3, -0.4, ((" a", 0.4),), ((" b", 0.5),))
             for text in texts]
    return open_widget("microscope", **KLMicroscope(views, 0.2, opening).view)


def pressed(page: Any) -> list[str]:
    return list(page.locator(".rlhf-token[aria-pressed=true][tabindex='0']").all_inner_texts())


def test_the_microscope_is_walked_with_the_arrow_keys(open_widget: Open) -> None:
    page = microscope(open_widget, " one", " two", " three", " <b>four</b>")
    assert page.locator(".rlhf-lens-opening").inner_text() == "Ada found a drum."
    page.keyboard.press("Tab")
    for key, expected in {"ArrowRight": "two", "ArrowDown": "three", "ArrowLeft": "two", "End": "<b>four</b>",
                          "ArrowUp": "three", "Home": "one"}.items():
        page.keyboard.press(key)
        assert pressed(page) == [expected] and focused(page).endswith(expected), key
        assert page.locator(".rlhf-token[tabindex='0']").count() == 1
        assert f"'{expected}' had" in page.locator(".rlhf-lens-numbers").inner_text()
    page.keyboard.press("ArrowLeft")  # there is nothing before the first
    assert pressed(page) == ["one"]
    page.locator(".rlhf-token").nth(2).click()
    assert pressed(page) == ["three"]


def test_in_the_microscope_left_is_ahead_where_the_text_runs_to_the_left(open_widget: Open) -> None:
    page = microscope(open_widget, " קמיל", " מצא", " תוף", opening="קמיל")
    assert page.locator(".rlhf-lens-opening").evaluate("made => getComputedStyle(made).direction") == "rtl"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert pressed(page) == ["מצא"]
