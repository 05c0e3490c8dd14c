"""A model folder: which one a name means, what its prm.json says, and whether its files are whole.

Comes in: the name of a model. Goes out: a checked `Manifest` and the tensors of the head.
Read next: `prm.py`, which makes a model of them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from prm_lightning.batching.encode import Encoder, Template
from prm_lightning.files import write_json
from prm_lightning.modeling.backbone import Backbone, Lora
from prm_lightning.modeling.heads import LABELS, HeadKind, StepHead
from prm_lightning.modeling.locate import load_tokenizer, refuse_mistyped_path
from prm_lightning.types import Aggregation

FORMAT_VERSION = 1
MANIFEST = "prm.json"
HEAD_FILE = "head.safetensors"
ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SHIPPED_MODELS = Path(__file__).parents[1] / "models"  # the models that come with the package

# Entries of prm.json that belong to `Backbone`, with the names of its fields.
MOVED = {"base_model": "name", "revision": "revision", "quantize": "quantize"}

T = TypeVar("T")


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
        threshold: in [0, 1]; a step whose P(correct) is below it is flagged.
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
        """The content of prm.json. Permission to run code is the caller's and is not in it."""
        backbone = asdict(self.backbone)
        del backbone["trust_remote_code"], backbone["kernels"]
        return {
            "format_version": FORMAT_VERSION,
            **{entry: backbone.pop(name) for entry, name in MOVED.items()},
            **{name: value for name, value in asdict(self).items() if name != "backbone"},
            "labels": list(LABELS),
            "backbone": backbone,
        }

    @staticmethod
    def from_json(record: Any, folder: Path) -> Manifest:
        """The reverse of `to_json`, which trusts nothing in the file.

        `trust_remote_code`, which earlier releases wrote, is ignored: it never comes from a file.
        A ValueError names a format version that this release does not know, or an entry that is
        missing, unknown or impossible.
        """
        place = f"prm: {folder / MANIFEST}"
        values = _require_object(record, place)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{place} has format_version {version!r:.80}, this release reads "
                f"{FORMAT_VERSION}. Load it with the release of prm_lightning that wrote it."
            )
        labels = values.pop("labels", list(LABELS))
        if labels != list(LABELS):
            raise ValueError(
                f"{place} has the labels {labels!r:.80}, expected {list(LABELS)}: the first row "
                "of a head means a wrong step. Train or import the model again."
            )
        backbone = _require_object(values.pop("backbone", {}), f"{place}: backbone")
        backbone.pop("trust_remote_code", None)
        backbone |= {name: values.pop(entry) for entry, name in MOVED.items() if entry in values}
        lora = backbone.setdefault("lora", None)
        if lora is not None:
            lora = _require_object(lora, f"{place}: lora")
            backbone["lora"] = checked_fields(Lora, lora, f"{place}: lora")
        values["backbone"] = checked_fields(Backbone, backbone, f"{place}: backbone")
        manifest = checked_fields(Manifest, values, place)
        if not 0 <= manifest.threshold <= 1:
            raise ValueError(
                f"{place} has the threshold {manifest.threshold!r}, expected a number in [0, 1]."
            )
        return manifest


def find_folder(name: str | Path) -> Path:
    """The folder that a model's name means: a folder, or a model that comes with the package.

    A name with a slash that is neither, such as a Hub id, comes back as it is. A ValueError says
    that a path does not exist, or lists the models there are for a name without a slash.
    """
    path = Path(name)
    shipped = SHIPPED_MODELS / path
    if path.exists() or path.name != str(name):
        refuse_mistyped_path(str(name))
        return path
    if (shipped / MANIFEST).is_file():
        return shipped
    names = sorted(file.parent.name for file in SHIPPED_MODELS.glob(f"*/{MANIFEST}"))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"prm: {str(name)!r} is no folder, and no model that comes with the package "
        f"({', '.join(names) or 'there are none'}).{hint} Give one of these, a folder such as "
        "outputs/quickstart/best_model, or a public model's Hub id of the form owner/name."
    )


