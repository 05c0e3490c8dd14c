"""Process reward models that others trained, as scorers: their tokens, heads and weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from prm_lightning.batching.encode import PLACEHOLDER, TEMPLATE_DATE, Encoded, Encoder, Template
from prm_lightning.generation.local import load_with_adapters
from prm_lightning.generation.prompts import plain_ids, template_ids
from prm_lightning.modeling.backbone import Backbone, TreeModel, explained, hub_token, pick_device
from prm_lightning.modeling.model_folder import ADAPTER_CONFIG, find_folder, require_whole_files
from prm_lightning.modeling.step_model import StepEncoder, StepModel
from prm_lightning.scoring.public_families import (
    SUFFIXES,
    PublicManifest,
    find_correct_label,
    read_config,
    read_public_manifest,
    recognise,
)
from prm_lightning.sources.rows import HUB_ID
from prm_lightning.types import Unscorable

HEAD_TENSORS: dict[str, list[tuple[str, ...]]] = {  # layers; the first that is there is taken
    "linear": [("score",)],
    "two_layer": [("score.0", "score.2")],
    "value": [("v_head.summary",), ("v_head",)],
}


def find_public(model: str) -> tuple[PublicManifest, Path]:
    """How a public model, a folder, Hub id or manifest file, scores, and the folder that it is in.

    Raises:
        ValueError: it cannot be found, or nothing tells how it scores.
    """
    file = Path(model)
    if file.suffix in SUFFIXES and file.is_file():
        manifest = read_public_manifest(file)
        return manifest, _find_folder(manifest.model, manifest.revision)
    folder = _find_folder(model)
    return recognise(model, folder, set(_files_of_tensors(folder))), folder


def load_public(
    manifest: PublicManifest,
    folder: Path,
    device: str | torch.device | None = None,
    *,
    trust_remote_code: bool = False,
) -> StepModel:
    """A public model as a scorer, in eval mode, on the first GPU or the CPU if no device is given.

    With `trust_remote_code` Python code that comes with the model is run, if `transformers` has
    none for it. Nothing in the folder or the manifest can turn that on.

    Raises:
        ValueError: the weights cannot be read, or lack the head, or it is broken.
    """
    import transformers

    is_known = str(read_config(folder).get("model_type")) in transformers.CONFIG_MAPPING
    trusted = trust_remote_code and not is_known
    kind = "AutoModelForCausalLM" if manifest.head == "lm" else "AutoModel"
    if kind == "AutoModel" and (folder / ADAPTER_CONFIG).is_file():
        kind = "AutoModelForTokenClassification"  # after which its tensors are named
    config = Backbone(
        str(folder), dtype=manifest.dtype, lora=None, trust_remote_code=trusted
    ).settled()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)  # `_head` reads the head, not this class
    try:
        tokenizer, model = load_with_adapters(config, kind)
    finally:
        transformers.logging.set_verbosity(verbosity)
    backbone = TreeModel(model.requires_grad_(False), config)
    head, encoder = _head(manifest, folder, backbone, tokenizer), make_encoder(tokenizer, manifest)
    read = manifest.aggregation, manifest.threshold
    return StepModel(backbone, head, encoder, manifest.model, *read).to(pick_device(device)).eval()


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

    patterns = ["*.json", "*.jinja", "*.model", "*.py", "*.txt", "*.safetensors"]
    for more in ([], ["pytorch_model*.bin"]):
        with explained(model):
            folder = Path(
                snapshot_download(
                    model, revision=revision, token=hub_token(), allow_patterns=patterns + more
                )
            )
        if any(folder.glob("*.safetensors")):
            break
    return folder


class PublicHead(nn.Module):
    """Linear layers with ReLU between them, and one log-odds of correct out of the last.

    Args:
        layers: weight and bias of each, first to last; a bias may be None. The last weight has one
            row, the logit, or two.
        correct_label: which of two rows means correct.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor | None]], correct_label: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for weight, bias in layers:
            filled = torch.zeros(len(weight)) if bias is None else bias
            for tensors, tensor in ((self.weights, weight), (self.biases, filled)):
                tensors.append(nn.Parameter(tensor.detach().float().clone(), requires_grad=False))
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


def _head(
    manifest: PublicManifest, folder: Path, backbone: TreeModel, tokenizer: Any
) -> PublicHead:
    if manifest.head == "lm":
        layers = [_lm_rows(manifest, backbone, tokenizer)]
    else:
        found = _head_tensors(folder)
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
    wrong, right = (template_ids(tokenizer, t)[-1] for t in (manifest.wrong, manifest.right))
    if wrong == right:
        raise ValueError(
            f"scorer: {manifest.wrong!r} and {manifest.right!r} end with the same token ({right}) "
            f"of {manifest.model!r}. Set `right` and `wrong` in its manifest."
        )
    bias = backbone.causal_lm.get_output_embeddings().bias
    chosen = None if bias is None else bias[[wrong, right]]
    return backbone.lm_head_rows([wrong, right]), chosen


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


