"""The ranking forms in a real JupyterLab in Chromium: what a person does is what the files on disk hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlhf_mini.rankings import Ranking, RankingStore, current

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("RLHF_MINI_BROWSER") == "required"  # set by .ci/run: there, a skip would hide a missing part
ROOT = Path(__file__).parent.parent
TOKEN = "test"
PATIENCE = 120_000  # ms; a busy machine takes its time
READY = """async () => {
    if (document.querySelector(".jp-Dialog")) return true;
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    if (!context?.isReady || context.session?.kernel?.connectionStatus !== "connected") return false;
    await context.session.kernel.info;
    return context.session.kernel.status === "idle";
}"""
HOSTILE = ['<img src=x onerror="window.hacked=1">', "**bold** <script>window.hacked=2</script>", "plain", "<b>b</b>"]
CELL = """
from rlhf_mini.rankings import RankingSession, RankingStore
from rlhf_mini.widgets import ranking_widget
items = [("Hostile.", {hostile!r})] + [(f"Prompt {{i}}.", [f"Text {{i}}{{c}}" for c in "abcd"]) for i in range(1, 13)]
store = RankingStore("rankings-{name}", "Ada")
ranking_widget(RankingSession(items, "Ada", store), plain={plain}, rating={rating})
"""


def missing() -> str:
    """Why the browser tests cannot run here; empty if they can."""
    if not CHROMIUM:
        return "no chromium on the PATH"
    try:
        import jupyterlab  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


if (why := missing()) and not REQUIRED:
    pytest.skip(f"browser tests need JupyterLab, Playwright and Chromium: {why}", allow_module_level=True)


def write_notebook(folder: Path, name: str, plain: bool = False, rating: bool = False) -> None:
    source = CELL.format(hostile=HOSTILE, name=name, plain=plain, rating=rating).strip()
    cell: dict[str, Any] = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {},
                            "outputs": [], "source": source}
    notebook = {"cells": [cell], "metadata": {"kernelspec": {
        "display_name": "Python 3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab of its own: its address and its folder."""
    folder, private = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("private")
    for name, options in {"cards": {}, "plain": {"plain": True}, "points": {"rating": True}}.items():
        write_notebook(folder, name, **options)
    places = {f"JUPYTER_{kind}_DIR": str(private / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    environment = {**os.environ, **places, "PYTHONPATH": str(ROOT), "HOME": str(private)}
    with (private / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1",
             f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
             "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            env=environment, stdout=log, stderr=log)
        try:
            yield address(private / "runtime", server), folder
        finally:
            server.terminate()
            server.wait(20)


def address(runtime: Path, server: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 90
    while time.monotonic() < until and server.poll() is None:
        for info in runtime.glob("jpserver-*.json"):
            url: str = json.loads(info.read_text())["url"]
            try:
                urllib.request.urlopen(f"{url}api?token={TOKEN}", timeout=5)
                return url
            except OSError:
                pass
        time.sleep(0.3)
    raise AssertionError("JupyterLab did not start")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def opened(page: Any, lab: tuple[str, Path], name: str) -> None:
    page.goto(f"{lab[0]}lab/tree/{name}.ipynb?token={TOKEN}&reset")
    run_cell(page)


def run_cell(page: Any) -> None:
    """Run the one cell of a notebook without outputs, until it has run.

    On a busy machine JupyterLab may lose sight of a kernel that it has just started. Then it drops the cell, or asks
    which kernel to take; a person would take the one offered and run the cell again.
    """
    from playwright.sync_api import TimeoutError

    code = page.locator(".jp-Notebook .jp-CodeCell").first
    for _ in range(10):
        page.wait_for_function(READY)
        if (dialog := page.locator(".jp-Dialog")).count():
            dialog.locator("button.jp-mod-accept").click()
            continue
        if any(digit in code.locator(".jp-InputPrompt").inner_text() for digit in "123456789"):
            break
        with suppress(TimeoutError):  # such a question came in between
            code.locator(".cm-content").click(timeout=5000)
            page.keyboard.press("Control+Enter")
            page.wait_for_timeout(1000)
    page.locator(".jp-OutputArea-output").first.wait_for()


def restart_kernel(page: Any) -> None:
    """By the menu, with the outputs cleared: what is seen afterwards is new."""
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-item").filter(has_text="Restart Kernel and Clear Outputs of All Cells…").click()
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    page.wait_for_function("document.querySelectorAll('.jp-OutputArea-output').length === 0")


def held(lab: tuple[str, Path], name: str) -> list[Ranking]:
    return RankingStore(lab[1] / f"rankings-{name}", "Ada").records()


def waits_for(page: Any, done: int) -> None:
    page.get_by_text(f"{done} of 13", exact=True).wait_for()


def by_position(record: Ranking) -> list[list[int]]:
    return [sorted(record.shown_order.index(index) for index in group) for group in record.ranking]


def test_ranking_by_keyboard_and_mouse_is_on_the_disk_exactly(lab: tuple[str, Path], page: Any) -> None:
    opened(page, lab, "cards")
    card = page.locator(".rlhf-card")
    card.first.wait_for()
    assert sorted(page.locator(".rlhf-text").all_inner_texts()) == sorted(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".rlhf-ranking img, .rlhf-ranking script").count() == 0

    card.first.focus()
    wanted: list[Any] = []
    for done, (keys, groups) in enumerate([
            ("1234", [[0], [1], [2], [3]]), ("4321", [[3], [2], [1], [0]]), ("12t34", [[0, 1], [2], [3]]),
            ("31t24t", [[0, 2], [1, 3]]), ("21t4t3t", [[0, 1, 2, 3]])], start=1):
        for key in [*keys, "Enter"]:
            page.keyboard.press(key)
        waits_for(page, done)
        wanted.append(("ranking", groups))
    page.keyboard.press("s")
    waits_for(page, 6)
    page.keyboard.press("u")
    waits_for(page, 5)
    page.keyboard.press("u")
    waits_for(page, 4)
    wanted += [("skip", []), ("undo", []), ("undo", [])]
    assert [(r.kind, by_position(r)) for r in held(lab, "cards")] == wanted

    restart_kernel(page)
    run_cell(page)
    waits_for(page, 4)
    for done in range(5, 10):
        for position in (2, 0, 1, 3):
            card.nth(position).click()
        if done == 6:
            page.get_by_role("button", name="Tie", exact=True).click()
        if done == 7:
            page.locator(".rlhf-chip").nth(3).drag_to(page.locator(".rlhf-chip").nth(0))
        page.get_by_role("button", name="Submit", exact=True).click()
        waits_for(page, done)
        wanted.append(("ranking", {6: [[2], [0], [1, 3]], 7: [[3], [2], [0], [1]]}.get(done, [[2], [0], [1], [3]])))
    page.get_by_role("button", name="Skip", exact=True).click()
    waits_for(page, 10)
    wanted.append(("skip", []))
    page.get_by_text("skip saved").wait_for()
    records = held(lab, "cards")
    assert [(r.kind, by_position(r)) for r in records] == wanted
    assert all(r.seconds and r.seconds > 0 for r in records if r.kind == "ranking")
    assert len(current(records)) == 10
    assert len({r.session for r in records}) == 2


def test_the_plain_form_does_the_same(lab: tuple[str, Path], page: Any) -> None:
    opened(page, lab, "plain")
    choose(page, [1, 2, 3, 4])
    press(page, "Submit", 1)
    assert page.evaluate("window.hacked") is None
    choose(page, [2, 1, 2, 1])
    press(page, "Submit", 2)
    press(page, "Skip", 3)
    press(page, "Undo", 2)
    press(page, "Undo", 1)
    restart_kernel(page)
    run_cell(page)
    waits_for(page, 1)
    choose(page, [4, 3, 2, 1])
    press(page, "Submit", 2)
    assert [(r.kind, by_position(r)) for r in held(lab, "plain")] == [
        ("ranking", [[0], [1], [2], [3]]), ("ranking", [[1, 3], [0, 2]]), ("skip", []), ("undo", []), ("undo", []),
        ("ranking", [[3], [2], [1], [0]])]


def choose(page: Any, places: list[int]) -> None:
    rows = page.locator(".widget-toggle-buttons")
    rows.nth(3).wait_for()
    for row, place in enumerate(places):
        rows.nth(row).get_by_role("button", name=str(place), exact=True).click()


def press(page: Any, name: str, done: int) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    waits_for(page, done)


def test_rating_by_keyboard(lab: tuple[str, Path], page: Any) -> None:
    opened(page, lab, "points")
    page.locator(".rlhf-card").first.focus()
    for key in ("7", "1", "4", "4", "Enter"):
        page.keyboard.press(key)
    waits_for(page, 1)
    (record,) = held(lab, "points")
    assert [(record.ratings or [])[index] for index in record.shown_order] == [7, 1, 4, 4]
    assert by_position(record) == [[0], [2, 3], [1]]
