"""PRM: a backbone, a head and an encoding that belong together, on disk and in memory.

In: a folder, or the parts. Out: a model that scores, trains and is saved. Next: `losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from prm_lightning.batching.encode import Encoded, Encoder, Template
from prm_lightning.files import near_path, write_json, written_folder
from prm_lightning.modeling import model_folder
from prm_lightning.modeling.backbone import (
    Backbone,
    TreeModel,
    load_backbone,
    load_tokenizer,
    pick_device,
)
from prm_lightning.modeling.heads import HeadKind, StepHead, verdict_ids
from prm_lightning.modeling.losses import lm_loss
from prm_lightning.modeling.model_folder import ADAPTER_CONFIG, HEAD_FILE, MANIFEST, Manifest
from prm_lightning.modeling.step_model import StepModel, require_steps
from prm_lightning.types import StepBatch

__all__ = ["MANIFEST", "PRM", "Manifest"]


class PRM(StepModel):
    """A process reward model of this project. It is a `Scorer`.

    Args:
        backbone: see `StepModel`, as `head` and `encoder`.
        manifest: what is saved with the weights.
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
        name = name or manifest.backbone.name
        super().__init__(backbone, head, encoder, name, manifest.aggregation, manifest.threshold)
        self.manifest = manifest

    def __repr__(self) -> str:
        of = self.manifest
        what = f"backbone={of.backbone.name!r}, head={of.head!r}, template={of.template!r}"
        return f"{super().__repr__()[:-1]},\n    {what}, step_end={of.step_end!r})"

    def forward(self, batch: StepBatch, *, lm: bool = False) -> Any:
        """Log-odds that each step is correct, and the LM loss if it is asked for.

        Args:
            batch: see `StepBatch`.
            lm: also compute this batch's share of `losses.lm_loss`.

        Returns:
            ``(B, S)`` float32, or with `lm` that and a scalar.
        """
        before, targets = batch.lm_nodes if lm else batch.step_nodes.new_empty(2, 0)
        numbers = None
        if self.head.likelihood is not None:
            numbers = self.numbers_of(batch.step_tokens, batch.input_ids)
            before = torch.cat([before, numbers.before])
        at_steps, at_others = self._hidden(batch, before)
        log_probs = None
        if numbers is not None:
            at_numbers = at_others[len(targets) :]
            log_probs = numbers.log_probs(at_numbers, self.backbone.lm_head, len(at_steps))
        logits = self.head(at_steps, log_probs).view(batch.step_nodes.shape)
        if not lm:
            return logits
        loss = lm_loss(
            at_others[: len(targets)],
            batch.input_ids.flatten()[targets],
            batch.lm_weights,
            batch.total_lm,
            self.backbone.lm_head,
        )
        return logits, loss

    @classmethod
    def create(
        cls,
        backbone: Backbone,
        head: HeadKind = "scalar",
        template: Template = "chat",
        step_end: str | None = None,
        device: str | torch.device | None = None,
    ) -> PRM:
        """A language model with fresh adapters and a fresh `StepHead`.

        See `Encoder` for `template` and `step_end`, and `load_backbone` for `device`.
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
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> PRM:
        """The model that `save_pretrained` wrote, in eval mode.

        Args:
            folder: with prm.json, the head, and the adapter or the full weights; or the name of a
                model that comes with the package, such as ``smollm2-135m-prm``; or a checkpoint of
                a run, such as ``outputs/x/checkpoints/step-000500.ckpt``.
            device: None takes the first GPU if there is one, else the CPU.
            trust_remote_code: run Python code that comes with the base model. Nothing in the
                folder can turn it on.

        Raises:
            ValueError: there is no such folder, it is a public model (`load_scorer` loads those),
                one of its files is broken or says what cannot be, or its base model is missing.
        """
        if Path(folder).suffix == ".ckpt":
            return cls._from_checkpoint(Path(folder), device, trust_remote_code)
        place = model_folder.find_folder(folder)
        manifest = model_folder.read_manifest(place)
        head = model_folder.read_head(place, manifest.head)
        encoder = model_folder.load_encoder(place, manifest, trust_remote_code=trust_remote_code)
        chosen = pick_device(device)
        config = replace(manifest.backbone, trust_remote_code=trust_remote_code)
        if config.lora is None and (place / ADAPTER_CONFIG).exists():
            raise ValueError(
                f"prm: {place / MANIFEST} denies what {ADAPTER_CONFIG} next to it has."
            )
        try:
            backbone = load_backbone(config, saved=place, device=chosen)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise ValueError(
                f"prm: the weights in {place} do not have the shapes that {config.name} has, so "
                "they belong to another base model. Copy the folder again."
            ) from error
        if config.lora is not None:
            model_folder.require_all_adapters(backbone.model, place)
        size = head.weight.shape[1]
        if size != backbone.hidden_size:
            raise ValueError(
                f"prm: the head in {place / HEAD_FILE} reads hidden states of size {size}, those "
                f"of {config.name} have {backbone.hidden_size}. It belongs to another model."
            )
        return cls(backbone, head, encoder, manifest, name=str(folder)).to(chosen).eval()

    @classmethod
    def _from_checkpoint(
        cls, path: Path, device: str | torch.device | None, trust_remote_code: bool
    ) -> PRM:
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            record, weights = checkpoint["manifest"], checkpoint["state_dict"]
        except (OSError, RuntimeError, EOFError, UnpicklingError, LookupError, TypeError) as error:
            raise ValueError(
                f"prm: {path} cannot be read, or does not say what model it is of "
                f"({str(error).splitlines()[0]}).{near_path(str(path))} Give the run's best_model."
            ) from error
        manifest = Manifest.from_json(record, path)
        config = replace(manifest.backbone, trust_remote_code=trust_remote_code)
        chosen = pick_device(device)
        prm = cls.create(config, manifest.head, manifest.template, manifest.step_end, chosen)
        trained = {name: p.shape for name, p in prm.named_parameters() if p.requires_grad}
        state = _below("prm.", weights)
        if trained != {name: tensor.shape for name, tensor in state.items()}:
            raise ValueError(
                f"prm: {path} does not hold the weights that were trained of {config.name}. Give "
                "the run's best_model or final_model."
            )
        prm.load_state_dict(state, strict=False)
        return cls(prm.backbone, prm.head, prm.encoder, manifest, str(path)).to(chosen).eval()

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
                head = _below("head.", weights)
                kwargs["state_dict"] = _below("backbone.model.", weights)
            if self.manifest.backbone.lora is not None:
                kwargs["save_embedding_layers"] = False  # else PEFT asks the Hub about the base
                adapters = self.backbone.model.peft_config["default"]
                if isinstance(adapters.target_modules, set):  # which is written in any order
                    adapters.target_modules = sorted(adapters.target_modules)
            self.backbone.model.save_pretrained(target, **kwargs)
            if self.manifest.backbone.lora is not None:
                model_folder.name_base_model(target, self.manifest.backbone)
            (target / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            save_file({name: tensor.cpu() for name, tensor in head.items()}, target / HEAD_FILE)
            self.encoder.tokenizer.save_pretrained(target)
            write_json(target / MANIFEST, self.manifest.to_json())

    def encode(self, problem: str, steps: Sequence[str]) -> Encoded:
        """The token ids that `score` reads, up to the score of the last step, and where it reads.

        With the template `guide` every step is scored on a branch of its own, so that
        `step_positions` names the last step's alone.
        """
        return self.encoder.last_path(self.encoder.encode(problem, require_steps(steps)))

    def record(self, **entries: Any) -> None:
        """Set fields of the manifest, such as the threshold and what it was fitted on."""
        self.manifest = replace(self.manifest, **entries)
        self.threshold, self.aggregation = self.manifest.threshold, self.manifest.aggregation


def shard(prm: PRM, mesh: Any) -> None:
    """Give each process of a mesh its part of every weight, by FSDP2.

    A decoder layer's weights are together only while that layer computes. What is outside of the
    layers, the float32 head included, is one more such group. Trained and frozen weights may be of
    different dtypes. The model is the same in every process before, and the mesh, a device mesh of
    `torch.distributed`, has one dimension.
    """
    config = prm.backbone.config
    if config.quantize != "none":
        raise ValueError(
            f"sharding: model.backbone.quantize is {config.quantize!r}, but quantized weights "
            "cannot be sharded. Set it to none, or give every device the whole model with "
            "--trainer.strategy ddp."
        )
    layers = set(prm.backbone.causal_lm._no_split_modules or ())
    for module in list(prm.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(prm, mesh=mesh)


def gather_weights(prm: PRM) -> dict[str, Any] | None:
    """What `PRM.save_pretrained` needs of a sharded model, None of others; all processes take part.

    Whole weights on the CPU in process 0 (with adapters the trained ones alone), {} elsewhere.
    """
    if not isinstance(prm, FSDPModule):
        return None
    options = StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=prm.manifest.backbone.lora is not None,
    )
    return get_model_state_dict(prm, options=options)


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
