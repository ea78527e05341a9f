"""The report in a browser: its scrubber moves, values appear, and nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browsing import chromium, skip_without_browser
from test_report import HISTORY, LOOKS, METRICS, STORIES

from rlhf_mini.report import write_report

skip_without_browser()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The report of a run with two openings and looks after 0, 1 and 3 updates; all that goes wrong is in `.wrong`."""
    path = write_report(tmp_path_factory.mktemp("run"), METRICS, HISTORY, STORIES, LOOKS)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.wrong = []
        page.on("console", lambda message: page.wrong.append(message.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith("file:") or page.wrong.append(request.url))
        page.goto(path.as_uri())
        yield page


def texts(page: Any) -> list[str]:
    return [page.locator(f"#watch .ending.{arm} .told").inner_text()[:18].strip() for arm in ("ppo", "ppo_no_kl")]


def test_text_and_dot_move_together(page: Any) -> None:
    slider, dot = page.locator("#watch input"), page.locator("#watch .dot.ppo")
    assert texts(page) == ["a key ppo 3 <scrip", "a key ppo_no_kl 3"]
    before = dot.get_attribute("cx")
    slider.focus()
    page.keyboard.press("Home")
    assert texts(page) == ["a key ppo 0 <scrip", "a key ppo_no_kl 0"]
    assert page.locator("#watch output").inner_text() == "before training" and dot.get_attribute("cx") != before
    page.keyboard.press("ArrowRight")
    assert page.locator("#watch output").inner_text() == "after 1 update"
    assert page.locator("#watch .ending.ppo .worth").inner_text() == "score +0.50 · gold +0.00"
    page.get_by_role("button", name="opening 2 of 2").click()
    assert texts(page)[0] == "an egg ppo 1 <scri"
    assert page.locator("#watch .opening").inner_text() == "Mira found an egg."
    page.get_by_role("button", name="Play").click()
    page.get_by_text("after 3 updates", exact=True).wait_for()
    page.get_by_role("button", name="Play").wait_for()  # it stops at the end


def test_a_value_appears_below_the_pointer(page: Any) -> None:
    figure = page.locator("#watch figure")
    assert figure.locator(".tip").is_hidden()
    dot = page.locator("#watch .dot.ppo_no_kl").bounding_box()
    page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    page.locator("#watch .dot.ppo").hover(force=True)
    assert "iteration" in figure.locator(".tip").inner_text()


@pytest.mark.parametrize("width", [390, 768, 1366])
def test_nothing_is_cut_at_any_width(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth).length"
    assert page.evaluate(wide) == 0


def test_print_shows_the_table_and_no_controls(page: Any) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#watch details table").is_visible() and not page.locator("#watch .controls").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 249)"
    page.emulate_media(media="screen")


def test_nothing_was_loaded_and_nothing_went_wrong(page: Any) -> None:
    assert page.wrong == []
