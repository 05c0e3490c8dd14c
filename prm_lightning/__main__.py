"""The one door: ``python -m prm_lightning VERB``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, Literal

from jsonargparse import ArgumentParser, capture_parser, set_parsing_settings

from prm_lightning import __version__
from prm_lightning.command import UsageError, add_environment, run_verb
from prm_lightning.terminal import did_you_mean, quieten_libraries, visible

USAGE_STATUS = 2  # as argparse exits
LIGHTNING = "training.cli"
VERBS = {  # what each does, and the module whose `main` takes its command line, or its options
    "fit": ("train a process reward model", LIGHTNING),
    "validate": ("measure it on validation data", LIGHTNING),
    "test": ("measure it on test data", LIGHTNING),
    "predict": ("write the scores of data to predictions.jsonl", LIGHTNING),
    "format": ("write any source as training rows", "sources.formatting"),
    "label": ("turn problems into solutions with judged steps", "labelling.label"),
    "score": ("score the steps of solutions", "scoring.score"),
    "search": ("find answers with a generator and a process reward model", "searching.verb"),
    "evaluate": (
        "measure models on ProcessBench, step labels, best-of-n pools, PRMBench",
        "evaluation:EvaluateOptions",
    ),
    "export": ("write a model for transformers, vLLM, SGLang or PEFT", "interop:ExportOptions"),
    "import": ("turn a public model into a folder of ours", "interop:ImportOptions"),
    "report": ("show runs and evaluations on one HTML page", "evaluation.report"),
    "completion": ("print a completion script for bash, zsh or tcsh", "__main__:print_completion"),
}
WORK = {  # what takes the options of a verb; heavy, and imported once they are known to be good
    "evaluate": "evaluation.benchmarks:evaluate",
    "export": "interop.export:export",
    "import": "interop.importing:import_public",
}


def main() -> int:
    """Run a verb; bad input is one line and exit status 1, or 2 for a wrong command line."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb == "--version":
        print(f"prm_lightning {__version__}")
        return 0
    if verb in ("-h", "--help"):
        print("usage: python -m prm_lightning VERB [options]\n\nverbs:")
        print("\n".join(f"  {name:11}{text}" for name, (text, _) in VERBS.items()))
        print("\npython -m prm_lightning VERB --help lists a verb's options.")
        return 0
    if verb not in VERBS:
        expected = f"{', '.join(VERBS)}.{did_you_mean(verb, VERBS)}"
        print(f"error: there is no verb {verb!r}, expected one of {expected}", file=sys.stderr)
        return USAGE_STATUS
    try:
        run(verb)
    except (ValueError, OSError) as error:
        if os.environ.get("PRM_LIGHTNING_DEBUG"):
            raise
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return USAGE_STATUS if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command resumes where it can", file=sys.stderr)
        return 130  # as a shell reports SIGINT
    return 0


def run(verb: str) -> None:
    """Run a verb with the command line of this process and the options of its environment."""
    given = sys.argv[2:]
    sys.argv[2:] = add_environment(verb, given, os.environ)
    if len(sys.argv) - 2 > len(given):
        added = [arg for arg in sys.argv[2:] if arg not in given]
        print(f"environment  {' '.join(added)}", file=sys.stderr)
    if VERBS[verb][1] != LIGHTNING:
        call(verb, sys.argv[2:])
        return
    finished = ours(LIGHTNING).main()  # Lightning reads the verb and its options itself
    if finished is not None:
        report_run(finished)


def call(verb: str, args: Sequence[str]) -> None:
    """Run a verb other than Lightning's with its command line."""
    takes_args = ours(VERBS[verb][1])
    if isinstance(takes_args, ModuleType):
        takes_args.main(args)
        return
    options = run_verb(verb, takes_args, args)
    if verb in WORK:
        quieten_libraries()
        ours(WORK[verb])(options)


def ours(name: str) -> Any:
    """A module of this package, or what a module has after a colon."""
    return resolve_name(f"prm_lightning.{name}")


def report_run(folder: Path) -> None:
    """Write the report of a run that has ended; if that fails, the run is no worse for it."""
    from prm_lightning.evaluation.report import write_report

    try:
        page = write_report([str(folder)], overwrite=True)
    except Exception as error:  # whatever it is, the model is trained and saved
        first_line = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(f"warning: no report was written ({first_line})", file=sys.stderr)
    else:
        print(f"report       {page}")


def print_completion(shell: Literal["bash", "zsh", "tcsh"], /) -> None:
    """Print the completion script of a shell: bash, zsh or tcsh.

    Args:
        shell: the shell that reads the script.

    Raises:
        ValueError: shtab is not installed.
    """
    if not find_spec("shtab"):
        raise ValueError("completion: needs shtab: pip install 'prm_lightning[completion]'.")
    whole = ArgumentParser(prog="prm_lightning")  # shells cannot complete after `python -m`
    verbs = whole.add_subcommands()
    lightning: Any = capture_parser(ours(LIGHTNING).main)
    for name, (text, module) in VERBS.items():
        if module == LIGHTNING:
            parser = lightning._subcommands_action.choices[name]
        else:
            parser = capture_parser(call, name, [])
        verbs.add_subcommand(name, parser, help=text)
    set_parsing_settings(add_print_completion_argument=True)
    whole.parse_args([f"--print_completion=shtab-{shell}"])


if __name__ == "__main__":
    sys.exit(main())
