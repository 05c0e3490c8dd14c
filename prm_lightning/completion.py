"""Completion scripts for shells, made from the parsers of all verbs by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from jsonargparse import ArgumentParser, capture_parser

from prm_lightning.command import run_verb

Shell = Literal["bash", "zsh", "tcsh"]
COMMAND = "prm_lightning"  # what is completed; `python -m prm_lightning` cannot be


def main(args: Sequence[str]) -> None:
    """`python -m prm_lightning completion SHELL`."""
    run_verb("completion", print_completion, args)


def print_completion(shell: Shell, /) -> None:
    """Print the completion script of a shell: bash, zsh or tcsh.

    Args:
        shell: that reads it.

    Raises:
        ValueError: shtab is not installed.
    """
    if not find_spec("shtab"):
        raise ValueError("completion: needs shtab: pip install 'prm_lightning[completion]'.")
    import shtab

    print(shtab.complete(whole_parser(), shell))


def whole_parser() -> argparse.ArgumentParser:
    """One parser with a subcommand for each verb and all its options; it only describes them."""
    from prm_lightning.__main__ import LIGHTNING, VERBS

    lightning = capture_parser(import_module(f"prm_lightning.{LIGHTNING}").main)
    (theirs,) = (a for a in lightning._actions if isinstance(a, argparse._SubParsersAction))
    parser = argparse.ArgumentParser(COMMAND)
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        known = theirs.choices[name] if verb.module == LIGHTNING else verb_parser(verb.module)
        describe(known._actions, verbs.add_parser(name, help=verb.help))
    return parser


def verb_parser(module: str) -> ArgumentParser:
    """The parser that a verb makes for itself."""
    return capture_parser(import_module(f"prm_lightning.{module}").main, [])


def describe(actions: Iterable[argparse.Action], parser: argparse.ArgumentParser) -> None:
    """Add the options among some actions; what takes a value offers its choices, or else files."""
    import shtab

    for action in actions:
        options = [name for name in action.option_strings if name not in ("-h", "--help")]
        if not options or action.help == argparse.SUPPRESS:
            continue
        hint = getattr(action, "_typehint", None)
        if action.nargs == 0 or hint is bool:
            parser.add_argument(*options, action="store_true")
            continue
        choices = getattr(hint, "__args__", None) if is_literal(hint) else None
        added = parser.add_argument(*options, choices=choices)
        if choices is None:
            added.complete = shtab.FILE  # type: ignore[attr-defined]


def is_literal(hint: object) -> bool:
    """Whether a type is a closed set of texts."""
    return getattr(hint, "__origin__", None) is Literal
