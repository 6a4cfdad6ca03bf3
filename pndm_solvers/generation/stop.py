"""Signals to stop, as an exception: what is unfinished can then be kept."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Stopped", "stoppable"]

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)  # Windows has two of them


class Stopped(KeyboardInterrupt):
    """A signal to stop has come; `status` is the exit status that the shell expects then."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + signum


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, the first SIGTERM, SIGINT or SIGHUP raises `Stopped`.

    Later ones are ignored, since what is unfinished is being written then: torchrun passes a Ctrl-C on to processes
    that the terminal has sent it to already.
    """
    stopped = False

    def stop(signum: int, frame: Any) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise Stopped(signum)

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    changed = [number for number, handler in previous.items() if handler is not signal.SIG_IGN]  # as nohup does
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, previous[number])
