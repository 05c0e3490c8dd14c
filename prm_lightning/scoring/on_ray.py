"""Work spread over Ray actors that each hold a model; the results come back in order."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

Model = TypeVar("Model")
Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

ATTEMPTS = 3  # how often Ray starts a dead actor, or what it worked on, again


class Worker:
    """An actor, which loads its model when the first chunk comes, so that Ray tells its errors."""

    def __init__(self, load: Callable[[], Any], work: Callable[[Any, Any], Any], folder: Path):
        os.chdir(folder)  # relative paths start there; Ray may start its workers elsewhere
        self._load, self._work = cache(load), work

    def do(self, chunk: Any) -> Any:
        """The result of one chunk."""
        return self._work(self._load(), chunk)


def map_on_ray(
    load: Callable[[], Model],
    work: Callable[[Model, Chunk], Result],
    chunks: Iterable[Chunk],
    workers: int | None = None,
    *,
    use_gpus: bool = True,
) -> Iterator[Result]:
    """The result of each chunk, in order.

    With ``RAY_ADDRESS`` set the cluster there is used, else a local one is started. An actor that
    dies is replaced and its chunks are worked on again.

    Args:
        load: makes the model; files it reads are seen by every machine.
        work: makes a result of the model and a chunk.
        chunks: are read as they are needed.
        workers: actors, each with a GPU if the cluster has any and `use_gpus`; None is one per GPU,
            or one per CPU without any.

    Raises:
        ValueError: Ray is not installed, there is no place for so many workers, or they keep dying.
            Errors of `load` and `work` rise as they are.
    """
    ray = _start_ray(workers)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if use_gpus else 0
    places = gpus or int(resources.get("CPU", 1))
    if workers is not None and workers > places:
        raise ValueError(f"score: --workers is {workers}, but the cluster has room for {places}.")
    count = workers or places
    remote = ray.remote(Worker).options(
        num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=ATTEMPTS, max_task_retries=ATTEMPTS
    )
    actors: list[Any] = []
    waiting: deque[Any] = deque()
    try:
        for number, chunk in enumerate(chunks):
            if number < count:
                actors.append(remote.remote(load, work, Path.cwd()))
            waiting.append(actors[number % len(actors)].do.remote(chunk))
            if len(waiting) >= 3 * count:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise ValueError(f"score: an actor failed: {str(error).strip().splitlines()[0]}") from error
    finally:
        for actor in actors:
            ray.kill(actor)


def _start_ray(workers: int | None) -> Any:
    """Ray, connected to a cluster or with one of its own that has room for the workers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "score: --engine ray needs Ray, which is not installed. Install the extra: "
            "pip install 'prm_lightning[ray]'."
        ) from error
    if not ray.is_initialized():
        alone: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):
            cpus = max(workers or 1, os.cpu_count() or 1)
            alone = {"address": "local", "include_dashboard": False, "num_cpus": cpus}
        ray.init(logging_level=logging.WARNING, log_to_driver=False, **alone)
    return ray
