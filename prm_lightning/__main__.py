"""The one door: ``python -m prm_lightning VERB``."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from prm_lightning.environment import insert_options, options_in


class Verb(NamedTuple):
    """What a verb does, and the module whose `main` takes its command line."""

    help: str
    module: str


LIGHTNING = "training.cli"
VERBS = {
    "fit": Verb("train a process reward model", LIGHTNING),
    "validate": Verb("measure it on validation data", LIGHTNING),
    "test": Verb("measure it on test data", LIGHTNING),
    "predict": Verb("write the scores of data to predictions.jsonl", LIGHTNING),
    "format": Verb("write any source as training rows", "sources.formatting"),
    "label": Verb("turn problems into solutions with judged steps", "labelling.pipeline"),
    "score": Verb("score the steps of solutions", "scoring.score"),
    "search": Verb(
        "find answers with a generator and a process reward model", "searching.search_verb"
    ),
    "evaluate": Verb(
        "measure models on ProcessBench, step labels, best-of-n pools, PRMBench",
        "evaluation.evaluate",
    ),
    "export": Verb("write a model for transformers, vLLM, SGLang or PEFT", "interop.export"),
    "import": Verb("turn a public model into a folder of ours", "interop.importing"),
    "report": Verb("show runs and evaluations on one HTML page", "evaluation.report"),
    "completion": Verb("print a completion script for bash, zsh or tcsh", "completion"),
}


def main() -> int:
    """Run a verb; bad input is one line and exit status 1."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print("usage: python -m prm_lightning VERB [options]\n\nverbs:")
        print("\n".join(f"  {name:11}{known.help}" for name, known in VERBS.items()))
        print("\npython -m prm_lightning VERB --help lists a verb's options.")
        return 0
    if verb not in VERBS:
        print(
            f"prm_lightning: there is no verb {verb!r}, expected one of {', '.join(VERBS)}.",
            file=sys.stderr,
        )
        return 2
    if options := options_in(os.environ, verb):
        print(f"environment  {' '.join(options)}", file=sys.stderr)
        sys.argv[2:] = insert_options(sys.argv[2:], options)
    try:
        module = import_module(f"prm_lightning.{VERBS[verb].module}")
        if VERBS[verb].module == LIGHTNING:
            finished = module.main()  # Lightning reads the verb and its options itself
            if finished is not None:
                report_run(finished)
        else:
            module.main(sys.argv[2:])
    except (ValueError, OSError) as error:
        if os.environ.get("PRM_LIGHTNING_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on where it can", file=sys.stderr)
        return 130  # as a shell reports SIGINT
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
