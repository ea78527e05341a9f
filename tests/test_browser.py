"""The ranking forms in a real JupyterLab in Chromium: what a person does is what the files on disk hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browsing import chromium, skip_without_browser
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rlhf_mini.rankings import Ranking, RankingStore, current

skip_without_browser()

ROOT = Path(__file__).parent.parent
TOKEN = "test"
PATIENCE = 120_000  # ms; a busy machine takes its time
READY = """async () => {
    if (document.querySelector(".jp-Dialog")) return true;
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    if (!context?.isReady || context.session?.kernel?.connectionStatus !== "connected") return false;
    const later = new Promise(resolve => setTimeout(resolve, 2000));  // a kernel that is lost never answers
    await Promise.race([context.session.kernel.info, later]);
    return context.session.kernel.status === "idle";
}"""
THEMES = ("JupyterLab Light", "JupyterLab Dark")
HOSTILE = ['<img src=x onerror="window.hacked=1">', "**bold** <script>window.hacked=2</script>", "plain", "<b>b</b>"]
CELL = """
from rlhf_mini.rankings import RankingSession, RankingStore
from rlhf_mini.widgets import ranking_widget
items = [("Hostile.", {hostile!r})] + [(f"Prompt {{i}}.", [f"Text {{i}}{{c}}" for c in "abcd"]) for i in range(1, 13)]
store = RankingStore("rankings-{name}", "Ada")
session = RankingSession(items, "Ada", store)
ranking_widget(session, plain={plain}, rating={rating})
"""
TEXT = "A text that stays as it is. " * 40


def write_notebook(folder: Path, name: str, plain: bool = False, rating: bool = False) -> None:
    """A notebook whose first cell shows a form, with a text and a cell to run below it."""
    source = CELL.format(hostile=HOSTILE, name=name, plain=plain, rating=rating).strip()
    cells = [new_code_cell(source), new_markdown_cell(TEXT), new_code_cell("1 + 1")]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab of its own: its address and its folder."""
    folder, private = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("private")
    forms: dict[str, dict[str, bool]] = {
        "cards": {}, "plain": {"plain": True}, "points": {"rating": True}, "keys": {}, "gone": {}, "looks": {}}
    for name, options in forms.items():
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
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def opened(page: Any, lab: tuple[str, Path], name: str) -> None:
    page.goto(f"{lab[0]}lab/tree/{name}.ipynb?token={TOKEN}&reset")
    run_cell(page)


def run_cell(page: Any, keys: str = "Shift+Enter") -> None:
    """Run the first cell of a notebook without outputs, until it has run.

    On a busy machine JupyterLab may lose sight of a kernel that it has just started. Then it drops the cell, or asks
    which kernel to take, or waits for ever; a person would take the one offered, or load the page again, and run the
    cell again.
    """
    from playwright.sync_api import TimeoutError

    code = page.locator(".jp-Notebook .jp-CodeCell").first
    for _ in range(10):
        try:
            page.wait_for_function(READY, timeout=PATIENCE / 3)
        except TimeoutError:
            page.reload()
            continue
        if (dialog := page.locator(".jp-Dialog")).count():
            dialog.locator("button.jp-mod-accept").click()
            continue
        if any(digit in code.locator(".jp-InputPrompt").inner_text() for digit in "123456789"):
            break
        with suppress(TimeoutError):  # such a question came in between
            code.locator(".cm-content").click(timeout=5000)
            page.keyboard.press(keys)
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


def cells(page: Any) -> list[Any]:
    """Kind and text of each cell of the open notebook."""
    return list(page.evaluate("""window.jupyterapp.shell.currentWidget.content.widgets.map(
        cell => [cell.model.type, cell.model.sharedModel.getSource()])"""))


def order(page: Any) -> list[str]:
    return list(page.locator(".rlhf-chip").all_inner_texts())


def has_focus(page: Any, what: str) -> bool:
    return bool(page.evaluate("what => document.activeElement.matches(what)", what))


