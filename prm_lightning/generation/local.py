"""A language model in this process that writes solutions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prm_lightning.generation.prefixes import Prefixes, Written
from prm_lightning.generation.prompts import (
    INSTRUCTION,
    PromptEncoder,
    check_sampling,
    cut_at_stop,
    seed_of,
)
from prm_lightning.modeling.backbone import (
    Backbone,
    Dtype,
    Quantize,
    load_language_model,
    load_tokenizer,
    pick_device,
)
from prm_lightning.types import Completion, Prompt, Sampling, Unanswerable

ADAPTER_FILE = "adapter_config.json"
PRM_FILE = "prm.json"
_TAIL = 8  # tokens decoded to look for a stop string, beside one for each of its characters


@dataclass
class _Row:
    """One completion in the making.

    Args:
        prompt: token ids.
        targets: the results it becomes, each the index of a prompt asked for and of a sample.
        noise: ``(most tokens it may have,)`` float64 in [0, 1), what its tokens are drawn with.
        ids: its tokens so far.
        ended: why there are no more, if there are none.
    """

    prompt: tuple[int, ...]
    targets: list[tuple[int, int]]
    noise: Tensor
    ids: list[int] = field(default_factory=list)
    ended: Literal["end", "stop", "length"] | None = None


class LocalGenerator:
    """A `transformers` causal language model, batched, with a key-value cache.

    A prompt is read once for all its samples. The random numbers of a completion depend on the
    seed, its prompt and its number alone, not on what else is generated with it; what remains is
    rounding, which can turn a close decision, more often in bfloat16 than in float32.

    Args:
        model: a Hub id, a folder with a model or a PEFT adapter, a ``.gguf`` file, or
            ``package://PACKAGE/FILE.gguf``, as `Backbone.name`.
        revision: branch, tag or commit on the Hub.
        dtype: of weights and computation; None takes `bfloat16` on a GPU, else `float32`.
        quantize: `nf4` or `int8` through bitsandbytes; `none`.
        device: None takes the first GPU if there is one, else the CPU.
        tokens_per_batch: bound on the tokens whose keys and values are held at a time; one
            completion at least is always made.
        instruction: what the user's message says after the problem; empty for a model that was
            trained on bare problems.
        template_options: for the chat template, such as ``{"enable_thinking": false}``.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ValueError: the model cannot be found or read, or is a process reward model.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: Dtype | None = None,
        quantize: Quantize = "none",
        device: str | None = None,
        tokens_per_batch: int = 16384,
        instruction: str = INSTRUCTION,
        template_options: dict[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        device = pick_device(device)
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        settings = Backbone(
            model, revision, quantize, dtype, lora=None, trust_remote_code=trust_remote_code
        )
        tokenizer, self.model = _load(settings, device)
        self.encoder = PromptEncoder(tokenizer, instruction, template_options)
        self.tokens_per_batch = tokens_per_batch
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.context: int = limit or 2**31
        stated = self.model.generation_config.eos_token_id
        self.end_ids = self.encoder.end_ids() | set(
            stated if isinstance(stated, list) else [stated]
        )
        self._name = model

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Prefixes | None = None
    ) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt, in the order of the prompts.

        Prompts that occur twice get different samples. At temperature 0 all samples of a prompt
        are one. A completion ends at the model's context if that comes before `max_tokens`.

        Args:
            prompts: any number.
            sampling: how to sample.
            prefixes: what these prompts begin with is taken from here, and what is computed is put
                here; what they do not begin with is dropped. See `remembering`.

        Raises:
            Unanswerable: a prompt fills the model's context.
            ValueError: a blank problem, or a setting out of range.
        """
        check_sampling(sampling)
        rows = sorted(self._rows(prompts, sampling), key=lambda row: (-len(row.prompt), row.prompt))
        results: dict[tuple[int, int], Completion] = {}
        if prefixes is None:
            prefixes = Prefixes(self.model.config, limit=0)
        prefixes.keep([row.prompt for row in rows])
        for batch in self._batches(rows):
            prefixes.remember(self._complete(batch, sampling, prefixes))
            for row in batch:
                results |= dict.fromkeys(row.targets, self._completion(row, sampling.stop))
        return [[results[i, k] for k in range(sampling.n)] for i in range(len(prompts))]

    def remembering(self) -> Remembering:
        """This generator, for as long as one problem's solutions grow.

        What it has read and written is not read again in the next call. Up to rounding it writes
        the same. Beside what a call needs it holds up to `tokens_per_batch` tokens, those of the
        last call; all are freed with it.
        """
        return Remembering(self)

    def _rows(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[_Row]:
        targets: dict[Prompt, list[tuple[int, int]]] = {prompt: [] for prompt in prompts}
        for i, prompt in enumerate(prompts):
            targets[prompt] += [(i, k) for k in range(sampling.n)]
        for prompt, wanted in targets.items():
            ids = tuple(self.encoder.ids(prompt))
            limit = min(sampling.max_tokens, self.context - len(ids))
            if limit < 1:
                raise Unanswerable(
                    f"generator: the prompt of {len(ids)} tokens fills the context of "
                    f"{self.context} tokens of {self.name!r} ({prompt.problem[:60]!r}). "
                    "Leave the problem out, or take a model with a longer context."
                )
            if sampling.temperature == 0:
                yield _Row(ids, wanted, torch.zeros(limit, dtype=torch.float64))
                continue
            for number, target in enumerate(wanted):
                yield _Row(ids, [target], _noise(sampling.seed, prompt, number, limit))

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows, the longest prompts first, in batches whose cache stays within bounds."""
        batch: list[_Row] = []
        width = 0
        for row in rows:
            width = max(width, len(row.prompt) + len(row.noise))
            if batch and width * (len(batch) + 1) > self.tokens_per_batch:
                yield batch
                batch, width = [], len(row.prompt) + len(row.noise)
            batch.append(row)
        if batch:
            yield batch

    @torch.inference_mode()
    def _complete(
        self, rows: list[_Row], sampling: Sampling, prefixes: Prefixes
    ) -> Sequence[Written]:
        """Generate the tokens of some rows, each until it ends; what there is to remember."""
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        cache, known = prefixes.recall(prompts)
        ids, mask = self._left_padded(prompts, known)  # (P, T), (P, width)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits = self._forward(ids, mask, positions, cache)  # (P, V)
        parent = [prompts.index(row.prompt) for row in rows]
        read = [len(prompts[i]) - known[i] for i in parent]  # tokens in the cache that are new
        order = self._tensor(parent)
        cache.reorder_cache(order)  # a prompt's samples part here
        logits, mask = logits[order], mask[order]  # (R, V), (R, width)
        written: list[Written] = []
        while True:
            noise = torch.stack([row.noise[len(row.ids)] for row in rows]).to(logits.device)
            tokens = draw(logits, noise, sampling.temperature, sampling.top_p)  # (R,)
            for i, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                self._append(row, token, sampling.stop)
                if row.ended and prefixes.limit:
                    written.append(_written(row, cache, i, read[i] + len(row.ids) - 1))
            going_on = [i for i, row in enumerate(rows) if row.ended is None]
            if not going_on:
                return written
            if len(going_on) < len(rows):
                order = self._tensor(going_on)
                cache.reorder_cache(order)
                tokens, mask = tokens[order], mask[order]
                rows, read = [rows[i] for i in going_on], [read[i] for i in going_on]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(tokens[:, None], mask, mask.sum(1, keepdim=True) - 1, cache)

    def _left_padded(
        self, prompts: Sequence[Sequence[int]], known: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """What is left to read of each prompt, and the mask of what is known and what is left."""
        before = max(known)
        width = max(len(ids) - k for ids, k in zip(prompts, known, strict=True))
        tokens, mask = [], []
        for ids, k in zip(prompts, known, strict=True):
            padding = width - (len(ids) - k)
            tokens.append([0] * padding + list(ids[k:]))
            mask.append([0] * (before - k) + [1] * k + [0] * padding + [1] * (len(ids) - k))
        return self._tensor(tokens), self._tensor(mask)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Logits after the last token of each row, ``(R, V)`` float32."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1].float()
        if logits.isnan().any():
            raise ValueError(
                f"generator: {self.name!r} computed NaN, expected numbers. "
                "Take another dtype, or check its weights."
            )
        return logits

    def _append(self, row: _Row, token: int, stop: Sequence[str]) -> None:
        row.ids.append(token)
        if token in self.end_ids:
            row.ended = "end"
        elif stop and any(text in self._tail(row, stop) for text in stop):
            row.ended = "stop"
        elif len(row.ids) == len(row.noise):
            row.ended = "length"

    def _tail(self, row: _Row, stop: Sequence[str]) -> str:
        """The last text, enough of it to hold a stop string; a token is a character at least."""
        longest = max(len(text.encode()) for text in stop)
        return self._text(row.prompt, row.ids, max(0, len(row.ids) - longest - _TAIL))

    def _completion(self, row: _Row, stop: Sequence[str]) -> Completion:
        assert row.ended is not None
        text = self._text(row.prompt, row.ids[:-1] if row.ended == "end" else row.ids)
        if row.ended == "stop":
            text = cut_at_stop(text, stop)
        return Completion(text, len(row.ids), row.ended)

    def _text(self, prompt: tuple[int, ...], ids: list[int], start: int = 0) -> str:
        """What ids from `start` on say. Decoded after what is before them, since some
        tokenizers drop the space that opens a text."""
        before = [*prompt, *ids[:start]][-_TAIL:]
        known, all_of_it = (
            self.encoder.tokenizer.decode(
                part, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            for part in (before, before + ids[start:])
        )
        return str(all_of_it[len(known) :])

    def _tensor(self, values: list[Any]) -> Tensor:
        return torch.tensor(values, device=self.model.device)


class Remembering:
    """A local generator that does not read again what it has read or written: `remembering`."""

    def __init__(self, generator: LocalGenerator) -> None:
        self._generator = generator
        self._prefixes = Prefixes(generator.model.config, generator.tokens_per_batch)

    @property
    def name(self) -> str:
        """Of the generator."""
        return self._generator.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `LocalGenerator`."""
        return self._generator.generate(prompts, sampling, self._prefixes)


def draw(logits: Tensor, noise: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token of each row, by inverting the distribution function at a given number.

    Args:
        logits: ``(R, V)`` float32.
        noise: ``(R,)`` float64 in [0, 1); not read at temperature 0.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: in (0, 1]; drawn from the fewest likeliest tokens that together reach this share
            (Holtzman et al. 2020, arXiv:1904.09751).

    Returns:
        ``(R,)`` int64.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    p = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        p, order = p.sort(dim=-1, descending=True, stable=True)
        p = torch.where(p.cumsum(-1) - p < top_p, p, 0.0)
    total = p.cumsum(-1)
    wanted = noise[:, None] * total[:, -1:]
    index = torch.searchsorted(total, wanted, right=True).clamp(max=p.shape[-1] - 1)
    return (index if top_p == 1 else order.gather(-1, index)).squeeze(-1)


def _noise(seed: int, prompt: Prompt, number: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(seed, prompt, number))
    return torch.rand(length, dtype=torch.float64, generator=generator)


def _written(row: _Row, cache: Any, place: int, count: int) -> Written:
    """What a row that ended has computed: all its tokens but the last have keys and values.

    Args:
        row: the one that ended.
        cache: of its batch.
        place: of the row in the batch.
        count: tokens of the row that were computed in this call, the last ones in the cache.
    """
    layers = [
        (layer.keys[place, :, -count:].clone(), layer.values[place, :, -count:].clone())
        for layer in cache.layers
    ]
    return Written((*row.prompt, *row.ids[:-1]), layers)


def _load(settings: Backbone, device: str) -> tuple[Any, Any]:
    """Tokenizer and model, adapters merged where the weights are not quantized."""
    folder = Path(settings.name)
    if (folder / PRM_FILE).is_file():
        raise ValueError(
            f"generator: {settings.name!r} is a process reward model, expected a language model. "
            "Give the model that is to write solutions."
        )
    base, adapters, spelled = settings, None, settings
    if (folder / ADAPTER_FILE).is_file():
        adapters = folder
        config = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
        name, revision = config["base_model_name_or_path"], config.get("revision")
        base = replace(settings, name=name, revision=revision)
        if not (folder / "tokenizer_config.json").is_file():
            spelled = base
    tokenizer = load_tokenizer(spelled.name, spelled.revision, spelled.trust_remote_code)
    model = load_language_model(base, adapters=adapters)
    return tokenizer, model.to(device).eval()
