"""Write an exported folder, and let it pass only if it scores as the model does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from prm_lightning.interop.card_code import Encoding, read_encoding, scoring_code
from prm_lightning.interop.export_formats import (
    Format,
    Labels,
    require_layout,
    write_adapter,
    write_causal_lm,
    write_classifier,
    write_qwen_prm,
)
from prm_lightning.interop.merging import (
    ExportDtype,
    MergeInto,
    compute_in_float32,
    is_exact,
    merge,
)
from prm_lightning.interop.model_card import write_card
from prm_lightning.interop.parity import (
    PROBES,
    Parity,
    compare,
    require_parity,
    score_in_fresh_process,
)
from prm_lightning.modeling.backbone import hub_token
from prm_lightning.modeling.heads import verdict_ids
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.public_families import MANIFEST_FILE
from prm_lightning.sources.rows import HUB_ID

EXPORT_RECORD = "export.json"


@dataclass(frozen=True)
class Choice:
    """What to export.

    Args:
        format: the layout.
        dtype: of the tensors.
        labels: names of the labels 0 and 1.
        merge_into: what adapters of a quantized model are added to.
        tolerance: largest difference in P(correct) that is let pass; None for the usual ones.
        repo: of the Hub that it is meant for, by whose name its card calls it.
    """

    format: Format
    dtype: ExportDtype
    labels: Labels = "INCORRECT/CORRECT"
    merge_into: MergeInto = "dequantized"
    tolerance: float | None = None
    repo: str | None = None


def write_checked(prm: PRM, place: Path, folder: Path, target: Path, choice: Choice) -> Parity:
    """Write an export into a folder, score with it in a fresh process and compare.

    Args:
        prm: loaded from `place`; it cannot score any more afterwards.
        place: the model's folder; what its run recorded lies beside it.
        folder: exists and is empty.
        target: the name that `folder` gets.
        choice: what to export.

    Raises:
        ValueError: the format cannot hold the model, or the export does not score as it does.
        OSError: the disk is full.
    """
    require_layout(prm, choice.format)
    _require_public_base(prm, choice)
    verdicts = None
    if choice.format == "causal-lm":
        verdicts = verdict_ids(prm.encoder.tokenizer, prm.manifest.template)
    encoding = read_encoding(prm, verdicts)
    exact = is_exact(prm, choice.dtype)
    if exact:
        compute_in_float32(prm)
    _say(f"scoring {len(PROBES)} probes with {place}")
    ours = [prm.score(problem, [steps])[0] for problem, steps in PROBES]
    device = prm.backbone.device.type
    _say(f"writing {choice.format} in {choice.dtype}")
    with _full_disk_explained(target):
        _write_weights(prm, place, folder, encoding, choice)
        prm.encoder.tokenizer.save_pretrained(folder)
    _say("scoring them with what was written, in a fresh process")
    code = scoring_code(str(folder), choice.format, prm, encoding, choice.dtype)
    theirs = score_in_fresh_process(code, device, choice.format != "adapter", PROBES)
    parity = compare(ours, theirs, prm.threshold)
    require_parity(parity, exact, choice.tolerance, "export")
    name = choice.repo or str(target)
    code = scoring_code(name, choice.format, prm, encoding, choice.dtype)
    run = place.parent
    card = write_card(prm, run, name, choice.format, encoding, code, parity)
    with _full_disk_explained(target):
        (folder / "README.md").write_text(card, encoding="utf-8")
        _write_json(folder / MANIFEST_FILE, _scorer_manifest(prm, encoding, choice))
        _write_json(folder / EXPORT_RECORD, _record(prm, encoding, choice, parity))
    return parity


def require_repository(repo: str) -> None:
    """Refuse what cannot be sent to the Hub, before the long work; nothing is asked there.

    Raises:
        ValueError: it is no ``owner/name``, or there is no token.
    """
    if not HUB_ID.fullmatch(repo):
        raise ValueError(f"export: --push_to_hub {repo!r} is no name of the form owner/name.")
    if hub_token() is None:
        raise ValueError(
            f"export: --push_to_hub {repo} needs a token. Make one that may write at "
            "https://huggingface.co/settings/tokens and set HF_TOKEN, in the environment or .env."
        )


def push(folder: Path, repo: str, visibility: Literal["private", "public"]) -> str:
    """Send a folder to a repository of the Hub in one commit.

    Args:
        folder: what to send; weights that only the repository has are deleted, as servers load all.
        repo: ``owner/name``.
        visibility: of the repository if it is made; one that exists keeps its own.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the Hub refuses or cannot be reached.
    """
    import httpx2
    from huggingface_hub import HfApi

    api = HfApi(token=hub_token())
    try:
        api.create_repo(repo, private=visibility == "private", exist_ok=True)
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


def _require_public_base(prm: PRM, choice: Choice) -> None:
    """Refuse to send an adapter whose base model lies on this computer alone."""
    base = prm.manifest.backbone.name
    if choice.repo and choice.format == "adapter" and Path(base).exists():
        raise ValueError(
            f"export: the base model of this adapter is the folder {base}, which {choice.repo} "
            "would not hold. Send merged weights: --format token-classification."
        )


def _write_weights(prm: PRM, place: Path, folder: Path, encoding: Encoding, choice: Choice) -> None:
    config = prm.manifest.backbone
    if choice.format == "adapter":
        write_adapter(place, prm.head, folder, config.name, config.revision)
        return
    record = _encoding_record(prm, encoding)
    lm = merge(prm, place, choice.merge_into, choice.dtype)
    if choice.format == "qwen-prm":
        write_qwen_prm(lm, prm.head, folder, choice.labels, record)
    elif encoding.verdicts is not None:
        write_causal_lm(lm, prm.head, encoding.verdicts, folder, record)
    else:
        write_classifier(lm, prm.head, folder, choice.format, choice.labels, record)


def _encoding_record(prm: PRM, encoding: Encoding) -> dict[str, Any]:
    """How text becomes ids, and how scores are meant, for config.json and export.json."""
    return {
        "template": prm.manifest.template,
        **asdict(encoding),
        "aggregation": prm.manifest.aggregation,
        "threshold": prm.manifest.threshold,
    }


def _record(prm: PRM, encoding: Encoding, choice: Choice, parity: Parity) -> dict[str, Any]:
    config = prm.manifest.backbone.settled()
    return {
        "format": choice.format,
        "dtype": choice.dtype,
        "labels": choice.labels.split("/"),
        "base_model": config.name,
        "revision": config.revision,
        "trained_with": {"quantize": config.quantize, "dtype": config.dtype},
        "merged_into": None if choice.format == "adapter" else choice.merge_into,
        "prm": _encoding_record(prm, encoding),
        "data_fingerprint": prm.manifest.data_fingerprint,
        "parity": asdict(parity),
        "tolerance": choice.tolerance,
        "versions": {
            name: version(name) for name in ("prm_lightning", "torch", "transformers", "peft")
        },
    }


def _scorer_manifest(prm: PRM, encoding: Encoding, choice: Choice) -> dict[str, Any] | None:
    """What lets `load_scorer` read the folder; None where it would load another base model."""
    if choice.format == "adapter" and prm.manifest.backbone.quantize != "none":
        return None
    manifest = {
        "model": ".",
        "layout": f"prm-{prm.manifest.template}",
        "head": {"qwen-prm": "two_layer", "causal-lm": "lm"}.get(choice.format, "linear"),
        "step_end": prm.manifest.step_end,
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[choice.dtype],
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


def _write_json(path: Path, record: dict[str, Any] | None) -> None:
    if record is not None:
        text = json.dumps(record, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _full_disk_explained(target: Path) -> Iterator[None]:
    """For what the disk refuses safetensors has an error of its own, and tokenizers a bare one."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        if not isinstance(error, (SafetensorError, OSError)) and type(error) is not Exception:
            raise
        raise OSError(
            f"export: cannot write {target}: {error}. Free some space, or give another --output."
        ) from error


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"export: {what}", file=sys.stderr)
