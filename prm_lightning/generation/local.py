"""A language model in this process that writes solutions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria

from prm_lightning.generation.prompts import (
    INSTRUCTION,
    PromptEncoder,
    check_sampling,
    cut_at_stop,
    is_url,
    numbered,
    seed_of,
)
from prm_lightning.generation.server import Endpoint, ServerGenerator
from prm_lightning.modeling.backbone import (
    Backbone,
    Dtype,
    Quantize,
    load_language_model,
    load_tokenizer,
    pick_device,
)
from prm_lightning.modeling.model_folder import ADAPTER_CONFIG, MANIFEST
from prm_lightning.types import Completion, Generator, Prompt, Sampling, Unanswerable

TAIL = 8  # tokens of the prompt that a text is decoded after


class Row(NamedTuple):
    """A completion to be written: its prompt, the most tokens it may have, and its seed."""

    prompt: tuple[int, ...]
    limit: int
    seed: int


class LocalGenerator:
    """A `transformers` causal language model that writes batches of completions.

    A prompt is read once for all its samples in a batch. The random numbers of a completion depend
    on the seed, its prompt and its number alone, not on what else is written with it; what remains
    is rounding, which can turn a close decision, more often in bfloat16 than in float32.

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
        self.name = model
        device = pick_device(device)
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        if (Path(model) / MANIFEST).is_file():
            raise ValueError(
                f"generator: {model!r} is a process reward model, expected a language model. "
                "Give the model that is to write solutions."
            )
        settings = Backbone(
            model, revision, quantize, dtype, lora=None, trust_remote_code=trust_remote_code
        )
        self.tokenizer, loaded = load_with_adapters(settings)
        self.model = loaded.to(device).eval()
        self.encoder = PromptEncoder(self.tokenizer, instruction, template_options)
        self.tokens_per_batch = tokens_per_batch
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.context: int = limit or 2**31
        stated = self.model.generation_config.eos_token_id
        self.end_ids = self.encoder.end_ids() | {
            *(stated if isinstance(stated, list) else [stated])
        }
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # no settings of its own

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt, in the order of the prompts.

        Prompts that occur twice get different samples. At temperature 0 all samples of a prompt
        are one. A completion ends at the model's context if that comes before `max_tokens`.

        Raises:
            Unanswerable: a prompt fills the model's context.
            ValueError: a blank problem, or a setting out of range.
        """
        check_sampling(sampling)
        rows = [self._row(prompt, sampling, k) for prompt, k in numbered(prompts, sampling.n)]
        done: dict[Row, Completion] = {}
        for batch in self._batches(sorted(set(rows), key=lambda row: (row.limit, row.prompt))):
            done |= zip(batch, self._complete(batch, sampling), strict=True)
        found = [done[row] for row in rows]
        return [found[i : i + sampling.n] for i in range(0, len(found), sampling.n)]

    def _row(self, prompt: Prompt, sampling: Sampling, number: int) -> Row:
        ids = tuple(self.encoder.ids(prompt))
        limit = min(sampling.max_tokens, self.context - len(ids))
        if limit < 1:
            raise Unanswerable(
                f"generator: the prompt of {len(ids)} tokens fills the context of "
                f"{self.context} tokens of {self.name!r} ({prompt.problem[:60]!r}). "
                "Leave the problem out, or take a model with a longer context."
            )
        is_greedy = sampling.temperature == 0
        return Row(ids, limit, 0 if is_greedy else seed_of(sampling.seed, prompt, number))

    def _batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows of one limit, in batches whose cache stays within bounds."""
        batch: list[Row] = []
        for row in rows:
            width = max(len(other.prompt) + other.limit for other in [*batch, row])
            is_full = width * (len(batch) + 1) > self.tokens_per_batch
            if batch and (is_full or row.limit != batch[0].limit):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @torch.inference_mode()
    def _complete(self, rows: list[Row], sampling: Sampling) -> list[Completion]:
        """The completions of some rows of one limit."""
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        width = max(map(len, prompts))
        padding = [[0] * (width - len(ids)) for ids in prompts]
        ids = self._tensor([[*p, *ids] for p, ids in zip(padding, prompts, strict=True)])
        mask = self._tensor([[*p, *([1] * (width - len(p)))] for p in padding])  # (P, T)
        cache = DynamicCache(config=self.model.config)
        self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        order = self._tensor([prompts.index(row.prompt) for row in rows])
        cache.reorder_cache(order)  # type: ignore[arg-type]  # a prompt's samples part here
        ends = Ends(self, rows, sampling.stop)
        self.model.generate(
            ids[order],  # (R, T)
            attention_mask=mask[order],
            past_key_values=cache,
            max_new_tokens=rows[0].limit,
            logits_processor=[DrawTokens(self.name, rows, width, sampling)],
            stopping_criteria=[ends],
        )
        return [completion for completion in ends.found if completion is not None]

    def completion(self, row: Row, ids: list[int], stop: Sequence[str]) -> Completion | None:
        """What was written, if it has come to its end; None if it is to be continued."""
        if ids[-1] in self.end_ids:
            return Completion(self._text(row, ids[:-1]), len(ids), "end")
        if stop and cut_at_stop(text := self._text(row, ids), stop) != text:
            return Completion(cut_at_stop(text, stop), len(ids), "stop")
        if len(ids) == row.limit:
            return Completion(self._text(row, ids), len(ids), "length")
        return None

    def _text(self, row: Row, ids: list[int]) -> str:
        """What ids say after the prompt: some tokenizers drop the space that opens a text."""
        before = row.prompt[-TAIL:]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        known, whole = (self.tokenizer.decode(x, **options) for x in (before, [*before, *ids]))
        return str(whole[len(known) :])

    def _tensor(self, values: list[Any]) -> Tensor:
        return torch.tensor(values, device=self.model.device)


class DrawTokens(LogitsProcessor):
    """Leaves each row the one token that is drawn by random numbers of its own.

    `generate` draws those of a whole batch from one stream, so that a completion would depend on
    what else is written with it.
    """

    def __init__(self, model: str, rows: list[Row], width: int, sampling: Sampling) -> None:
        self.model = model
        self.width = width
        self.sampling = sampling
        streams = [torch.Generator().manual_seed(row.seed) for row in rows]
        limit = rows[0].limit
        self.noise = torch.stack(
            [torch.rand(limit, dtype=torch.float64, generator=stream) for stream in streams]
        )  # (R, limit)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.isnan().any():
            raise ValueError(
                f"generator: {self.model!r} computed NaN, expected numbers. "
                "Take another dtype, or check its weights."
            )
        noise = self.noise[:, input_ids.shape[1] - self.width].to(scores.device)
        tokens = draw(scores.float(), noise, self.sampling.temperature, self.sampling.top_p)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class Ends(StoppingCriteria):
    """Keeps what each row says when it ends; those that have ended wait for the others."""

    def __init__(self, generator: LocalGenerator, rows: list[Row], stop: Sequence[str]) -> None:
        self.generator = generator
        self.rows = rows
        self.stop = stop
        self.width = max(len(row.prompt) for row in rows)
        self.found: list[Completion | None] = [None] * len(rows)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        for i, ids in enumerate(input_ids[:, self.width :].tolist()):
            if self.found[i] is None:
                self.found[i] = self.generator.completion(self.rows[i], ids, self.stop)
        done = [completion is not None for completion in self.found]
        return torch.tensor(done, device=input_ids.device)


def draw(logits: Tensor, noise: Tensor, temperature: float, top_p: float) -> Tensor:
    """``(R,)`` int64, one token of each row: the distribution function inverted at a given number.

    Args:
        logits: ``(R, V)`` float32.
        noise: ``(R,)`` float64 in [0, 1); not read at temperature 0.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: in (0, 1]; drawn from the fewest likeliest tokens that together reach this share
            (Holtzman et al. 2020, arXiv:1904.09751).
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


def load_with_adapters(settings: Backbone, kind: str = "AutoModelForCausalLM") -> tuple[Any, Any]:
    """Tokenizer and model of a name; of a folder of adapters, those on the model they belong to.

    Args:
        settings: names the model or the folder.
        kind: the class of `transformers` that reads the weights.
    """
    folder, adapters, spelled = Path(settings.name), None, settings
    if (folder / ADAPTER_CONFIG).is_file():
        adapters = folder
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        name, revision = config["base_model_name_or_path"], config.get("revision")
        settings = replace(settings, name=name, revision=revision)
        if not (folder / "tokenizer_config.json").is_file():
            spelled = settings
    tokenizer = load_tokenizer(spelled.name, spelled.revision, spelled.trust_remote_code)
    return tokenizer, load_language_model(settings, adapters=adapters, kind=kind)


def load_generator(
    name: str,
    instruction: str | None = None,
    *,
    served: str | None = None,
    endpoint: Endpoint = "chat",
    tokenizer: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Generator:
    """A generator by its name.

    Args:
        name: as `LocalGenerator` takes it, or the URL of a server, with ``#MODEL`` after it where
            that serves several.
        instruction: see `LocalGenerator`; None takes `INSTRUCTION`.
        served: in place of that ``#MODEL``.
        endpoint: see `ServerGenerator`, as for `tokenizer`.
        device: see `LocalGenerator`, as for `trust_remote_code`.
    """
    instruction = INSTRUCTION if instruction is None else instruction
    url, model = urldefrag(name)
    if is_url(url):
        return ServerGenerator(
            url, served or model or None, endpoint, tokenizer, instruction=instruction
        )
    return LocalGenerator(
        name, device=device, instruction=instruction, trust_remote_code=trust_remote_code
    )
