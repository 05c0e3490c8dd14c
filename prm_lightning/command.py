"""Command lines: a verb's options are the parameters of the function that does the work."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from prm_lightning.terminal import did_you_mean

OUTPUT_ALIASES = {"--out": "--output", "--output_dir": "--output"}
_OURS = {  # our options, and what TRL, axolotl and guides call them
    "--data.tokens_per_batch or --data.solutions_per_step": (
        "batch_size per_device_train_batch_size"
    ),
    "--trainer.precision bf16-mixed": "bf16",
    "--model.backbone.kernels compiled": "compile_layers torch_compile",
    "--trainer.max_epochs": "epochs num_train_epochs",
    "--trainer.val_check_interval": "eval_steps",
    "--trainer.precision 16-mixed": "fp16",
    "--data.solutions_per_step": "gradient_accumulation_steps",
    "--model.backbone.gradient_checkpointing": "gradient_checkpointing",
    "--model.lr": "learning_rate lr",
    "--model.backbone.quantize nf4": "load_in_4bit",
    "--model.backbone.quantize int8": "load_in_8bit",
    "--model.backbone.lora.alpha": "lora_alpha",
    "--model.backbone.lora.r": "lora_r",
    "--model.schedule": "lr_scheduler lr_scheduler_type",
    "--data.max_tokens": "max_length max_seq_length",
    "--trainer.max_steps": "max_steps",
    "--model.backbone.name": "model_name model_name_or_path",
    "none, since fit always takes AdamW": "optimizer",
    "--checkpoint_every": "save_steps",
    "--keep": "save_total_limit",
    "--seed_everything": "seed",
    "--data.sources": "train_file",
    "--model.backbone.kernels liger": "use_liger_kernel",
    "--model.warmup": "warmup_ratio",
    "--model.weight_decay": "weight_decay",
}
FOREIGN = {name: ours for ours, names in _OURS.items() for name in names.split()}
_OPTION = re.compile(r"--[a-z][\w-]*(?:=|\Z)")


class UsageError(ValueError):
    """A command line that cannot be understood."""


class OneLineParser(ArgumentParser):
    """Takes no abbreviations; an error is one line that names the option meant, if one is near."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse does; a file of options that cannot be read is an error like others."""
        try:
            return super().parse_args(*args, **kwargs)
        except (RecursionError, UnicodeError) as error:
            self.error(f"a configuration file cannot be read ({error})", error)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with one line.

        Raises:
            UsageError: always, except where jsonargparse itself handles the error.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        told = explain(message, list(parser._option_string_actions))
        raise UsageError(f"{told} ({program} --help lists all options)") from ex


def explain(message: str, options: Iterable[str]) -> str:
    """An error of jsonargparse in one line, with the option or value that may have been meant.

    Args:
        message: as jsonargparse writes it.
        options: of the command, each with its dashes.
    """
    message = " ".join(message.split()).rstrip(".")
    on_command_line = re.search(r"[Uu]nrecognized arguments: --([\w.-]+)", message)
    in_yaml = re.search(r"[Oo]ption '([\w.]+)'(?: is not accepted)?$", message)
    unknown = on_command_line or in_yaml
    if unknown:
        name = f"--{unknown[1]}"
        ours = FOREIGN.get(name.rpartition(".")[2].lstrip("-"))
        if ours and (ours.startswith("none") or ours.split()[0] in options):
            return f"there is no option {name}, here it is {ours}."
        return f"there is no option {name}.{did_you_mean(name, options)}"
    message = re.sub(r"<class '(\w+)'>", r"\1", message)
    union = r"Does not validate .*Subtypes: \[(.+), NoneType\] Errors: .*Given value: (.*)"
    message = re.sub(union, r"Expected a \1. Got value: \2", message)
    choice = re.search(r"(.*): Expected a typing.Literal\[(.+?)\]. Got value: (.*)", message)
    if choice:
        choices = re.findall(r"'(.+?)'", choice[2]) or choice[2].split(", ")
        key = choice[1].replace("Parser key ", "").strip('"')
        near = did_you_mean(choice[3], choices)
        return f"--{key} is {choice[3]!r}, expected one of {', '.join(choices)}.{near}"
    message = re.sub(r"Parser key \"(.+?)\":", r"--\1:", message)
    return re.sub(r"\b(?:fit|validate|test|predict)\.(model|data|trainer)", r"--\1", message) + "."


