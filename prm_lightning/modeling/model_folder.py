"""A model folder: which one a name means, what its prm.json says, and whether its files are whole.

Comes in: the name of a model. Goes out: a checked `Manifest` and the tensors of the head.
Read next: `prm.py`, which makes a model of them.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from prm_lightning.batching.encode import Encoder, Template
from prm_lightning.modeling.backbone import Backbone, Lora
from prm_lightning.modeling.heads import HEADS, LABELS, HeadKind
from prm_lightning.modeling.locate import load_tokenizer, refuse_mistyped_path
from prm_lightning.types import Aggregation

FORMAT_VERSION = 1
MANIFEST = "prm.json"
HEAD_FILE = "head.safetensors"
ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SHIPPED_MODELS = Path(__file__).parents[1] / "models"  # the models that come with the package

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
        del backbone["trust_remote_code"]
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
    def from_json(record: Any, folder: Path) -> Manifest:
        """The reverse of `to_json`, which trusts nothing in the file.

        `trust_remote_code`, which earlier releases wrote, is ignored: it never comes from a file.

        Raises:
            ValueError: a format version that this release does not know, or an entry that is
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
        moved = {"base_model": "name", "revision": "revision", "quantize": "quantize"}
        backbone |= {name: values.pop(key) for key, name in moved.items() if key in values}
        lora = backbone.pop("lora", None)
        if lora is not None:
            lora = checked_fields(Lora, _require_object(lora, f"{place}: lora"), f"{place}: lora")
        known = checked_fields(Backbone, backbone | {"lora": lora}, f"{place}: backbone")
        manifest = checked_fields(Manifest, values | {"backbone": known}, place)
        if not 0 <= manifest.threshold <= 1:
            raise ValueError(
                f"{place} has the threshold {manifest.threshold!r}, expected a number in [0, 1]."
            )
        return manifest


def find_folder(name: str | Path) -> Path:
    """The folder that a model's name means.

    Args:
        name: a folder, which wins, or the name of a model that comes with the package.

    Returns:
        The folder; `name` itself where it has a slash and is neither, such as a Hub id.

    Raises:
        ValueError: a path that does not exist, or a name without a slash that is neither; the
            message lists those there are.
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
    """prm.json of a model folder, checked.

    Raises:
        ValueError: there is none, or it cannot be read, or what it says cannot be.
    """
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
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

    Raises:
        ValueError: the tokenizer cannot be read, or has another step end than prm.json says.
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


def read_head(folder: Path, kind: HeadKind) -> dict[str, Tensor]:
    """The head's ``weight`` ``(rows, H)`` and what else it has, checked.

    Those are ``bias`` ``(rows,)``, ``inner.weight`` ``(H, H)`` and ``inner.bias`` ``(H,)``.

    Raises:
        ValueError: it is missing, cut or of another kind, or its weight is zero, or a number is
            not finite.
    """
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
    weight = shapes.get("weight", ())
    size = weight[1] if len(weight) == 2 else 0
    rows, _ = HEADS[kind]
    expected: dict[str, tuple[int, ...]] = {"weight": (rows, size)}
    if "bias" in shapes:
        expected["bias"] = (rows,)
    if kind == "two_layers":
        expected |= {"inner.weight": (size, size), "inner.bias": (size,)}
    if shapes != expected:
        raise ValueError(
            f"prm: {path} holds {shapes}, which is no {kind} head of {rows} rows, as "
            f"{MANIFEST} says it is. Save the model again with save_pretrained."
        )
    finite = all(tensor.isfinite().all() for tensor in tensors.values())
    if not finite or not tensors["weight"].any():
        raise ValueError(
            f"prm: the {kind} head in {path} is all zero or not finite, so its scores mean "
            "nothing. Train again, with a lower learning rate if the loss was NaN."
        )
    return tensors


def require_whole_files(folder: Path) -> None:
    """Refuse a folder one of whose weight files is cut or is no safetensors file.

    Raises:
        ValueError: one is.
    """
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
    """Refuse a folder that lacks some of a model's adapters: PEFT would leave those untrained.

    Args:
        model: of PEFT, loaded from `folder`.
        folder: of the model.

    Raises:
        ValueError: it lacks some, or has others.
    """
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
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _require_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is a {type(value).__name__}, expected an object with fields.")
    return dict(value)


def checked_fields(cls: type[T], values: dict[str, Any], place: str) -> T:
    """A dataclass out of values that were read from a file.

    Args:
        cls: whose annotations say what is expected; numbers must be finite, and true is no number.
        values: by the names of its fields.
        place: that they were read from, for messages.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    hints = get_type_hints(cls)
    known = fields(cls)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    unknown = [name for name in values if name not in hints]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}"
        if unknown:
            what = f"has the unknown entry {unknown[0]!r:.80}"
        raise ValueError(f"{place} {what}, expected the entries {', '.join(hints)}.")
    for name, value in values.items():
        if not _has_type(value, hints[name]):
            raise ValueError(
                f"{place} has the {name} {value!r:.80}, expected {_in_words(hints[name])}."
            )
    return cls(**values)


def _has_type(value: Any, hint: Any) -> bool:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_has_type(value, arg) for arg in args)
    if get_origin(hint) is list:
        return type(value) is list and all(_has_type(item, args[0]) for item in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _in_words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_in_words(arg) for arg in get_args(hint))
    return "null" if hint is type(None) else str(getattr(hint, "__name__", hint))