def _head_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors whose name has ``score`` or ``v_head`` in it, named from there on."""
    found = {}
    for name, file in _files_of_tensors(folder).items():
        if not (named := re.search(r"(?:^|\.)((?:score|v_head)(?:\..*|$))", name)):
            continue
        if file.suffix == ".bin":
            tensor = torch.load(file, weights_only=True, mmap=True)[name]
        else:
            with safe_open(file, framework="pt") as tensors:
                tensor = tensors.get_tensor(name)
        found[named[1]] = tensor.float()
    return found


def make_encoder(tokenizer: Any, manifest: PublicManifest) -> StepEncoder:
    """The encoder that a manifest's layout asks for."""
    ours, _, template = manifest.layout.partition("prm-")
    if ours:
        return PublicEncoder(tokenizer, manifest)
    return Encoder(tokenizer, cast(Template, template), manifest.step_end)


class PublicEncoder:
    """Builds the tokens of a public model as its manifest says.

    Problem and steps are stripped; special tokens in them are plain text.
    """

    branch: tuple[int, ...] = ()

    def __init__(self, tokenizer: Any, manifest: PublicManifest) -> None:
        self.tokenizer = tokenizer
        self.manifest = manifest
        self._end = template_ids(tokenizer, manifest.step_end)
        if not self._end:
            raise ValueError(
                f"scorer: step_end={manifest.step_end!r} of {manifest.model!r} is no token of its "
                "tokenizer. Set step_end in its manifest."
            )
        self._render = lru_cache(maxsize=64)(self._render_chat)
        self._plain_ids = lru_cache(maxsize=8192)(partial(plain_ids, tokenizer))

    def encode_all(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Encoded]:
        """Token ids of solutions, up to where the score of the last step is read.

        Raises:
            Unscorable: a step end cannot be told from the text around it.
            ValueError: there is no step, or a step or the problem is blank.
        """
        encode = {"text": self._text, "turns": self._turns}.get(self.manifest.layout, self._pieces)
        return [encode(*self._filled_in(problem, steps)) for problem, steps in solutions]

    def _filled_in(self, problem: str, steps: Sequence[str]) -> tuple[str, list[str]]:
        """Prompt and steps in the words of the manifest."""
        if not problem.strip() or not steps or not all(step.strip() for step in steps):
            raise ValueError(
                f"encode: expected a problem and at least one step, none of them blank, got the "
                f"problem {problem[:60]!r} and {len(steps)} steps. Leave blank steps out."
            )
        filled = []
        for number, step in enumerate(map(str.strip, steps), 1):
            before, _, after = self.manifest.step.partition("{step}")
            before = before.replace("{number}", str(number))
            filled.append(step if before and step.startswith(before) else before + step + after)
        return self.manifest.prompt.replace("{problem}", problem.strip()), filled

    def _pieces(self, prompt: str, steps: list[str]) -> Encoded:
        """Each text tokenized on its own, after a BOS or in a chat."""
        bos = self.tokenizer.bos_token_id
        before, after = [] if bos is None else [bos], []
        if self.manifest.layout == "chat":
            before, after, _ = self._render(1)
        ids = [*before, *self._plain_ids(prompt), *after]
        positions = []
        for step in steps:
            ids += [*self._plain_ids(step), *self._end]
            positions.append(len(ids) - 1)
        return Encoded(tuple(ids), tuple(positions))

    def _turns(self, prompt: str, steps: list[str]) -> Encoded:
        """A user turn for each step, which the assistant answers with the step end."""
        parts = self._render(len(steps))
        ids: list[int] = []
        positions = []
        for turn, text in enumerate([prompt + steps[0], *steps[1:]]):
            ids += [*parts[2 * turn], *self._plain_ids(text), *parts[2 * turn + 1]]
            positions.append(len(ids) - 1)
            ids += self._end
        return Encoded(tuple(ids[: positions[-1] + 1]), tuple(positions))

    def _text(self, prompt: str, steps: list[str]) -> Encoded:
        """One text tokenized as a whole, in which the step ends are searched for."""
        end, tag = self.manifest.step_end, self._end[-1]
        cleaned = [text.replace(end.strip() or end, " ") for text in (prompt, *steps)]
        for begun, *texts in ((prompt, *steps), cleaned):  # cleaned of step ends of their own
            text = begun + self.manifest.between.join(step + end for step in texts)
            ids = self.tokenizer(text, split_special_tokens=True)["input_ids"]
            positions = [i for i, token in enumerate(ids) if token == tag]
            if len(positions) == len(steps):
                return Encoded(tuple(ids[: positions[-1] + 1]), tuple(positions))
        raise Unscorable(
            f"encode: {len(steps)} steps became {len(positions)} step ends {end!r} (token {tag}) "
            f"of {self.manifest.model!r} (problem {prompt[:60]!r}); the tokenizer joins it with "
            "the text around it."
        )

    def _render_chat(self, turns: int) -> list[list[int]]:
        """Ids of the chat template's own text: before, between and after what is filled in."""
        system = self.manifest.system
        messages = [{"role": "system", "content": system}] if system else []
        for _ in range(turns):
            messages += [{"role": role, "content": PLACEHOLDER} for role in ("user", "assistant")]
        shown = 0
        if self.tokenizer.chat_template:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, date_string=TEMPLATE_DATE
            )
            parts = text.split(PLACEHOLDER)
            shown = len(parts) - 1
        if shown != 2 * turns:
            raise ValueError(
                f"scorer: the chat template of {self.manifest.model!r} shows {shown} of "
                f"{2 * turns} messages. Take another layout in its manifest."
            )
        return [template_ids(self.tokenizer, part) for part in parts]
