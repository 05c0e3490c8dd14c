"""`train`: what the verb `fit` does, as a function.

In: rows or sources, and the settings of a YAML config. Out: the best model.
Read next: `cli.py`, which builds the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from prm_lightning.__main__ import report_run
from prm_lightning.files import cache_folder, digest, write_rows, written_file
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources.formatting import write_solutions
from prm_lightning.training.cli import main
from prm_lightning.types import Dropped, Source

SETTINGS = ("model", "data", "trainer", "seed_everything", "monitor", "keep", "checkpoint_every")


def train(
    rows: str | Source | Iterable[Mapping[str, Any]] | Sequence[Source],
    backbone: str | Path | Mapping[str, Any] | None = None,
    output: str | Path = "outputs/train",
    *,
    config: str | Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> PRM:
    """Train a process reward model as ``python -m prm_lightning fit`` does.

    The folder is the same: called again with the same arguments, it resumes a run that was cut
    off.

    Args:
        rows: a file, folder or Hub id; rows in memory, such as a list of dicts or a
            `datasets.Dataset`, in any layout that is read from files; a source, or several.
        backbone: Hub id or folder of the language model, or a mapping as in a config.
        output: folder of the run.
        config: a YAML file whose settings hold where nothing else is given.
        overwrite: replace what a run left in the folder.
        settings: the parts of a config, such as ``model={"lr": 1e-4}``, ``data={"template":
            "plain"}`` or ``trainer={"max_epochs": 2}``.

    Returns:
        The best model, in eval mode.

    Raises:
        ValueError: a setting that is no part of a config, or whatever `fit` refuses.

    Examples:
        >>> rows = [{"prompt": "1 + 1?", "completions": ["1 + 1 = 3"], "labels": [False]}]
        >>> prm = train(rows, backbone="Qwen/Qwen3-0.6B")  # doctest: +SKIP
    """
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(
                f"train: {name!r} is no part of a configuration, expected one of "
                f"{', '.join(SETTINGS)}. Give model={{'lr': 1e-4}} for model.lr, and so on."
            )
    settings["data"] = {**settings.get("data", {}), "sources": _paths(rows)}
    if backbone is not None:
        named = {"name": str(backbone)} if isinstance(backbone, (str, Path)) else dict(backbone)
        settings["model"] = {**settings.get("model", {}), "backbone": named}
    with TemporaryDirectory() as folder:
        file = Path(folder, "train.yaml")
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        files = [file] if config is None else [config, file]
        options = [text for path in files for text in ("--config", str(path))]
        how = ["--overwrite"] if overwrite else ["--ckpt_path", "last"]
        finished = main(["fit", *options, "--output", str(output), *how])
    if finished is not None:
        report_run(finished)
    return PRM.from_pretrained(Path(output) / "best_model")


def _paths(rows: Any) -> list[str | dict[str, str]]:
    """Rows as the entries of ``data.sources``."""
    if isinstance(rows, (str, Path)):
        return [str(rows)]
    rows = [rows] if isinstance(rows, Source) else list(rows)
    if not rows:
        raise ValueError("train: there are no rows, expected at least one.")
    if isinstance(rows[0], Source):
        read = [[s for s in source.read() if not isinstance(s, Dropped)] for source in rows]
        write = partial(write_solutions, layout="solutions")
        names = [str(getattr(source, "name", type(source).__name__)) for source in rows]
        return [_stored(some, write, name) for some, name in zip(read, names, strict=True)]
    return [_stored([dict(row) for row in rows], write_rows, "rows")]


def _stored(items: list[Any], write: Callable[[Path, list[Any]], Any], name: str) -> dict[str, str]:
    """A file of these, called by their content, so that a later call finds the same run."""
    path = cache_folder() / "rows" / f"{digest(repr(items))[:16]}.jsonl"
    if not path.is_file():
        with written_file(path) as unfinished:
            write(unfinished, items)
    return {"path": str(path), "name": name}
