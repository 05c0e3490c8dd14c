"""The one door: ``python -m prm_lightning VERB``."""

from __future__ import annotations

import os
import sys

VERBS = {
    "fit": "train a process reward model",
    "validate": "measure it on validation data",
    "test": "measure it on test data",
    "predict": "write the scores of data to predictions.jsonl",
    "score": "score the steps of one solution",
}


def main() -> int:
    """Run a verb; bad input is one line and exit status 1."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print("usage: python -m prm_lightning VERB [options]\n\nverbs:")
        print("\n".join(f"  {name:10}{text}" for name, text in VERBS.items()))
        print("\npython -m prm_lightning VERB --help lists a verb's options.")
        return 0
    if verb not in VERBS:
        print(
            f"prm_lightning: there is no verb {verb!r}, expected one of {', '.join(VERBS)}.",
            file=sys.stderr,
        )
        return 2
    try:
        if verb == "score":
            from prm_lightning.inference.score import main as score

            score(sys.argv[2:])
        else:
            from prm_lightning.training.cli import main as lightning

            lightning()
    except (ValueError, OSError) as error:
        if os.environ.get("PRM_LIGHTNING_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
