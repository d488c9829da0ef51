"""What watches a payment never breaks it."""

import structlog
from structlog.testing import capture_logs

from farebox.gate.events import AnswerReplayed, Event, FreeCallAsked
from farebox.telemetry.observers import Handlers, Observers

REPLAYED = AnswerReplayed(resource="/x", remembered=True)
FREE = FreeCallAsked(resource="/x", granted=True)


class Listener:
    def __init__(self, *kinds: type) -> None:
        self.heard: list[Event] = []
        self.handlers: Handlers = dict.fromkeys(kinds, self.heard.append)


class Broken:
    def __init__(self) -> None:
        self.asked = 0
        self.handlers: Handlers = {AnswerReplayed: self.fail}

    def fail(self, event: AnswerReplayed) -> None:
        self.asked += 1
        raise KeyError(event)


def test_each_listener_hears_what_it_listens_to() -> None:
    both, one = Listener(AnswerReplayed, FreeCallAsked), Listener(FreeCallAsked)
    observe = Observers([both, one])
    observe(REPLAYED)
    observe(FREE)
    assert ([REPLAYED, FREE], [FREE]) == (both.heard, one.heard)


def test_one_that_raises_is_asked_no_more_and_the_others_go_on() -> None:
    broken, listener = Broken(), Listener(AnswerReplayed)
    observe = Observers([broken, listener])
    structlog.reset_defaults()
    with capture_logs() as logs:
        observe(REPLAYED)
        observe(REPLAYED)
    assert (1, [REPLAYED, REPLAYED]) == (broken.asked, listener.heard)
    assert [("observer-failed", "error")] == [(each["event"], each["log_level"]) for each in logs]
