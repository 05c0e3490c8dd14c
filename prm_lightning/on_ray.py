"""Work in parts on a Ray cluster, or on a Ray of this machine."""

from __future__ import annotations

import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MOST_BLOCKS = 10_000  # that Ray keeps track of; parts beyond share one


class PartWorker(ABC):
    """An actor that works on one part after the other; its arguments go over the network.

    Args:
        here: that relative paths start from; Ray does not promise where its workers stand.
    """

    def __init__(self, here: Path) -> None:
        os.chdir(here)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Work on the parts of a batch of Ray Data; of an error Ray would lose the message."""
        done = []
        for task in batch["task"]:
            try:
                done.append(self.work(*json.loads(task)))
            except (OSError, ValueError) as error:
                done.append({"failed": str(error)})
        return {"done": [json.dumps(what) for what in done]}

    @abstractmethod
    def work(self, *task: Any) -> dict[str, Any]:
        """Work on one part, given as plain JSON, and say so likewise.

        It may be called again for a part that another actor has not finished, or has finished
        shortly before it died.
        """


def run_on_ray(
    verb: str,
    worker: type[PartWorker],
    arguments: Sequence[Any],
    tasks: Sequence[Sequence[Any]],
    workers: int | None = None,
    *,
    gpus: bool = False,
) -> Iterator[dict[str, Any]]:
    """What actors say of tasks, as they finish; one that dies is replaced, its task done again.

    With ``RAY_ADDRESS`` set the cluster there is used, else a local one is started.

    Args:
        verb: for messages.
        worker: the actor's class.
        arguments: of its constructor, in front of where it stands.
        tasks: each the arguments of `PartWorker.work`, plain JSON.
        workers: how many actors; None is one a GPU if they are wanted and there are any, else one
            a CPU.
        gpus: give each actor a GPU, where the cluster has any.

    Raises:
        ValueError: Ray is not installed, or an actor fails.
    """
    if not tasks:
        return
    ray = _start(verb, workers)
    resources = ray.cluster_resources()
    gpu_count = int(resources.get("GPU", 0)) if gpus else 0
    items = [{"task": json.dumps(task)} for task in tasks]
    try:
        found = ray.data.from_items(
            items, override_num_blocks=min(len(items), MOST_BLOCKS)
        ).map_batches(
            worker,
            fn_constructor_args=(*arguments, Path.cwd()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(len(items), workers or gpu_count or int(resources.get("CPU", 1)))
            ),
            num_cpus=1,
            num_gpus=1 if gpu_count else 0,
        )
        for row in found.iter_rows():
            done = json.loads(row["done"])
            if "failed" in done:
                raise ValueError(f"{verb}: {done['failed']}")
            yield done
    except ray.exceptions.RayError as error:
        raise ValueError(f"{verb}: an actor failed: {_explain(error)}") from error


def _explain(error: BaseException) -> str:
    """One line of what an actor ran into, below the exceptions that Ray wraps it in."""
    while inner := getattr(error, "cause", None) or error.__cause__:
        error = inner
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def replace_folder(folder: Path, output: Path) -> None:
    """Give a finished folder its name, also if another thing has it."""
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    folder.rename(output)


def _start(verb: str, workers: int | None) -> Any:
    """Ray, connected to a cluster or with one of its own that has room for the workers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            f"{verb}: --engine ray needs Ray, which is not installed. Install the extra: "
            "pip install 'prm_lightning[ray]'."
        ) from error
    if not ray.is_initialized():
        alone: dict[str, Any] = {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": max(workers or 1, os.cpu_count() or 1),
        }
        if os.environ.get("RAY_ADDRESS"):
            alone = {}
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **alone)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # news of each step; what fails is raised
            handler.setLevel(logging.CRITICAL)
    return ray
