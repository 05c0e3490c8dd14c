"""PRM: a backbone, a head and an encoding that belong together, on disk and in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prm_lightning.batching.encode import Encoded, Encoder, Template
from prm_lightning.files import written_folder
from prm_lightning.modeling.backbone import (
    Backbone,
    Lora,
    TreeModel,
    load_backbone,
    load_tokenizer,
)
from prm_lightning.modeling.heads import LABELS, HeadKind, StepHead, verdict_ids
from prm_lightning.modeling.step_model import StepModel, require_steps
from prm_lightning.types import Aggregation

FORMAT_VERSION = 1
MANIFEST = "prm.json"
HEAD_FILE = "head.safetensors"
HEAD_STATE, MODEL_STATE = "head.", "backbone.model."  # before names in the state of a PRM


@dataclass(frozen=True)
class Manifest:
    """What prm.json says beyond the weights.

    Args:
        backbone: which language model, how it is held in memory, which adapters it has.
        head: see `StepHead`.
        template: see `Encoder`.
        step_end: the string whose one token ends a step.
        step_end_id: that token's id.
        aggregation: how to make one score of a solution out of those of its steps.
        threshold: a step whose P(correct) lies below it is flagged.
        threshold_fitted_on: the data that the threshold was chosen on; None if it was not.
        data_fingerprint: of the training data; None if unknown.
    """

    backbone: Backbone
    head: HeadKind
    template: Template
    step_end: str
    step_end_id: int
    aggregation: Aggregation = "min"
    threshold: float = 0.5
    threshold_fitted_on: str | None = None
    data_fingerprint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in prm.json."""
        backbone = asdict(self.backbone)
        return {
            "format_version": FORMAT_VERSION,
            "base_model": backbone.pop("name"),
            "revision": backbone.pop("revision"),
            "quantize": backbone.pop("quantize"),
            **{name: value for name, value in asdict(self).items() if name != "backbone"},
            "labels": list(LABELS),
            "backbone": backbone,
        }

    @staticmethod
    def from_json(record: dict[str, Any], folder: Path) -> Manifest:
        """The reverse of `to_json`.

        Raises:
            ValueError: a format version that this release does not know, or a missing entry.
        """
        version = record.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"prm: {folder / MANIFEST} has format_version {version!r}, this release reads "
                f"{FORMAT_VERSION}. Load it with the release of prm_lightning that wrote it."
            )
        try:
            backbone = dict(record["backbone"])
            lora = backbone.pop("lora")
            return Manifest(
                backbone=Backbone(
                    name=record["base_model"],
                    revision=record["revision"],
                    quantize=record["quantize"],
                    lora=None if lora is None else Lora(**lora),
                    **backbone,
                ),
                **{
                    name: record[name]
                    for name in Manifest.__dataclass_fields__
                    if name != "backbone"
                },
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"prm: {folder / MANIFEST} is incomplete ({error}). Save the model again."
            ) from error