def run_code(page: Any, code: str) -> None:
    """Write this into the last cell and run it."""
    page.locator(".jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(code)
    page.keyboard.press("Control+Enter")


def test_keys_rank_at_once_and_never_edit_the_notebook(lab: tuple[str, Path], page: Any) -> None:
    opened(page, lab, "keys")
    page.locator(".rlhf-card").first.wait_for()
    before = cells(page)
    page.wait_for_function("document.activeElement.matches('.rlhf-card')")  # nobody has clicked
    page.keyboard.press("3")
    for key in ("d", "d", "x", "a", "b", "m", "y", "r", "0", "0", "Shift+M", "ArrowDown", "ArrowUp", "9"):
        page.keyboard.press(key)
    for what in (".rlhf-submit", ".rlhf-chip"):
        page.locator(what).focus()
        for key in ("d", "d", "x", "a", "b", "m"):
            page.keyboard.press(key)
    assert (order(page), cells(page)) == (["3"], before)
    for place, key in ((".rlhf-prompt", "1"), (".rlhf-undo", "2"), (".rlhf-bar", "4")):  # Undo is disabled: no focus
        page.locator(".jp-MarkdownCell").click()
        assert page.locator(".rlhf-away").is_visible()
        page.locator(place).click(force=True)
        assert not page.locator(".rlhf-away").is_visible()
        page.keyboard.press(key)
    assert order(page) == ["3", "1", "2", "4"]
    page.keyboard.press("Enter")
    waits_for(page, 1)
    for done in range(2, 14):
        page.keyboard.press("s")
        waits_for(page, done)
    assert has_focus(page, ".rlhf-closing")
    for key in ("Enter", "Enter", "3", "d", "d", "x", "m"):
        page.keyboard.press(key)
    assert "run the cells below" in page.locator(".rlhf-closing").inner_text()
    assert (len(held(lab, "keys")), cells(page)) == (13, before)

    for done in range(12, -1, -1):
        page.keyboard.press("u")
        waits_for(page, done)
    assert order(page) == ["3", "1", "2", "4"]  # to be corrected
    page.locator(".rlhf-chip").nth(1).focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    waits_for(page, 1)
    assert by_position(held(lab, "keys")[-1]) == [[0], [2], [1], [3]]
    assert cells(page) == before


def test_who_types_elsewhere_is_not_interrupted(lab: tuple[str, Path], page: Any) -> None:
    opened(page, lab, "keys")
    run_code(page, "import time; time.sleep(3); from IPython.display import display; display(ranking_widget(session))")
    page.keyboard.press("Enter")
    page.keyboard.type("# a thought")
    page.locator(".rlhf-ranking").nth(1).wait_for()
    page.keyboard.type(", to its end")
    assert cells(page)[-1][1].endswith("# a thought, to its end")
    assert page.get_by_text("Click here, then type").count() == 2


def test_without_a_kernel_the_widget_says_so_and_loses_nothing(lab: tuple[str, Path], page: Any) -> None:
    opened(page, lab, "gone")
    page.locator(".rlhf-card").first.wait_for()
    for key in "24":
        page.keyboard.press(key)
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    status = page.locator(".rlhf-status")
    status.get_by_text("Python does not answer").wait_for()
    for key in ("1", "3", "Enter"):
        page.keyboard.press(key)
    status.get_by_text("Not saved yet").wait_for()
    assert "run the cells above and then this one again" in status.inner_text()
    assert order(page) == ["2", "4", "1", "3"] and held(lab, "gone") == []

    page.wait_for_function(READY)
    page.locator(".cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function("document.querySelector('.rlhf-status')?.textContent === ''")  # the new widget
    assert order(page) == ["2", "4", "1", "3"]
    page.keyboard.press("Enter")
    waits_for(page, 1)
    assert by_position(held(lab, "gone")[0]) == [[1], [3], [0], [2]]

    run_code(page, "while not session.done: session.skip()")  # as where a simulated taste judges in a person's place
    waits_for(page, 13)
    assert "All 13 are done and saved" in page.locator(".rlhf-closing").inner_text()
    assert page.locator(".rlhf-submit").count() == 0


CONTRASTS = """() => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
    const paint = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); };
    const light = () => [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const made of document.querySelectorAll(".rlhf-ranking *")) {
        const own = [...made.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !made.checkVisibility() || made.disabled) continue;
        const parents = [];
        for (let up = made; up; up = up.parentElement) parents.unshift(up);
        parents.forEach((up) => paint(getComputedStyle(up).backgroundColor));
        const back = light();
        paint(getComputedStyle(made).color);
        const [low, high] = [back, light()].sort((a, b) => a - b);
        found.push([made.className, made.textContent.slice(0, 20), (high + 0.05) / (low + 0.05)]);
    }
    return found;
}"""


@pytest.mark.parametrize("name", ["looks", "points"])
def test_every_text_is_legible_in_both_themes(lab: tuple[str, Path], page: Any, name: str) -> None:
    opened(page, lab, name)
    page.locator(".rlhf-card").first.wait_for()
    seen = set()
    for theme in THEMES:
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function("light => document.body.dataset.jpThemeLight === light",
                               arg=str(theme == THEMES[0]).lower())
        for act in ("", "13t2", "4", "Backspace", "Enter"):
            for key in [act] if len(act) > 4 else act:
                page.keyboard.press(key)
            page.wait_for_timeout(300)  # transitions of colour
            found = page.evaluate(CONTRASTS)
            seen |= {what for classes, _, _ in found for what in classes.split()}
            assert [each for each in found if each[2] < 4.5] == [], (theme, act)
        page.locator(".jp-MarkdownCell").click()
        assert [each for each in page.evaluate(CONTRASTS) if each[2] < 4.5] == [], theme
        page.locator(".rlhf-prompt").click()
    expected = {"rlhf-point"} if name == "points" else {"rlhf-badge", "rlhf-chip", "rlhf-separator"}
    assert {"rlhf-wrong", "rlhf-number", "rlhf-keys", "rlhf-prompt"} | expected <= seen


def test_at_200_percent_the_opening_stays_in_sight(lab: tuple[str, Path], browser: Any) -> None:
    page = browser.new_page(viewport={"width": 600, "height": 450}, device_scale_factor=2)
    page.set_default_timeout(PATIENCE)
    opened(page, lab, "looks")
    page.locator(".rlhf-card").first.wait_for()
    for key in ("", "ArrowRight", "ArrowRight", "ArrowRight", "1", "2", "4", "ArrowLeft"):
        if key:
            page.keyboard.press(key)
        for what in (".rlhf-prompt", ".rlhf-card:focus"):
            page.wait_for_function("""what => {
                const made = document.querySelector(what).getBoundingClientRect();
                const sight = document.querySelector(".jp-WindowedPanel-outer").getBoundingClientRect();
                const own = document.querySelector(".rlhf-ranking").getBoundingClientRect();
                const [top, bottom] = [Math.max(sight.top, own.top), Math.min(sight.bottom, own.bottom)];
                return made.top >= top - 1 && made.top + Math.min(made.height, 40) <= bottom + 1;
            }""", arg=what)
    assert page.evaluate("document.querySelector('.rlhf-ranking').scrollWidth <= innerWidth")
    page.close()
