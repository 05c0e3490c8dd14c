"""Verb `export`: a trained model as a checkpoint that transformers, vLLM, SGLang or PEFT load.

It passes only if it scores as the model does.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from prm_lightning.files import require_replaceable, write_json, written_folder
from prm_lightning.interop import DTYPES, MODEL_FILES, ExportOptions
from prm_lightning.interop.card import Encoding, read_encoding, scoring_code, write_card
from prm_lightning.interop.formats import compute_in_float32, require_format, write_weights
from prm_lightning.interop.parity import (
    Parity,
    compare,
    probes_for,
    require_parity,
    score_in_fresh_process,
)
from prm_lightning.modeling.locate import hub_token
from prm_lightning.modeling.model_folder import find_folder
from prm_lightning.modeling.prm import MANIFEST, PRM
from prm_lightning.scoring.public_families import MANIFEST_FILE
from prm_lightning.sources.rows import HUB_ID

EXPORT_RECORD = "export.json"


def export(options: ExportOptions) -> None:
    """Write an export, score with it in a fresh process, and keep it only if it scores alike.

    Raises:
        ValueError: there is no such model, the format cannot hold it, or the export does not
            score as it does.
        OSError: the target is taken or cannot be written.
    """
    target, format = Path(options.output), options.format
    place = find_model(options.model)
    ours = (*MODEL_FILES, EXPORT_RECORD)
    require_replaceable(target, overwrite=options.overwrite, ours=ours, record=EXPORT_RECORD)
    repo = options.push_to_hub
    if repo is not None:
        require_repository(repo)
    prm = PRM.from_pretrained(place, options.device, trust_remote_code=options.trust_remote_code)
    if prm.head.likelihood is not None:
        leave_out_likelihood(prm)
    require_format(prm, format)
    config = prm.manifest.backbone
    if repo and format == "adapter" and Path(config.name).exists():
        raise ValueError(
            f"export: the base model of this adapter is the folder {config.name}, which {repo} "
            "would not hold. Send merged weights: --format token-classification."
        )
    with written_folder(target, overwrite=options.overwrite) as folder:
        parity = _write_checked(prm, place, folder, options)
    merged = format != "adapter" and config.lora is not None and config.quantize != "none"
    into = f", adapters added to the {options.merge_into} weights" if merged else ""
    print(f"{target}: {format} in {options.dtype}{into}\n  against {options.model}: {parity}")
    print(f"  how to score with it and how to serve it: {target / 'README.md'}")
    if repo is not None:
        print(f"  sent: {push(target, repo, private=options.visibility == 'private')}")


def _write_checked(prm: PRM, place: Path, folder: Path, options: ExportOptions) -> Parity:
    """Fill a folder that will be called as the options say."""
    format, dtype = options.format, options.dtype
    encoding = read_encoding(prm, format)
    config = prm.manifest.backbone.settled()
    exact = dtype == "fp32" and config.quantize == "none"
    if exact:
        compute_in_float32(prm)
    probes = probes_for(prm)
    _say(f"scoring {len(probes)} probes with {place}")
    ours = [prm.score(problem, [steps])[0] for problem, steps in probes]
    device = prm.backbone.device.type
    _say(f"writing {format} in {dtype}")
    text = {  # how text becomes ids, and how scores are meant
        "template": prm.manifest.template,
        **asdict(encoding),
        "aggregation": prm.manifest.aggregation,
        "threshold": prm.manifest.threshold,
    }
    write_weights(prm, place, folder, options, text)
    prm.encoder.tokenizer.save_pretrained(folder)
    _say("scoring them with what was written, in a fresh process")
    code = scoring_code(str(folder), format, prm, encoding, dtype)
    theirs = score_in_fresh_process(code, device, format != "adapter", probes)
    parity = compare(ours, theirs, prm.threshold)
    require_parity(parity, exact, options.tolerance, "export")
    name = options.push_to_hub or str(Path(options.output))
    code = scoring_code(name, format, prm, encoding, dtype)
    card = write_card(prm, place.parent, name, format, encoding, code, parity)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if (manifest := _scorer_manifest(prm, encoding, options)) is not None:
        write_json(folder / MANIFEST_FILE, manifest)
    record = {
        "format": format,
        "dtype": dtype,
        "labels": options.labels.split("/"),
        "base_model": config.name,
        "revision": config.revision,
        "trained_with": {"quantize": config.quantize, "dtype": config.dtype},
        "merged_into": None if format == "adapter" else options.merge_into,
        "prm": text,
        "data_fingerprint": prm.manifest.data_fingerprint,
        "parity": asdict(parity),
        "tolerance": options.tolerance,
        "versions": {n: version(n) for n in ("prm_lightning", "torch", "transformers", "peft")},
    }
    write_json(folder / EXPORT_RECORD, record)
    return parity


def leave_out_likelihood(prm: PRM) -> None:
    """Give a model a head `scalar`, since nothing holds `likelihood`, and a threshold to suit."""
    moved = torch.logit(torch.tensor(prm.threshold)) - prm.head.drop_likelihood()
    left_out = "the likelihood of numbers is left out of the export, which finds fewer errors"
    threshold = round(float(torch.sigmoid(moved)), 3)
    how = f"{prm.manifest.threshold_fitted_on or 'no data'}, and moved, since {left_out}"
    prm.record(head="scalar", threshold=threshold, threshold_fitted_on=how)
    print(f"export: {left_out}; its threshold is {threshold}", file=sys.stderr)


def find_model(model: str) -> Path:
    """The folder of a model of ours."""
    if (Path(model) / "best_model" / MANIFEST).is_file():
        raise ValueError(f"export: {model} is a run. Give its model: --model {model}/best_model.")
    folder = find_folder(model)
    if (folder / MANIFEST).is_file():
        return folder
    raise ValueError(
        f"export: {model} holds no {MANIFEST}, so it is no model of prm_lightning. Give a folder "
        "such as outputs/quickstart/best_model. A run has one after its first validation: if it "
        "ended earlier, resume it with fit --ckpt_path last."
    )


def require_repository(repo: str) -> None:
    """Refuse what cannot be sent to the Hub, before the long work; nothing is asked there."""
    if not HUB_ID.fullmatch(repo):
        raise ValueError(f"export: --push_to_hub {repo!r} is no name of the form owner/name.")
    if hub_token() is None:
        raise ValueError(
            f"export: --push_to_hub {repo} needs a token. Make one that may write at "
            "https://huggingface.co/settings/tokens and set HF_TOKEN, in the environment or .env."
        )


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Send a folder to a repository of the Hub in one commit, whose address is returned.

    Weights that only the repository has are deleted, as servers load all. `private` is what a
    repository that is made becomes; one that exists stays as it is.
    """
    import httpx2
    from huggingface_hub import HfApi

    api = HfApi(token=hub_token())
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Process reward model exported by prm_lightning",
            delete_patterns=["*.safetensors", "*.safetensors.index.json"],
        )
    except (OSError, httpx2.TransportError) as error:
        raise ValueError(
            f"export: {repo} was not sent to the Hub: {' '.join(str(error).split())[:300]} "
            f"{folder} is complete; send it later by `hf upload {repo} {folder}`."
        ) from error
    return str(commit.commit_url)


def _scorer_manifest(prm: PRM, encoding: Encoding, options: ExportOptions) -> dict[str, Any] | None:
    """What lets `load_scorer` read the folder; None where it would load another base model."""
    if options.format == "adapter" and prm.manifest.backbone.quantize != "none":
        return None
    manifest = {
        "model": ".",
        "layout": f"prm-{prm.manifest.template}",
        "head": {"qwen-prm": "two_layer", "causal-lm": "lm"}.get(options.format, "linear"),
        "step_end": prm.manifest.step_end,
        "dtype": DTYPES[options.dtype],
        "aggregation": prm.manifest.aggregation,
        "threshold": prm.manifest.threshold,
    }
    if encoding.verdicts is not None:
        tokenizer = prm.encoder.tokenizer
        texts = [tokenizer.decode([token]) for token in encoding.verdicts]
        ends = [tokenizer.encode(text, add_special_tokens=False)[-1] for text in texts]
        if ends != list(encoding.verdicts):
            return None
        manifest |= {"wrong": texts[0], "right": texts[1]}
    return manifest


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"export: {what}", file=sys.stderr)
