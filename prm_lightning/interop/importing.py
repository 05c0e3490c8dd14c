"""Verb `import`: a public process reward model as a folder of this project, to train further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb

DTYPES: dict[str, Literal["float32", "bfloat16"]] = {"bf16": "bfloat16", "fp32": "float32"}


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    run_verb("import", import_model, args)


def import_model(
    model: str,
    output: str,
    dtype: Literal["bf16", "fp32"] = "bf16",
    encoding: Literal["exact", "nearest"] = "exact",
    bias: Literal["keep", "drop"] = "keep",
    tolerance: float | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a public process reward model into a folder that `fit` and `export` start from.

    Args:
        model: folder, Hub id or manifest file, as for `score`; docs/scoring.md tells more.
        output: folder to write; it appears only if it scores as the public model does.
        dtype: of the computation.
        encoding: exact refuses a model whose way to build tokens is not ours; nearest takes the
            nearest that is, measures what that changes and records it.
        bias: of the head. keep is exact; drop takes it off all log-odds, moves the threshold as far
            and records it, for exports to sequence-classification, which has no place for one. A
            head of two layers has to keep its biases.
        tolerance: largest difference in P(correct) that is allowed, in [0, 1]; 1e-5 in fp32,
            else 0.1 and on average 0.01, if not given.
        overwrite: replace an earlier import; other folders are never replaced.
    """
    # Heavy, and not needed for --help.
    from prm_lightning.interop.from_public import import_public

    place = Path(output)
    for line in import_public(
        model, place, DTYPES[dtype], encoding, bias, tolerance, overwrite=overwrite
    ):
        print(line)
