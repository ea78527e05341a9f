"""What the forms do, without a browser: the same acts a person's hands cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets
import pytest

from rlhf_mini.rankings import RankingSession, RankingStore, answer
from rlhf_mini.widgets import PlainRanking, RankingController, RankingWidget, ranking_widget
from rlhf_mini.widgets.plain import groups

ITEMS = [(f"Prompt {i}.", ["one", "two", "<b>three</b>"]) for i in range(3)]


def session(folder: Path | None = None, annotator: str = "Ada") -> RankingSession:
    return RankingSession(ITEMS, annotator, RankingStore(folder, annotator) if folder else None)


def test_an_answer_is_on_the_disk_when_the_view_says_saved(tmp_path: Path) -> None:
    controller = RankingController(session(tmp_path))
    view = controller.handle({"act": "submit", "turn": 0, "ranking": [[0], [1, 2]]})
    assert (view["saved"], view["done"], view["turn"]) == ("ranking saved", 1, 1)
    assert len(RankingStore(tmp_path, "Ada").records()) == 1


def test_without_a_store_nothing_is_called_saved() -> None:
    assert "memory only" in RankingController(session()).handle({"act": "skip"})["saved"]


def test_an_answer_to_what_is_no_longer_shown_does_nothing() -> None:
    controller = RankingController(session())
    controller.handle({"act": "skip", "turn": 0})
    assert controller.handle({"act": "skip", "turn": 0})["done"] == 1


def test_an_answer_that_cannot_be_used_keeps_the_item_and_says_why() -> None:
    controller = RankingController(session())
    before = controller.view()
    view = controller.handle({"act": "submit", "turn": 0, "ranking": [[0]]})
    assert view["error"].startswith("ranking is [[0]]")
    assert {**view, "error": ""} == before


@pytest.mark.parametrize("act", [{}, {"act": "sing"}, {"act": "submit", "ranking": "x"}, {"act": "undo"}])
def test_strange_acts_are_errors_in_the_view(act: dict[str, Any]) -> None:
    assert RankingController(session()).handle(act)["error"]


def test_a_disk_that_is_full_is_said_at_once(tmp_path: Path) -> None:
    controller = RankingController(session(tmp_path / "folder"))
    (tmp_path / "folder").write_text("a file is in the way")
    view = controller.handle({"act": "skip", "turn": 0})
    assert "not saved" in view["error"] and view["done"] == 0 and not view["saved"]


def test_the_clock_starts_when_the_item_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 200.0, 205.5, 205.5])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    controller = RankingController(session())
    controller.view()  # made at 100
    controller.handle({"act": "seen", "turn": 0})  # in sight at 200
    controller.handle({"act": "submit", "turn": 0, "ranking": [[0], [1], [2]]})
    assert controller.session.records[0].seconds == 5.5


def test_after_a_restart_the_widget_goes_on_where_the_person_was(tmp_path: Path) -> None:
    first = RankingWidget(session(tmp_path))
    first.act(act="submit", ranking=[[2], [1], [0]])
    second = RankingWidget(session(tmp_path))
    assert (second.view["done"], second.view["can_undo"]) == (1, True)
    assert second.act(act="undo")["done"] == 0


def test_messages_of_the_page_are_acts() -> None:
    widget, replies = RankingWidget(session()), list[dict[str, Any]]()
    widget.send = replies.append
    widget._receive(widget, {"act": "skip", "turn": 0}, [])
    widget._receive(widget, "noise", [])
    assert widget.view["done"] == 1
    assert replies == [{"act": "skip", "to": 0, "error": ""}]


def test_undo_gives_the_order_back_to_be_corrected(tmp_path: Path) -> None:
    controller = RankingController(session(tmp_path))
    controller.handle({"act": "submit", "ranking": [[2], [0, 1]]})
    assert controller.view()["before"] is None
    view = controller.handle({"act": "undo"})
    assert view["before"] == {"ranking": [[2], [0, 1]]}
    assert controller.handle({"act": "skip"})["before"] is None
    assert controller.handle({"act": "undo"})["before"] is None  # a skip has no order


def test_undo_gives_an_order_of_an_earlier_session_back(tmp_path: Path) -> None:
    RankingController(session(tmp_path)).handle({"act": "submit", "ranking": [[1], [2], [0]]})
    again = RankingController(RankingSession([(prompt, texts[::-1]) for prompt, texts in ITEMS], "Ada",
                                             RankingStore(tmp_path, "Ada"), seed=5))
    before, item = again.handle({"act": "undo"})["before"], again.session.current
    first = session(None).current
    assert item is not None and first is not None
    assert [item.shown[position] for (position,) in before["ranking"]] == [first.shown[i] for i in (1, 2, 0)]


def test_undo_gives_points_back() -> None:
    controller = RankingController(session(), rating=True)
    controller.handle({"act": "submit", "ratings": [7, 1, 4]})
    assert controller.handle({"act": "undo"})["before"]["ratings"] == [7, 1, 4]


def test_equal_texts_come_back_each_to_a_place_of_its_own() -> None:
    controller = RankingController(RankingSession([("P", ["same", "same", "other"])], "Ada"))
    controller.handle({"act": "submit", "ranking": [[0], [1], [2]]})
    ranking = controller.handle({"act": "undo"})["before"]["ranking"]
    assert sorted(position for group in ranking for position in group) == [0, 1, 2]


def test_a_widget_follows_a_session_that_a_program_moves_on() -> None:
    shared = session()
    cards, form = RankingWidget(shared), PlainRanking(shared)
    answer(shared, lambda prompt, shown: [[0], [1], [2]])
    assert cards.view["finished"] and cards.view["turn"] == 3 and cards.view["done"] == 3
    assert form.buttons["Submit"].disabled and not form.choices


def test_an_answer_never_reaches_an_item_that_the_person_did_not_see() -> None:
    controller = RankingController(session())
    seen = controller.view()
    controller.session.skip()  # by a program, or in another widget
    view = controller.handle({"act": "submit", "turn": seen["turn"], "ranking": [[0], [1], [2]]})
    assert (view["done"], view["prompt"]) == (1, "Prompt 1.")
    assert [record.kind for record in controller.session.records] == ["skip"]


@pytest.mark.parametrize("folder", ["rankings", ""])
def test_the_end_says_what_is_saved_and_what_to_run_next(tmp_path: Path, folder: str) -> None:
    controller = RankingController(session(tmp_path / folder if folder else None))
    answer(controller.session, lambda prompt, shown: [[0, 1, 2]])
    closing = controller.view()["closing"]
    assert closing.startswith("All 3 are done and saved." if folder else "All 3 are done and kept in memory only.")
    assert "run the cells below" in closing
    assert "run the cells below" in RankingController(RankingSession([], "Ada")).view()["closing"]


def test_rating_becomes_points_and_a_ranking() -> None:
    widget = RankingWidget(session(), rating=True)
    widget.act(act="submit", ratings=[7, 1, 7])
    (record,) = widget.controller.session.records
    assert record.kind == "rating" and len(record.ranking) == 2


def test_the_widget_finishes() -> None:
    widget = RankingWidget(session())
    for _ in ITEMS:
        widget.act(act="skip")
    assert widget.view["finished"] and widget.view["shown"] == []
    assert "all 3 items are done" in widget.act(act="skip")["error"]


def test_nothing_is_fetched_from_elsewhere() -> None:
    here = Path(__file__).parent.parent / "rlhf_mini" / "widgets"
    for name in ("ranking.js", "ranking.css", "microscope.js", "microscope.css"):
        text = (here / name).read_text()
        assert "http" not in text and "import" not in text and "innerHTML" not in text


def test_the_plain_form_ranks_by_places() -> None:
    form = ranking_widget(session(), plain=True)
    assert isinstance(form, PlainRanking)
    for choice, place in zip(form.choices, (2, 1, 2), strict=True):
        choice.value = place
    form.buttons["Submit"].click()
    (record,) = form.controller.session.records
    assert [sorted(map(record.shown_order.index, group)) for group in record.ranking] == [[1], [0, 2]]


def test_the_plain_form_waits_for_every_choice() -> None:
    form = PlainRanking(session())
    form.choices[0].value = 1
    form.buttons["Submit"].click()
    assert not form.controller.session.records and "choose a number for every text" in form.message.value


def test_the_plain_form_shows_text_as_text() -> None:
    def walk(widget: Any) -> list[str]:
        own = [widget.value] if isinstance(widget, ipywidgets.HTML) else []
        return own + [text for child in getattr(widget, "children", ()) for text in walk(child)]

    html = " ".join(walk(PlainRanking(session())))
    assert "&lt;b&gt;three" in html and "<b>three" not in html


def test_the_plain_form_keeps_its_buttons_and_brings_choices_back() -> None:
    form = PlainRanking(session())
    row = form.children[0]
    form.act(act="submit", ranking=[[2], [0, 1]])
    form.act(act="undo")
    assert form.children[0] is row  # what has the focus stays in the page
    assert [choice.value for choice in form.choices] == [2, 2, 1]
    points = PlainRanking(session(), rating=True)
    points.act(act="submit", ratings=[7, 1, 4])
    points.act(act="undo")
    assert [choice.value for choice in points.choices] == [7, 1, 4]


def test_the_plain_form_leaves_the_direction_to_the_text() -> None:
    form = PlainRanking(RankingSession([("קמיל מצא תוף.", ["הוא ניגן בו.", "one."])], "Ada"))
    assert all('dir="auto"' in part.value for part in (form.children[2], form.children[4].children[0]))


@pytest.mark.parametrize(("places", "wanted"), [
    ([1, 2, 3], [[0], [1], [2]]), ([2, 1, 2], [[1], [0, 2]]), ([5, 5], [[0, 1]])])
def test_places_become_tie_groups(places: list[int], wanted: list[list[int]]) -> None:
    assert groups(places) == wanted
