"""GGUF files to ordinary model folders, once: transformers takes half a minute to read one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from prm_lightning.files import cache_folder, written_folder


def converted(file: Path, dtype: torch.dtype) -> Path:
    """A folder with the dequantized model and the tokenizer of a GGUF file.

    It lies in ``$XDG_CACHE_HOME/prm_lightning`` (``~/.cache/prm_lightning``) and is made at the
    first call; another file, another dtype or another release of transformers makes another one.

    Args:
        file: which one.
        dtype: of the weights.
    """
    import transformers

    stat = file.stat()
    made_from = (str(file.resolve()), stat.st_size, stat.st_mtime_ns, transformers.__version__)
    digest = hashlib.sha256(repr((made_from, str(dtype))).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{file.stem}-{digest}"
    if not folder.exists():
        _convert(file, dtype, folder)
    return folder


def _convert(file: Path, dtype: torch.dtype, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    try:
        with written_folder(folder) as target:
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise
