"""Verb `import`: a public process reward model as a folder of this project, to train further.

Its head, encoding and weights in the terms of this project.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from prm_lightning.batching.encode import Encoded, Encoder, Template
from prm_lightning.files import require_replaceable, write_json, written_folder
from prm_lightning.interop import DTYPES, MODEL_FILES, ImportOptions
from prm_lightning.interop.card import shared_beginning
from prm_lightning.interop.formats import wrap
from prm_lightning.interop.parity import PROBES, compare, require_parity
from prm_lightning.modeling.backbone import Backbone, TreeModel
from prm_lightning.modeling.heads import HeadKind, StepHead
from prm_lightning.modeling.model_folder import find_folder
from prm_lightning.modeling.prm import MANIFEST, PRM, Manifest
from prm_lightning.modeling.step_model import StepModel, Unscorable
from prm_lightning.scoring.public_families import PublicManifest
from prm_lightning.scoring.public_model import PublicHead, find_public, load_public
from prm_lightning.text import fold_newlines

IMPORT_RECORD = "import.json"
OURS = (*MODEL_FILES, IMPORT_RECORD)  # what a folder that was imported holds


def import_public(options: ImportOptions) -> None:
    """Write a model folder that scores as a public model does.

    Raises:
        ValueError: there is no such model or it is one of ours, our heads or our encoding cannot
            express it, or the result scores otherwise.
        OSError: the target is taken or cannot be written.
    """
    target, dtype = Path(options.output), DTYPES[options.dtype]
    require_replaceable(target, overwrite=options.overwrite, ours=OURS, record=IMPORT_RECORD)
    if (find_folder(options.model) / MANIFEST).is_file():
        what = "is a model of prm_lightning already. Use it as it is, or `export` it for others"
        raise ValueError(f"import: {options.model} {what}.")
    public, folder = find_public(options.model)
    scorer = load_public(replace(public, dtype=dtype), folder, "cpu")
    encoder, different = _our_encoder(scorer, public)
    if different and options.encoding == "exact":
        raise ValueError(
            f"import: {public.model!r} builds its tokens as this project does not: {different}. "
            "Use it as it is (score --model), or take the nearest encoding with --encoding nearest."
        )
    head = our_head(cast(PublicHead, scorer.head), public)
    dropped = _drop_bias(head, scorer, public.model) if options.bias == "drop" else 0.0
    threshold = moved_threshold(public.threshold, dropped)
    backbone = Backbone(str(target), dtype=dtype, lora=None)
    prm = _assemble(scorer, head, encoder, replace(public, threshold=threshold), backbone)
    probes = PROBES if different else plain_probes(encoder)
    with written_folder(target, overwrite=options.overwrite) as place:
        prm.save_pretrained(place, overwrite=True)
        written = PRM.from_pretrained(place, "cpu")
        theirs, mine = (
            [model.score(problem, [steps])[0] for problem, steps in probes]
            for model in (scorer, written)
        )
        parity = compare(theirs, mine, written.threshold)
        if not different:
            require_parity(parity, dtype == "float32", options.tolerance, "import")
        about = {
            "source": asdict(public),
            "encoding": f"nearest: {different}" if different else "exact",
            "bias": bias_of(head),
            "dropped_bias": dropped,
            "parity": asdict(parity),
        }
        write_json(place / IMPORT_RECORD, about)
    print(f"{target}: {head.kind} head, template {encoder.template}, step end {encoder.step_end!r}")
    print(f"  against {public.model}: {parity}")
    if different:
        print(f"  NEAREST ENCODING: {different}; scores differ as measured above")
    else:
        print("  here blank lines inside a text are folded and step ends in it become spaces")
    if dropped:
        print(
            f"  BIAS of {dropped:+.4g} log-odds dropped: P(correct) moves by up to "
            f"{shift_of(dropped):.2g}, the threshold from {public.threshold:.4g} to {threshold:.4g}"
        )
    print(f"  to train it further: {_settings(target, head, encoder)}")


def _settings(folder: Path, head: StepHead, encoder: Encoder) -> str:
    """With which `fit` trains an imported model further."""
    return (
        f"model: {{backbone: {{name: {folder}, lora: null}}, init_from: {folder}, "
        f"head: {head.kind}, template: {encoder.template}, step_end: "
        f"{json.dumps(encoder.step_end)}}}"
    )


def our_head(head: PublicHead, manifest: PublicManifest) -> StepHead:
    """One of our heads, with a bias if that moves its log-odds."""
    weight, bias = head.weights[-1].detach(), head.biases[-1].detach()
    kind: HeadKind = "scalar"
    inner: dict[str, Tensor] = {}
    if len(head.weights) == 2:
        first = (head.weights[0].detach(), head.biases[0].detach())
        linear = _collapse(first, (weight, bias), head.correct_label)
        if linear is None:
            inner = {"inner.weight": first[0], "inner.bias": first[1]}
        else:
            weight, bias = linear
    if len(weight) == 2:
        order = [1 - head.correct_label, head.correct_label]
        weight, bias = weight[order], bias[order]
        kind = "two_layers" if inner else "classes"
        if manifest.head == "lm":
            weight, bias, kind = weight[1:] - weight[:1], bias[1:] - bias[:1], "token"
    ours = StepHead(kind, weight.shape[1], biased=True)
    ours.load_state_dict({"weight": weight, "bias": bias, **inner})
    if not bias_of(ours):
        ours.bias = None
    return ours


def bias_of(head: StepHead) -> float:
    """What a head's bias adds to its log-odds."""
    if head.bias is None:
        return 0.0
    first, *second = head.bias.tolist()
    return float(second[0] - first if second else first)