def read_manifest(folder: Path) -> Manifest:
    """prm.json of a model folder; a ValueError if there is none or it says what cannot be."""
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(record, ensure_ascii=False).encode()  # no token has half a character
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"prm: {folder} holds no {MANIFEST}, so it is not a model of prm_lightning. Give a "
            "folder such as outputs/quickstart/best_model. A public process reward model is "
            f"loaded by load_scorer({str(folder)!r}), and made such a folder by the verb import."
        ) from None
    except RecursionError:
        raise ValueError(f"prm: {path} is nested too deeply to be a manifest.") from None
    except ValueError as error:
        raise ValueError(f"prm: {path} is not JSON ({error}).") from None
    return Manifest.from_json(record, folder)


def load_encoder(folder: Path, manifest: Manifest, *, trust_remote_code: bool = False) -> Encoder:
    """The encoder of a model folder; its tokenizer is the base model's where it holds none.

    A ValueError says that the tokenizer has another step end than prm.json.
    """
    backbone = manifest.backbone
    own = any((folder / name).is_file() for name in TOKENIZER_FILES)
    name = str(folder) if own else backbone.name
    tokenizer = load_tokenizer(name, None if own else backbone.revision, trust_remote_code)
    encoder = Encoder(tokenizer, manifest.template, manifest.step_end)
    if encoder.step_end_id != manifest.step_end_id:
        raise ValueError(
            f"prm: {folder / MANIFEST} says that the step end {manifest.step_end!r} is token "
            f"{manifest.step_end_id}, but in the tokenizer of {name} it is "
            f"{encoder.step_end_id}. One of the two belongs to another model."
        )
    return encoder


def read_head(folder: Path, kind: HeadKind) -> StepHead:
    """The trained head; a ValueError if it is missing, cut, of another kind, zero or not finite."""
    path = folder / HEAD_FILE
    if not path.is_file():
        raise ValueError(
            f"prm: {folder} holds no {HEAD_FILE}: without its trained head a PRM scores at random. "
            "Save the model again with save_pretrained."
        )
    from safetensors.torch import load_file

    require_whole_files(folder)
    tensors = load_file(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    *_, hidden_size = (1, *shapes.get("weight", ()))
    head = StepHead(kind, hidden_size, biased="bias" in tensors)
    try:
        head.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(
            f"prm: {path} holds {shapes}, which is no {kind} head, as {MANIFEST} says it is. Save "
            "the model again with save_pretrained."
        ) from None
    finite = all(tensor.isfinite().all() for tensor in tensors.values())
    if not finite or not head.weight.any():
        raise ValueError(
            f"prm: the {kind} head in {path} is all zero or not finite, so its scores mean "
            "nothing. Train again, with a lower learning rate if the loss was NaN."
        )
    return head


def require_whole_files(folder: Path) -> None:
    """Raise a ValueError if a weight file is cut or is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"prm: {file} is cut or is no safetensors file ({error}). Copy it again."
            ) from None


def require_all_adapters(model: Any, folder: Path) -> None:
    """Raise a ValueError if a PEFT model's adapters are not all there, or others are."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(folder / ADAPTER_FILE, framework="pt") as tensors:
        found = set(tensors.keys())
    if expected != found:
        name = min(expected ^ found)
        raise ValueError(
            f"prm: {folder / ADAPTER_FILE} {'lacks' if name in expected else 'has the unknown'} "
            f"{name}, so it belongs to another model or is incomplete. Copy it again."
        )


def name_base_model(folder: Path, backbone: Backbone) -> None:
    """Name the base model in PEFT's configuration as the user did, not by a file of a cache."""
    path = folder / ADAPTER_CONFIG
    record = json.loads(path.read_text(encoding="utf-8"))
    record |= {"base_model_name_or_path": backbone.name, "revision": backbone.revision}
    write_json(path, record)


def _require_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is a {type(value).__name__}, expected an object with fields.")
    return dict(value)


def checked_fields(cls: type[T], values: Mapping[str, Any], place: str) -> T:
    """A dataclass out of values that were read from a place, by the names of its fields.

    A ValueError says that one is missing, unknown, or not of the type annotated; true is no number.
    """
    from pydantic import TypeAdapter, ValidationError  # a model that is trained afresh needs none

    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise ValueError(
                f"{place} has the unknown entry {name!r:.80}, expected {', '.join(hints)}."
            )
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            why = error.errors()[0]["msg"].replace("Input should be", "expected")
            raise ValueError(f"{place} has the {name} {value!r:.80}, {why}.") from None
    try:
        return cls(**values)
    except TypeError as error:  # which names the fields that are missing
        raise ValueError(f"{place}: {error}.") from None
