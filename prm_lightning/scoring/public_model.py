"""Process reward models that others trained, as scorers: their place, heads and weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from prm_lightning.modeling.backbone import (
    Backbone,
    TreeModel,
    hub_token,
    load_language_model,
    load_tokenizer,
    pick_device,
)
from prm_lightning.modeling.model_folder import ADAPTER_CONFIG, find_folder, require_whole_files
from prm_lightning.modeling.step_model import StepModel
from prm_lightning.scoring.public_encoder import make_encoder
from prm_lightning.scoring.public_families import (
    SUFFIXES,
    PublicManifest,
    find_correct_label,
    read_config,
    read_public_manifest,
    recognise,
)
from prm_lightning.sources.rows import HUB_ID

HEAD_TENSORS: dict[str, list[tuple[str, ...]]] = {  # layers; the first that is there is taken
    "linear": [("score",)],
    "two_layer": [("score.0", "score.2")],
    "value": [("v_head.summary",), ("v_head",)],
}


class PublicHead(nn.Module):
    """Linear layers with ReLU between them, and one log-odds of correct out of the last.

    Args:
        layers: weight and bias of each, first to last; a bias may be None. The last weight has one
            row, the logit, or two.
        correct_label: which of two rows means correct.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor | None]], correct_label: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(_frozen(weight) for weight, _ in layers)
        self.biases = nn.ParameterList(
            _frozen(torch.zeros(len(weight)) if bias is None else bias) for weight, bias in layers
        )
        self.correct_label = correct_label

    def forward(self, hidden: Tensor) -> Tensor:
        """``(N, H)`` hidden states to ``(N,)`` float32 log-odds."""
        with torch.autocast(hidden.device.type, enabled=False):
            values = hidden.float()
            for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                values = F.linear(F.relu(values) if i else values, weight, bias)
        if values.shape[1] == 1:
            return values[:, 0]
        return values[:, self.correct_label] - values[:, 1 - self.correct_label]


def load_public(
    manifest: PublicManifest, folder: Path, device: str | torch.device | None = None
) -> StepModel:
    """A public model as a scorer, in eval mode. None of its own code is run.

    Args:
        manifest: how it scores.
        folder: where it is.
        device: None takes the first GPU if there is one, else the CPU.

    Raises:
        ValueError: the weights cannot be read, or lack the head, or it is broken.
    """
    with _explained(manifest.model):
        adapter = _adapter_base(folder)
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        tokenizer = load_tokenizer(str(folder) if has_tokenizer or not adapter else adapter)
        model = _load_language_model(manifest, folder, adapter)
    config = Backbone(str(folder), dtype=manifest.dtype, lora=None)
    backbone = TreeModel(model.requires_grad_(False), config)
    scorer = StepModel(
        backbone,
        _head(manifest, folder, backbone, tokenizer),
        make_encoder(tokenizer, manifest),
        manifest.model,
        manifest.aggregation,
        manifest.threshold,
    )
    return scorer.to(pick_device(device)).eval()


def find_public(model: str) -> tuple[PublicManifest, Path]:
    """How a public model scores, and the folder that it is in.

    Args:
        model: a folder, a Hub id, or a manifest file.

    Raises:
        ValueError: it cannot be found, or nothing tells how it scores.
    """
    file = Path(model)
    if file.suffix in SUFFIXES and file.is_file():
        manifest = read_public_manifest(file)
        folder = _find_folder(manifest.model, manifest.revision)
    else:
        folder = _find_folder(model)
        manifest = recognise(model, folder, set(_files_of_tensors(folder)))
    return manifest, folder


def _find_folder(model: str, revision: str | None = None) -> Path:
    """The folder of a model, fetched from the Hub if it is no local one."""
    folder = find_folder(model)
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(model):
        raise ValueError(
            f"scorer: {model!r} is no folder here, and no Hub id of the form owner/name. "
            "Give a folder such as outputs/quickstart/best_model."
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]
    with _explained(model):
        kwargs: dict[str, Any] = {"revision": revision, "token": hub_token()}
        folder = Path(snapshot_download(model, allow_patterns=patterns, **kwargs))
        if not any(folder.glob("*.safetensors")):
            patterns.append("pytorch_model*.bin")
            folder = Path(snapshot_download(model, allow_patterns=patterns, **kwargs))
    return folder


