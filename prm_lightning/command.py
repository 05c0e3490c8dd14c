"""A verb's command line, made from the signature and the docstring of the function behind it."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

OUTPUT_ALIASES = {"--out": "--output", "--output_dir": "--output"}
_OPTION = re.compile(r"--[a-z][\w-]*")


def run_verb(verb: str, function: Callable[..., Any], args: Sequence[str]) -> Any:
    """Call a function with what the command line says.

    Every keyword parameter is an option of its name, also with hyphens; a parameter that is
    positional-only is a positional argument. `--config FILE` takes them from YAML, `--out` and
    `--output_dir` mean `--output`, a boolean needs no value, and a list takes several values:
    ``--model A B``.

    Args:
        verb: for messages.
        function: its annotations give types, its docstring the help.
        args: the command line behind the verb.

    Returns:
        What the function returns.

    Raises:
        ValueError: an option that does not exist, lacks a value or has a wrong one.
    """
    signature = inspect.signature(function)
    hints = get_type_hints(function)
    flags = {f"--{name}" for name, hint in hints.items() if hint is bool}
    lists = {f"--{name}": _is_list_of_text(hint) for name, hint in hints.items() if _is_list(hint)}
    parser = ArgumentParser(
        prog=f"python -m prm_lightning {verb}",
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of options")
    positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY]
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    for name in positional:
        parser.add_argument(name, type=hints[name])
    try:
        config = parser.parse_args(_spell_out(args, flags, lists))
    except (argparse.ArgumentError, TypeError) as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"{verb}: {message} (python -m prm_lightning {verb} --help lists all options)"
        ) from error
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config")
    return function(*[values.pop(name) for name in positional], **values)


def _is_list(hint: Any) -> bool:
    """Whether it is a list or sequence, or that or None."""
    origins = {get_origin(part) for part in (hint, *get_args(hint))}
    return bool(origins & {list, Sequence})


def _is_list_of_text(hint: Any) -> bool:
    return any(get_args(part) == (str,) for part in (hint, *get_args(hint)))


def _spell_out(args: Sequence[str], flags: set[str], lists: Mapping[str, bool]) -> list[str]:
    """The same command line as jsonargparse wants it.

    Args:
        args: as given.
        flags: options that are boolean.
        lists: options that take several values, and whether these are text.
    """
    spelt: list[str] = []
    values: list[str] | None = None  # of the list option being read
    of_text = False
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        option, equals, value = arg.partition("=")
        if not _OPTION.fullmatch(option):
            (spelt if values is None else values).append(arg)
            continue
        _close(spelt, values, "text" if of_text else "objects")
        values = None
        option = option.replace("-", "_").replace("__", "--", 1)
        option = OUTPUT_ALIASES.get(option, option)
        if option in flags and not equals and following not in ("true", "false"):
            value, equals = "true", "="
        if option in lists and not equals:
            spelt.append(option)
            values, of_text = [], lists[option]
            continue
        spelt.append(option + equals + value)
    _close(spelt, values, "text" if of_text else "objects")
    return spelt


def _close(spelt: list[str], values: list[str] | None, items: Literal["text", "objects"]) -> None:
    """Join the values of a list option into one, unless that is what was given."""
    if not values:
        return
    is_file = items == "objects" and Path(values[0]).suffix == ".yaml"
    is_whole = len(values) == 1 and (is_file or values[0][:1] == "[")
    spelt.append(values[0] if is_whole else json.dumps(values))
