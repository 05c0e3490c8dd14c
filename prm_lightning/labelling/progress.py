"""Progress of long stages: a bar where somebody watches, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 60.0  # seconds between lines where there is no terminal


class Meter:
    """Shows one stage at a time on stderr; a context manager that leaves the terminal clean."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._name, self._done, self._total = "", 0, 0
        self._said = time.monotonic()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of so many things."""
        self.end()
        self._name, self._done, self._total = name, 0, total
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.add_task(name, total=total)
            self._bar.start()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._bar:
            self._bar.advance(self._bar.task_ids[0], count)
        elif time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            print(f"{self._name}  {self._done} of {self._total}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the stage, so that the terminal is free for questions."""
        if self._bar:
            self._bar.stop()
            self._bar = None
