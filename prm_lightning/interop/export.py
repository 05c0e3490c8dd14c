"""Verb `export`: a trained model as a checkpoint that transformers, vLLM, SGLang or PEFT load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb

# Nothing heavy is imported here: jsonargparse needs these to show the help.
Format = Literal[
    "token-classification", "sequence-classification", "qwen-prm", "causal-lm", "adapter"
]


def main(args: Sequence[str]) -> None:
    """Run the verb."""
    run_verb("export", export, args)


def export(
    model: str,
    output: str,
    format: Format = "token-classification",
    dtype: Literal["bf16", "fp32"] = "bf16",
    labels: Literal["INCORRECT/CORRECT", "LABEL_0/LABEL_1"] = "INCORRECT/CORRECT",
    merge_into: Literal["dequantized", "original"] = "dequantized",
    tolerance: float | None = None,
    device: str | None = None,
    push_to_hub: str | None = None,
    visibility: Literal["private", "public"] = "private",
    overwrite: bool = False,
) -> None:
    """Write a trained model as a checkpoint that others load without code of this project.

    Args:
        model: a folder such as outputs/x/best_model.
        output: folder to write; it appears only if the checkpoint scores as the model does.
        format: token-classification for transformers and vLLM; sequence-classification for servers
            that read the last token, SGLang among them; qwen-prm for Qwen2 and Qwen2.5 backbones
            in the layout of Qwen2.5-Math-PRM; causal-lm for token heads; adapter for PEFT.
        dtype: of the tensors; of `adapter`, of the base model in the check.
        labels: names of the labels 0 and 1; some tools look for LABEL_1.
        merge_into: what the adapters of a quantized model are added to: its dequantized weights,
            or the original ones, on which they were not trained.
        tolerance: largest difference in P(correct) that is let pass, in [0, 1]; 1e-5 in fp32,
            else 0.1 and on average 0.01, if not given.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        push_to_hub: owner/name of a repository on the Hugging Face Hub that gets the folder once it
            has passed; it is made if it does not exist. The token is HF_TOKEN or HF_AUTH_TOKEN,
            from the environment or .env. Without this option nothing is sent anywhere.
        visibility: of that repository if it is made; one that exists keeps its own.
        overwrite: replace the output.
    """
    place = _find_model(Path(model))
    target = Path(output)
    if target.exists() and not overwrite:  # before a model is loaded
        raise FileExistsError(f"{target} exists. Give another --output, or --overwrite.")
    from prm_lightning.files import written_folder
    from prm_lightning.interop.exported import Choice, push, require_repository, write_checked
    from prm_lightning.modeling.prm import PRM

    if push_to_hub is not None:
        require_repository(push_to_hub)
    prm = PRM.from_pretrained(place, device)
    choice = Choice(format, dtype, labels, merge_into, tolerance, push_to_hub)
    with written_folder(target, overwrite=overwrite) as folder:
        parity = write_checked(prm, place, folder, target, choice)
    config = prm.manifest.backbone
    merged = format != "adapter" and config.lora is not None and config.quantize != "none"
    into = f", adapters added to the {merge_into} weights" if merged else ""
    print(f"{target}: {format} in {dtype}{into}\n  against {place}: {parity}")
    print(f"  how to score with it and how to serve it: {target / 'README.md'}")
    if push_to_hub is not None:
        print(f"  sent: {push(target, push_to_hub, visibility)}")


def _find_model(model: Path) -> Path:
    """The model folder, where a run or a folder that is none is named."""
    if (model / "prm.json").is_file():
        return model
    if (model / "best_model" / "prm.json").is_file():
        raise ValueError(f"export: {model} is a run. Give its model: --model {model}/best_model.")
    run = model.parent if model.name in ("best_model", "final_model") else model
    if (run / "config.yaml").is_file():
        raise ValueError(
            f"export: the run {run} has no {model.name if run != model else 'best_model'}: it "
            "ended before its first validation. Let it go on with fit --ckpt_path last."
        )
    raise ValueError(
        f"export: {model} holds no prm.json, so it is no model of prm_lightning. Give a folder "
        "such as outputs/quickstart/best_model."
    )