def _head(
    manifest: PublicManifest, folder: Path, backbone: TreeModel, tokenizer: Any
) -> PublicHead:
    if manifest.head == "lm":
        layers = [_lm_rows(manifest, backbone, tokenizer)]
    else:
        found = _read_head_tensors(folder)
        known = HEAD_TENSORS[manifest.head]
        names = next((n for n in known if all(f"{x}.weight" in found for x in n)), None)
        if names is None:
            raise ValueError(
                f"scorer: {manifest.model!r} holds no tensor {known[0][0]}.weight, so it has no "
                f"trained {manifest.head} head and would score at random. Check the checkpoint, or "
                "`head` in its manifest."
            )
        layers = [(found[f"{name}.weight"], found.get(f"{name}.bias")) for name in names]
    rows = len(layers[-1][0])
    if rows not in (1, 2) or any(not w.isfinite().all() or not w.any() for w, _ in layers):
        raise ValueError(
            f"scorer: the head of {manifest.model!r} has {rows} rows or is all zero or not finite, "
            "expected one or two rows of trained numbers."
        )
    return PublicHead(layers, find_correct_label(manifest, read_config(folder)))


def _lm_rows(
    manifest: PublicManifest, backbone: TreeModel, tokenizer: Any
) -> tuple[Tensor, Tensor | None]:
    wrong, right = (
        tokenizer.encode(text, add_special_tokens=False)[-1]
        for text in (manifest.wrong, manifest.right)
    )
    if wrong == right:
        raise ValueError(
            f"scorer: {manifest.wrong!r} and {manifest.right!r} end with the same token ({right}) "
            f"of {manifest.model!r}. Set `right` and `wrong` in its manifest."
        )
    bias = backbone.causal_lm.get_output_embeddings().bias
    chosen = None if bias is None else bias[[wrong, right]]
    return backbone.lm_head_rows([wrong, right]), chosen


def _adapter_base(folder: Path) -> str | None:
    """The base model of a PEFT adapter; None for a whole model."""
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return None
    return str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])


def _load_language_model(manifest: PublicManifest, folder: Path, adapter: str | None) -> Any:
    import transformers

    kind = "AutoModel"
    if manifest.head == "lm":
        kind = "AutoModelForCausalLM"
    elif adapter is not None:  # its tensors are named after the class that it was trained in
        kind = "AutoModelForTokenClassification"
    config = Backbone(adapter or str(folder), dtype=manifest.dtype, lora=None)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)  # `_head` reads the head, not this class
    try:
        return load_language_model(config, adapters=folder if adapter else None, kind=kind)
    finally:
        transformers.logging.set_verbosity(verbosity)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """The tensors of a checkpoint by name, each with the file that it is in."""
    require_whole_files(folder)
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    if not found:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            found |= dict.fromkeys(torch.load(file, weights_only=True, mmap=True), file)
    return found


def _read_head_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors whose name has ``score`` or ``v_head`` in it, named from there on."""
    found = {}
    for name, file in _files_of_tensors(folder).items():
        parts = name.split(".")
        start = next((i for i, part in enumerate(parts) if part in ("score", "v_head")), None)
        if start is None:
            continue
        if file.suffix == ".bin":
            tensor = torch.load(file, weights_only=True, mmap=True)[name]
        else:
            with safe_open(file, framework="pt") as tensors:
                tensor = tensors.get_tensor(name)
        found[".".join(parts[start:])] = tensor.float()
    return found


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().float().clone(), requires_grad=False)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """One line in place of the loaders' many."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(
            f"scorer: cannot load {name!r}: {first.strip()} Give a folder or Hub id that exists; a "
            "gated model needs HF_TOKEN."
        ) from error
