"""One way to get a scorer: ours, a public one, or one behind a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urldefrag

from prm_lightning.modeling.backbone import load_tokenizer
from prm_lightning.modeling.model_folder import (
    ADAPTER_CONFIG,
    MANIFEST,
    find_folder,
    load_encoder,
    read_manifest,
)
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.public_encoder import make_encoder
from prm_lightning.scoring.public_families import SUFFIXES, find_correct_label, read_config
from prm_lightning.scoring.public_model import find_public, load_public
from prm_lightning.scoring.server import ServerScorer
from prm_lightning.types import Aggregation

WHOLE = 2**26  # bytes; of larger files the size and the time stand for the content


class ModelScorer(Protocol):
    """A `Scorer` that also says how its scores are meant to be read."""

    @property
    def name(self) -> str:
        """Of the model, for records."""
        ...

    @property
    def aggregation(self) -> Aggregation:
        """How to make one score of a solution out of those of its steps."""
        ...

    @property
    def threshold(self) -> float:
        """A step whose P(correct) lies below it is flagged."""
        ...

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Scorer`."""
        ...

    def score_all(
        self, items: Sequence[tuple[str, Sequence[Sequence[str]]]]
    ) -> Iterator[list[list[float]]]:
        """See `Scorer`."""
        ...


def load_scorer(
    model: str, device: str | None = None, *, trust_remote_code: bool = False
) -> ModelScorer:
    """A scorer by its name.

    Args:
        model: a folder with prm.json (ours), or a step checkpoint of a run; the name of a model
            that comes with the package; a folder or Hub id of a public model that is known or
            recognised; a manifest file, see `PublicManifest`; or a server's URL and, after ``#``,
            the folder, id or manifest whose encoding it is given:
            ``http://localhost:8000#outputs/x/best_model``, with ``?model=NAME`` before the ``#``
            for one of several models of that server, such as an adapter.
        device: for a local model; None takes the first GPU if there is one, else the CPU.
        trust_remote_code: run Python code that comes with the base model of a model of ours; that
            of public models is never run.

    Raises:
        ValueError: there is no such model, it is broken, or nothing says how it scores.
        OSError: a server does not answer.
    """
    if is_url(model):
        return _load_server(model)
    if our_folder(model) is not None:
        return PRM.from_pretrained(model, device, trust_remote_code=trust_remote_code)
    manifest, folder = find_public(model)
    return load_public(manifest, folder, device)


def is_url(model: str) -> bool:
    """Whether a model's name is a server's URL."""
    return model.startswith(("http://", "https://"))


def fingerprint(model: str) -> str:
    """32 hexadecimal digits that change when a model does.

    Args:
        model: as for `load_scorer`. Of a server it is the URL and the model that it is given the
            encoding of, since nobody can see whether the server was given other weights.
    """
    digest = hashlib.sha256()
    if is_url(model):
        url, folder = urldefrag(model)
        digest.update(url.encode())
        model = folder
    if Path(model).suffix in SUFFIXES and Path(model).is_file():
        digest.update(Path(model).read_bytes())
    place = our_folder(model) or find_public(model)[1]
    files = [place] if place.is_file() else place.iterdir()
    for file in sorted(path for path in files if path.is_file()):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} ".encode())
        content = str(stat.st_mtime_ns).encode() if stat.st_size > WHOLE else file.read_bytes()
        digest.update(content)
    return digest.hexdigest()[:32]


def our_folder(model: str) -> Path | None:
    """The folder or step checkpoint of a model of ours; None of a public one."""
    if Path(model).suffix == ".ckpt":
        return Path(model)
    folder = find_folder(model)
    return folder if (folder / MANIFEST).is_file() else None


def _load_server(model: str) -> ServerScorer:
    whole, folder = urldefrag(model)
    if not folder:
        raise ValueError(
            f"scorer: {model!r} does not say how the model behind it reads solutions. Add its "
            f"folder, Hub id or manifest after a #: {whole}#outputs/x/best_model."
        )
    url, _, query = whole.partition("?")
    served = next(iter(parse_qs(query).get("model", [])), None)
    ours = our_folder(folder)
    if ours is not None:
        manifest = read_manifest(ours)
        encoder = load_encoder(ours, manifest)
        return ServerScorer(
            url,
            encoder,
            name=f"{folder} at {whole}",
            served=served,
            aggregation=manifest.aggregation,
            threshold=manifest.threshold,
        )
    public, path = find_public(folder)
    if served is None and (path / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"scorer: {folder} is an adapter, and vLLM answers from an untrained head where a "
            f"request does not name it. Add its name on that server: {whole}?model=prm#{folder}."
        )
    return ServerScorer(
        url,
        make_encoder(load_tokenizer(str(path)), public),
        name=f"{public.model} at {whole}",
        served=served,
        correct_label=find_correct_label(public, read_config(path)),
        aggregation=public.aggregation,
        threshold=public.threshold,
    )
