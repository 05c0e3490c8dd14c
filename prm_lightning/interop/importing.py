"""Verb `import`: a public process reward model as a folder of this project, to train further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb


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
        tolerance: largest difference in P(correct) that is let pass, in [0, 1]; 1e-5 in fp32,
            else 0.1 and on average 0.01, if not given.
        overwrite: replace the output.
    """
    target = Path(output)
    if target.exists() and not overwrite:  # before a model is loaded
        raise FileExistsError(f"{target} exists. Give another --output, or --overwrite.")
    from prm_lightning.interop.imported import Wish, import_public, read_public

    manifest, folder = read_public(model)
    wish = Wish(target, "bfloat16" if dtype == "bf16" else "float32", encoding, bias, tolerance)
    for line in import_public(manifest, folder, wish, overwrite=overwrite):
        print(line)
