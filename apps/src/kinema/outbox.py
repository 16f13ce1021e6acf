"""Events on their way to a tracker: written to the run's own file at once, delivered in the background.

`metrics.jsonl` is the local record of the run; `metrics.sent` says how many bytes of it the tracker has. Whatever was
not delivered, because the server was away or the process was killed, is delivered when the run is next opened.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

Event = dict[str, Any]

#: Events delivered in one go.
CHUNK = 500
#: Seconds between deliveries, and between tries while the tracker is away.
PAUSE, FIRST_RETRY, LAST_RETRY = 1.0, 5.0, 300.0


class Outbox:
    """A file of events and the thread that delivers them in order. Putting never waits and never raises.

    Args:
        path: the file of events; what it already holds is delivered first.
        deliver: takes some events, in order; raises ConnectionError if the tracker is away, and is then called with
            them again, or `Restart` to be called with all from the first on.
    """

    def __init__(self, path: Path, deliver: Callable[[Sequence[Event]], None]) -> None:
        self._path = path
        self._sent_path = path.with_suffix(".sent")
        self._deliver = deliver
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_broken_line(path)
        self._file = path.open("a", encoding="utf-8")
        self._size = path.stat().st_size
        self._sent = min(self._size, int(self._sent_path.read_text()) if self._sent_path.exists() else 0)
        self._changed = threading.Condition()
        self._urgent = False
        self._attempts = 0
        self._warned = False
        threading.Thread(target=self._run, name="kinema-outbox", daemon=True).start()

    def put(self, event: Event) -> None:
        """Write the event down and have it delivered soon."""
        line = json.dumps(event, allow_nan=False) + "\n"
        with self._changed:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as error:  # a full disk must not end a training
                self._warn(f"{self._path} cannot be written ({error}); values are lost")
                return
            self._size += len(line.encode())
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Try to deliver everything now, waiting at most `timeout` seconds. Whether everything was delivered."""
        deadline = time.monotonic() + timeout
        with self._changed:
            attempts = self._attempts
            self._urgent = True
            self._changed.notify_all()
            # A tracker that is away is tried once more, not until the deadline.
            while self._sent < self._size and self._attempts == attempts:
                if not self._changed.wait(deadline - time.monotonic()):
                    break
            return self._sent >= self._size

    def _run(self) -> None:
        retry = FIRST_RETRY
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._sent < self._size or self._urgent)
            try:
                while self._deliver_chunk():
                    pass
                retry, self._warned, pause = FIRST_RETRY, False, PAUSE
            except Restart:
                self._advance(0)
                continue
            except ConnectionError as error:
                self._warn(f"the tracker cannot be reached ({error}); values are kept in {self._path}")
                pause, retry = retry, min(2 * retry, LAST_RETRY)
                with self._changed:
                    self._attempts += 1
            with self._changed:
                self._urgent = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._urgent, timeout=pause)

    def _deliver_chunk(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(self._sent)
            # Not past a line that is being written: its rest would pass for a line of its own.
            lines = list(takewhile(lambda line: line.endswith(b"\n"), islice(file, CHUNK)))
        if lines:
            self._deliver([json.loads(line) for line in lines])
            self._advance(self._sent + sum(map(len, lines)))
        return bool(lines)

    def _advance(self, sent: int) -> None:
        temporary = self._sent_path.with_suffix(".tmp")
        temporary.write_text(str(sent))
        os.replace(temporary, self._sent_path)
        with self._changed:
            self._sent = sent
            self._changed.notify_all()

    def _warn(self, message: str) -> None:
        if not self._warned:
            rank_zero_warn(message)
        self._warned = True


class Restart(Exception):
    """Raised by `deliver`: the tracker has none of the events, so begin with the first."""


def _end_broken_line(path: Path) -> None:
    """A process killed amid a line left it without an end: cut it off."""
    if path.exists():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            path.write_bytes(text[: text.rfind(b"\n") + 1])
