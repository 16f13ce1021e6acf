"""The outbox: in order, once, through outages and kills."""

import threading
import time

import pytest

from kinema import outbox
from kinema.outbox import Outbox, Restart


class Tracker:
    """Takes events, or is away."""

    def __init__(self):
        self.got, self.away, self.tries, self.new = [], False, 0, False

    def __call__(self, events):
        self.tries += 1
        if self.away:
            raise ConnectionError("refused")
        if self.new:
            self.new = False
            self.got.clear()
            raise Restart
        self.got += [event["n"] for event in events]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox, "PAUSE", 0.01)
    monkeypatch.setattr(outbox, "FIRST_RETRY", 0.05)


def test_events_arrive_in_order_and_once(tmp_path):
    tracker = Tracker()
    box = Outbox(tmp_path / "metrics.jsonl", tracker)
    for n in range(1234):
        box.put({"n": n})
    assert box.flush(60)
    assert tracker.got == list(range(1234))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1234
    assert box.flush(60) and len(tracker.got) == 1234


def test_an_outage_loses_nothing_warns_once_and_ends_by_itself(tmp_path):
    tracker = Tracker()
    tracker.away = True
    with pytest.warns(UserWarning, match="cannot be reached .*metrics.jsonl") as warned:
        box = Outbox(tmp_path / "metrics.jsonl", tracker)
        for n in range(5):
            box.put({"n": n})
            assert not box.flush(10)
    assert len(warned) == 1 and tracker.got == []
    tracker.away = False
    deadline = time.monotonic() + 10
    while len(tracker.got) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tracker.got == list(range(5))


def test_what_was_not_delivered_is_delivered_by_the_next_process(tmp_path):
    away, path = Tracker(), tmp_path / "metrics.jsonl"
    box = Outbox(path, away)
    box.put({"n": 0})
    assert box.flush(60)
    away.away = True
    box.put({"n": 1})
    with pytest.warns(UserWarning):
        assert not box.flush(10)
    with path.open("a") as file:
        file.write('{"n": 2')  # killed amid a line
    tracker = Tracker()
    box = Outbox(path, tracker)
    box.put({"n": 3})
    assert box.flush(60)
    assert tracker.got == [1, 3]


def test_a_tracker_without_the_run_gets_all_from_the_first(tmp_path):
    first = Outbox(tmp_path / "metrics.jsonl", Tracker())
    first.put({"n": 0})
    assert first.flush(60)  # or its thread would still be at work on the files that the next one opens
    again = Tracker()
    again.new = True
    box = Outbox(tmp_path / "metrics.jsonl", again)
    box.put({"n": 1})
    assert box.flush(60)
    assert again.got == [0, 1]


def test_putting_never_waits_for_the_tracker(tmp_path):
    release = threading.Event()
    box = Outbox(tmp_path / "metrics.jsonl", lambda _: release.wait(10))
    start = time.monotonic()
    for n in range(500):
        box.put({"n": n})
    assert time.monotonic() - start < 2
    assert not box.flush(0.05)
    release.set()
    assert box.flush(60)