def _drop_bias(head: StepHead, scorer: StepModel, name: str) -> float:
    """Take off the bias of a head and of its public twin; what it added to the log-odds."""
    if head.inner is not None:
        raise ValueError(
            f"import: the head of {name!r} has two layers, whose biases no shift of log-odds makes "
            "up for. Leave --bias drop out."
        )
    dropped, head.bias = bias_of(head), None
    for bias in cast(PublicHead, scorer.head).biases:  # so that the rest can be compared
        bias.data.zero_()
    return dropped


def moved_threshold(threshold: float, bias: float) -> float:
    """The threshold that flags the same steps once a bias is taken off their log-odds."""
    if not bias or not 0 < threshold < 1:
        return threshold
    return 1 / (1 + math.exp(-(math.log(threshold / (1 - threshold)) - bias)))


def shift_of(bias: float) -> float:
    """The most that P(correct) can move when a bias in log-odds is taken off."""
    return math.tanh(abs(bias) / 4)


def _collapse(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], correct: int
) -> tuple[Tensor, Tensor] | None:
    """The linear head that is written as c * (relu(x) - relu(-x)), as `export` does; else None."""
    out = second[0][correct] - second[0][1 - correct]
    used = out.nonzero()[:, 0].tolist()
    if len(used) == 2:
        i, j = used
        mirrored = torch.equal(first[0][i], -first[0][j]) and first[1][i] == -first[1][j]
        if mirrored and out[i] == -out[j]:
            offset = second[1][correct] - second[1][1 - correct]
            return out[i] * first[0][i][None], (out[i] * first[1][i] + offset)[None]
    return None


def plain_probes(encoder: Encoder) -> list[tuple[str, list[str]]]:
    """The probes that every encoding leaves as they are: no blank lines and no step ends inside."""
    return [
        (problem, steps)
        for problem, steps in PROBES
        if all(
            fold_newlines(text) == text.strip() and encoder.step_end not in text
            for text in (problem, *steps)
        )
    ]


def _our_encoder(scorer: StepModel, manifest: PublicManifest) -> tuple[Encoder, str]:
    """The encoder nearest to a public one, and in words how they differ; empty if they do not."""
    public = scorer.encoder
    tokenizer = copy.deepcopy(public.tokenizer)  # type: ignore[attr-defined]
    template: Template = "chat"
    if manifest.layout.startswith("prm-"):
        template = cast(Template, manifest.layout.removeprefix("prm-"))
    else:
        before, after = _around(public, tokenizer, manifest)
        tokenizer.chat_template = raw_template(before, after)
    ours = Encoder(tokenizer, template, manifest.step_end)
    for problem, steps in plain_probes(ours):
        if _path(ours, problem, steps) != _path(public, problem, steps):
            return ours, (
                f"layout {manifest.layout}, whose tokens of {problem[:30]!r} are not problem, "
                "steps and step ends tokenized apart"
            )
    return ours, ""


def raw_template(before: str, after: str) -> str:
    """A chat template that puts two texts around the user's message."""
    texts = [f"{{{{ {json.dumps(text)} }}}}" if text else "" for text in (before, after)]
    return texts[0] + "{% for message in messages %}{{ message['content'] }}{% endfor %}" + texts[1]


def _around(public: Any, tokenizer: Any, manifest: PublicManifest) -> tuple[str, str]:
    """Texts that a public encoder puts before and after a problem."""
    a, b = (list(public.encode_all([(letter, ["x"])])[0].input_ids) for letter in "ab")
    before = tokenizer.decode(shared_beginning(a, b))
    (step,) = tokenizer(["x"], add_special_tokens=False)["input_ids"]
    end = [*step, *tokenizer.encode(manifest.step_end, add_special_tokens=False)]
    if a[-len(end) :] != end:  # tokenized as a whole: what is meant is in the manifest
        return before, manifest.prompt.partition("{problem}")[2]
    after = shared_beginning(a[: -len(end)][::-1], b[: -len(end)][::-1])[::-1]
    return before, tokenizer.decode(after)


def _path(encoder: Any, problem: str, steps: Sequence[str]) -> Encoded | str:
    """Ids up to the last score, and where scores are read."""
    try:
        (encoded,) = encoder.encode_all([(problem, steps)])
    except Unscorable as error:
        return str(error)
    end = encoded.step_positions[-1] + 1
    return Encoded(encoded.input_ids[:end], encoded.step_positions)


def _assemble(
    scorer: StepModel, head: StepHead, encoder: Encoder, public: PublicManifest, backbone: Backbone
) -> PRM:
    """Head, encoder and all weights of a public model, the latter in a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    lm = scorer.backbone.causal_lm
    inner = lm.base_model
    if lm.get_output_embeddings() is None:
        config = copy.deepcopy(inner.config)
        config.tie_word_embeddings = True  # there is no LM head to keep
        cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        lm = wrap(inner, cls, config)
        lm.tie_weights()
    ours = Manifest(
        backbone,
        head.kind,
        encoder.template,
        encoder.step_end,
        encoder.step_end_id,
        aggregation=public.aggregation,
        threshold=public.threshold,
    )
    return PRM(TreeModel(lm, backbone), head, encoder, ours)
