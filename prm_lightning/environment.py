"""Options of a verb from environment variables, such as ``PRM_FIT__TRAINER__MAX_EPOCHS=3``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def options_in(environ: Mapping[str, str], verb: str) -> list[str]:
    """What the environment sets of a verb, as a command line would.

    ``PRM_<VERB>__<OPTION>`` is ``--<option>`` in lower case, with a dot for every further ``__``.
    An empty variable is as good as none.

    >>> options_in({"PRM_FIT__TRAINER__MAX_EPOCHS": "3", "PRM_SCORE__DEVICE": "cpu"}, "fit")
    ['--trainer.max_epochs=3']
    """
    prefix = f"PRM_{verb.upper()}__"
    named = {
        name.removeprefix(prefix).lower().replace("__", "."): value
        for name, value in sorted(environ.items())
        if name.startswith(prefix) and value
    }
    files = [f"--config={named.pop('config')}"] if "config" in named else []
    return files + [f"--{name}={value}" for name, value in named.items()]


def insert_options(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """A command line with the options of the environment behind its configuration files.

    The last of several values counts, so they override files and what stands behind them
    overrides these.

    >>> insert_options(["--config", "a.yaml", "--keep", "2"], ["--keep=5"])
    ['--config', 'a.yaml', '--keep=5', '--keep', '2']
    """
    behind = 0
    for i, arg in enumerate(args):
        if arg in ("--config", "-c"):
            behind = min(i + 2, len(args))
        elif arg.startswith("--config="):
            behind = i + 1
    return [*args[:behind], *options, *args[behind:]]