def run_verb(verb: str, function: Callable[..., Any], args: Sequence[str]) -> Any:
    """Call a function with what the command line says.

    Every keyword parameter is an option of its name, also with hyphens; a parameter that is
    positional-only is a positional argument. `--config FILE` takes them from YAML, `--out` and
    `--output_dir` mean `--output`, a boolean needs no value, and a list takes several values:
    ``--model A B``.

    Args:
        verb: for messages.
        function: its annotations give types, its docstring the help.
        args: the command line after the verb.

    Returns:
        What the function returns.

    Raises:
        UsageError: an option that does not exist, lacks a value or has a wrong one.
    """
    signature = inspect.signature(function)
    hints = get_type_hints(function)
    parser = OneLineParser(
        prog=f"python -m prm_lightning {verb}",
        description=(inspect.getdoc(function) or "").partition("\n")[0],
    )
    parser.add_argument("--config", action="config", help="YAML file of options")
    positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY]
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    for name in positional:
        parser.add_argument(name, type=hints[name])
    spelt = _spell_out(args, hints)
    try:
        config = parser.parse_args(spelt)
    except UsageError as error:
        raise UsageError(f"{verb}: {error}") from error
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config")
    said = {"=".join(pair).lower() for pair in pairwise(spelt)}.union(map(str.lower, spelt))
    if values.get("trust_remote_code", False) and "--trust_remote_code=true" not in said:
        raise UsageError(f"{verb}: --trust_remote_code is taken from the command line, not a file.")
    return function(*[values.pop(name) for name in positional], **values)


def add_environment(verb: str, args: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """A verb's command line with the options that the environment sets.

    ``PRM_<VERB>__<OPTION>`` is ``--<option>`` in lower case, with a dot for every further ``__``;
    an empty variable counts as absent. They override configuration files, and the rest of the
    command line overrides them.

    >>> environ = {"PRM_FIT__TRAINER__MAX_EPOCHS": "3", "PRM_SCORE__DEVICE": "cpu"}
    >>> add_environment("fit", ["--config", "a.yaml", "--keep", "2"], environ)
    ['--config', 'a.yaml', '--trainer.max_epochs=3', '--keep', '2']
    """
    prefix = f"PRM_{verb.upper()}__"
    named = {
        name.removeprefix(prefix).lower().replace("__", "."): value
        for name, value in sorted(environ.items())
        if name.startswith(prefix) and value
    }
    files = [f"--config={named.pop('config')}"] if "config" in named else []
    after_files = 0
    for i, arg in enumerate(args):
        if arg in ("--config", "-c"):
            after_files = min(i + 2, len(args))
        elif arg.startswith("--config="):
            after_files = i + 1
    options = [*files, *(f"--{name}={value}" for name, value in named.items())]
    return [*args[:after_files], *options, *args[after_files:]]


def _items(hint: Any) -> Any:
    """What a list or sequence, or that or None, is made of; None of anything else."""
    lists = [part for part in (hint, *get_args(hint)) if get_origin(part) in (list, Sequence)]
    return get_args(lists[0])[0] if lists else None


def _spell_out(args: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """The same command line as jsonargparse wants it.

    Names have underscores, flags a value, and the values of a list are one JSON list, unless they
    are one already or, for items that are no texts, the name of a YAML file.
    """
    spelt: list[str] = []
    groups: list[list[str]] = [[]]  # each but the first begins with an option
    for arg in args:
        if _OPTION.match(arg):
            groups.append([])
        groups[-1].append(arg)
    for option, *values in groups[1:]:
        name, equals, value = option.partition("=")
        name = name.replace("-", "_").replace("__", "--", 1)
        name = OUTPUT_ALIASES.get(name, name)
        hint = hints.get(name.removeprefix("--"))
        items = _items(hint)
        if hint is bool and not equals and values[:1] not in (["true"], ["false"]):
            equals, value = "=", "true"
        elif items and not equals and values:
            is_file = items is not str and Path(values[0]).suffix == ".yaml"
            if len(values) > 1 or not (is_file or values[0].startswith("[")):
                values = [json.dumps(values)]
        spelt += [name + equals + value, *values]
    return [*groups[0], *spelt]
