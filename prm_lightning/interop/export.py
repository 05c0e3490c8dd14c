"""Verb `export`: a trained model as a checkpoint that transformers, vLLM, SGLang or PEFT load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb
from prm_lightning.interop import ExportDtype, Format, LabelNames, MergeInto


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    run_verb("export", export, args)


def export(
    model: str,
    output: str,
    format: Format = "token-classification",
    dtype: ExportDtype = "bf16",
    labels: LabelNames = "INCORRECT/CORRECT",
    merge_into: MergeInto = "dequantized",
    tolerance: float | None = None,
    device: str | None = None,
    push_to_hub: str | None = None,
    visibility: Literal["private", "public"] = "private",
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a trained model as a checkpoint that others load without code of this project.

    Args:
        model: a folder such as outputs/x/best_model, or the name of a model that comes with the
            package, such as smollm2-135m-prm.
        output: folder to write; it appears only if the checkpoint scores as the model does.
        format: token-classification for transformers and vLLM; sequence-classification for servers
            that read the last token, SGLang among them; qwen-prm for Qwen2 and Qwen2.5 backbones
            in the layout of Qwen2.5-Math-PRM; causal-lm for token heads; adapter for PEFT.
        dtype: of the tensors; of `adapter`, of the base model in the check.
        labels: names of the labels 0 and 1; some tools look for LABEL_1.
        merge_into: what the adapters of a quantized model are added to: its dequantized weights,
            or the original ones, on which they were not trained.
        tolerance: largest difference in P(correct) that is allowed, in [0, 1]; 1e-5 in fp32,
            else 0.1 and on average 0.01, if not given.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        push_to_hub: owner/name of a repository on the Hugging Face Hub that gets the folder once it
            has passed; it is made if it does not exist. The token is HF_TOKEN or HF_AUTH_TOKEN,
            from the environment or .env. Without this option nothing is sent anywhere.
        visibility: of that repository if it is made; one that exists keeps its own.
        trust_remote_code: run Python code that comes with the base model.
        overwrite: replace an earlier export; other folders are never replaced.
    """
    # Heavy, and not needed for --help.
    from prm_lightning.interop.write_export import ExportOptions, push, write_export

    target = Path(output)
    options = ExportOptions(format, dtype, labels, merge_into, tolerance, push_to_hub)
    prm, parity = write_export(
        model,
        target,
        options,
        device=device,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
    )
    config = prm.manifest.backbone
    merged = format != "adapter" and config.lora is not None and config.quantize != "none"
    into = f", adapters added to the {merge_into} weights" if merged else ""
    print(f"{target}: {format} in {dtype}{into}\n  against {model}: {parity}")
    print(f"  how to score with it and how to serve it: {target / 'README.md'}")
    if push_to_hub is not None:
        print(f"  sent: {push(target, push_to_hub, visibility)}")
