"""Stopping when a scheduler asks for it: SIGTERM and SIGUSR1."""

from __future__ import annotations

import signal
import sys
import threading

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: ask again later
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Remembers that this process was asked to stop.

    Lightning has handlers of its own for these signals, which raise without a checkpoint, write
    one in the middle of a step, or start a collective that the other ranks do not expect. They are
    replaced while training runs; Lightning puts back what was there before.
    """

    def __init__(self) -> None:
        self.received = ""

    def listen(self) -> None:
        """Take the signals from now on; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name


class Stopped(SystemExit):
    """Ends a run that was asked to stop, after it wrote its checkpoint.

    The first process says so in one line and exits with `STOPPED`. The others exit with 0: a
    launcher that sees one of them fail kills the first before it has finished.

    Args:
        message: the line.
        is_first: whether this is the process that speaks.
    """

    def __init__(self, message: str, *, is_first: bool) -> None:
        super().__init__(STOPPED if is_first else 0)
        if is_first:
            print(message, file=sys.stderr)


def leave_to_the_run(worker: int) -> None:
    """Let the main process of a run decide when its data worker stops.

    A scheduler signals every process of a job. A worker that died of it would take the step under
    way with it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
