"""What a person sees in the terminal: progress, texts of others, and libraries kept quiet."""

from __future__ import annotations

import logging
import sys
import time
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 30.0  # of progress, where nobody watches a terminal


class Bar:
    """Progress of a long job on stderr: a bar in a terminal, else a line now and then.

    A context manager that leaves the terminal clean. A job of several stages calls `stage` for
    each of them. Without a name nothing is shown.
    """

    def __init__(self, name: str = "", total: int | None = None) -> None:
        self._bar: Progress | None = None
        self.stage(name, total)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of so many things; None if unknown."""
        self.end()
        self._name, self._done, self._total = name, 0, total
        self._began = self._last_line = time.monotonic()
        if not name or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        self._bar = Progress("{task.description}", *columns, console=console, transient=True)
        self._bar.add_task(name, total=total)
        self._bar.start()

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.show(self._done + count)

    def show(self, done: int, total: int | None = None, note: str = "") -> None:
        """So many are done in all, of a total that replaces that of the stage, if given.

        A note such as ``loss 0.41`` is shown after the name.
        """
        self._done, self._total = done, self._total if total is None else total
        name = f"{self._name}  {note}" if note else self._name
        now = time.monotonic()
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, total=self._total, description=name)
        elif self._name and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = "" if self._total is None else f" of {self._total}"
            minutes = (now - self._began) / 60
            print(f"{name}  {done}{of}  {minutes:.1f} min", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the stage, so that the terminal is free for other output."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def visible(text: str) -> str:
    r"""A text of others as it is safe to print: terminal escapes are shown, not obeyed.

    Control characters but newline and tab, and marks that turn the direction of writing, are
    written as escapes.

    >>> print(visible("\x1b[31mred"))
    \x1b[31mred
    """
    return "".join(map(_visible, text)) if not text.isprintable() else text


def _visible(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":
        return character
    if character in "\u200c\u200d":  # they join letters and emoji, and move nothing
        return character
    return character.encode("unicode_escape").decode()


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The end of a message about a wrong name; empty if nothing is near it.

    >>> did_you_mean("max_step", ["max_steps", "max_epochs"])
    " Did you mean 'max_steps'?"
    """
    near = get_close_matches(name, list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def quieten_libraries() -> None:
    """Hide what libraries tell everybody; their progress bars only where somebody watches."""
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "Tip:" not in record.getMessage())
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)  # for authors of libraries
    for message in (
        ".*LeafSpec",
        ".*smaller than the logging interval",  # of a run that is short
        ".*is_gradient_checkpointing",
        ".*checkpointing_enable",
        ".*FSDP2-wrapped module .* returned a view",  # in which nothing is written
        ".*across ranks is zero",  # of validation that was not asked for
        ".*recommended to use `self.log.*sync_dist",  # metrics gather before they are computed
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """`quieten_libraries`, after which warnings are shown as before."""
    with warnings.catch_warnings():
        quieten_libraries()
        yield