class PRM(StepModel):
    """A process reward model of this project. It is a `Scorer`.

    Args:
        backbone: reads token trees.
        head: reads scores off its hidden states.
        encoder: makes the tokens.
        manifest: what is saved beside the weights.
        name: for records; empty takes that of the language model.
    """

    head: StepHead
    encoder: Encoder

    def __init__(
        self,
        backbone: TreeModel,
        head: StepHead,
        encoder: Encoder,
        manifest: Manifest,
        name: str = "",
    ) -> None:
        super().__init__(
            backbone,
            head,
            encoder,
            name or manifest.backbone.name,
            manifest.aggregation,
            manifest.threshold,
        )
        self.manifest = manifest

    def __repr__(self) -> str:
        of = self.manifest
        return (
            f"{super().__repr__()[:-1]},\n"
            f"    backbone={of.backbone.name!r}, head={of.head!r}, template={of.template!r}, "
            f"step_end={of.step_end!r})"
        )

    @classmethod
    def create(
        cls,
        backbone: Backbone,
        head: HeadKind = "scalar",
        template: Template = "chat",
        step_end: str | None = None,
        device: str | torch.device | None = None,
    ) -> PRM:
        """A language model with fresh adapters and a fresh head.

        Args:
            backbone: see `Backbone`.
            head: see `StepHead`.
            template: see `Encoder`.
            step_end: see `Encoder`.
            device: where the language model is read to, see `load_backbone`.
        """
        tokenizer = load_tokenizer(backbone.name, backbone.revision, backbone.trust_remote_code)
        encoder = Encoder(tokenizer, template, step_end)
        tree_model = load_backbone(backbone, trained_tokens=[encoder.step_end_id], device=device)
        fresh = StepHead(head, tree_model.hidden_size)
        if head == "token":
            wrong, right = tree_model.lm_head_rows(list(verdict_ids(tokenizer, template)))
            fresh.weight.data[0] = right - wrong
        manifest = Manifest(backbone, head, template, encoder.step_end, encoder.step_end_id)
        return cls(tree_model, fresh, encoder, manifest)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device | None = None) -> PRM:
        """The model that `save_pretrained` wrote, in eval mode.

        Args:
            folder: with prm.json, the head, the tokenizer and the adapter or the full weights.
            device: None takes the first GPU if there is one, else the CPU.

        Raises:
            ValueError: no such folder, no head in it or a broken one, or no base model.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        tensors = read_head(folder, manifest.head)
        tokenizer = load_tokenizer(str(folder))
        encoder = Encoder(tokenizer, manifest.template, manifest.step_end)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        backbone = load_backbone(manifest.backbone, saved=folder, device=chosen)
        head = StepHead(manifest.head, backbone.hidden_size, biased="bias" in tensors)
        head.load_state_dict(tensors)
        prm = cls(backbone, head, encoder, manifest, name=str(folder))
        return prm.to(chosen).eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the adapter (or all weights), the head, the tokenizer and prm.json.

        The folder appears under its name only once it is complete.

        Args:
            folder: to write.
            overwrite: replace what has its name.
            weights: this model's state, if its own parameters are shards; see `gather_weights`.

        Raises:
            FileExistsError: the folder exists and `overwrite` is off.
        """
        from safetensors.torch import save_file

        with written_folder(Path(folder), overwrite=overwrite) as target:
            kwargs: dict[str, Any] = {}
            head = self.head.state_dict()
            if weights is not None:
                head = _below(HEAD_STATE, weights)
                kwargs["state_dict"] = _below(MODEL_STATE, weights)
            if self.manifest.backbone.lora is not None:
                kwargs["save_embedding_layers"] = False  # else PEFT asks the Hub about the base
                adapters = self.backbone.model.peft_config["default"]
                if isinstance(adapters.target_modules, set):  # which is written in any order
                    adapters.target_modules = sorted(adapters.target_modules)
            self.backbone.model.save_pretrained(target, **kwargs)
            (target / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            tensors = {name: tensor.cpu() for name, tensor in head.items()}
            save_file(tensors, target / HEAD_FILE)
            self.encoder.tokenizer.save_pretrained(target)
            text = json.dumps(self.manifest.to_json(), indent=2, ensure_ascii=False)
            (target / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def encode(self, problem: str, steps: Sequence[str]) -> Encoded:
        """The token ids that `score` reads, up to the score of the last step, and where it reads.

        With the template `guide` every step is scored on a branch of its own, so that
        `step_positions` names the last step's alone.
        """
        return self.encoder.last_path(self.encoder.encode(problem, require_steps(steps)))

    def record_threshold(self, threshold: float, fitted_on: str) -> None:
        """Record the decision threshold and the data it was chosen on."""
        self.manifest = replace(self.manifest, threshold=threshold, threshold_fitted_on=fitted_on)
        self.threshold = threshold

    def record_data(self, fingerprint: str) -> None:
        """Record the training data."""
        self.manifest = replace(self.manifest, data_fingerprint=fingerprint)


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def read_manifest(folder: Path) -> Manifest:
    """prm.json of a model folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"prm: {folder} holds no {MANIFEST}, so it is not a model of prm_lightning. "
            "Give a folder such as outputs/quickstart/best_model."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"prm: {folder / MANIFEST} is not JSON ({error}).") from None
    return Manifest.from_json(record, folder)


def read_head(folder: Path, kind: HeadKind) -> dict[str, Tensor]:
    """The head's ``weight`` ``(rows, H)`` and what else it has, checked.

    Those are ``bias`` ``(rows,)``, ``inner.weight`` ``(H, H)`` and ``inner.bias`` ``(H,)``.

    Raises:
        ValueError: it is missing, or its weight is zero, or a number is not finite.
    """
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    if not path.is_file():
        raise ValueError(
            f"prm: {folder} holds no {HEAD_FILE}: without its trained head a PRM scores at random. "
            "Save the model again with save_pretrained."
        )
    tensors = load_file(path)
    finite = all(tensor.isfinite().all() for tensor in tensors.values())
    if not finite or not tensors["weight"].any():
        raise ValueError(
            f"prm: the {kind} head in {path} is all zero or not finite, so its scores mean "
            "nothing. Train again, with a lower learning rate if the loss was NaN."
        )
    return tensors
