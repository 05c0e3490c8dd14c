"""Whether two runs of `fit` ended alike, to the last bit."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

MODELS = ("best_model", "final_model", "val_scores.jsonl", "untrained.json", "nonfinite.jsonl")
OF_THE_CLOCK = "throughput/"


def differences(expected: Path, found: Path) -> list[str]:
    """What two run folders differ in, but for times and throughput; empty if they are equal."""
    return [
        *_checkpoint_differences(expected / "checkpoints", found / "checkpoints"),
        *(name for name in MODELS if files_of(expected / name) != files_of(found / name)),
        *(["metrics.csv"] if metric_rows(expected) != metric_rows(found) else []),
        *_event_differences(events_of(expected), events_of(found)),
    ]


def metric_rows(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what the clock decides."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if OF_THE_CLOCK not in k} for row in rows]


def events_of(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Step and value of everything that TensorBoard shows of a run, after its purge."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    reader.Reload()
    tags = reader.Tags()
    found = {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in tags["scalars"]
        if OF_THE_CLOCK not in tag
    }
    for tag in tags["images"]:
        found[tag] = [(event.step, event.encoded_image_string) for event in reader.Images(tag)]
    return found


def files_of(path: Path) -> dict[str, bytes]:
    """Every byte of a file or folder; nothing where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(f.relative_to(path)): f.read_bytes() for f in files if f.is_file()}


def trained_batches(trace: Path) -> dict[int, list[tuple[Any, ...]]]:
    """For each rank what it was trained on, without what a kill took back.

    Args:
        trace: see `tracing.Trace`; of all processes of a run, one behind the other.

    Returns:
        ``((epoch, batch), solutions)`` in order.
    """
    batches: dict[int, list[tuple[int, Any, Any]]] = {}
    for line in trace.read_text().splitlines():
        row = json.loads(line)
        mine = batches.setdefault(row["rank"], [])
        if "start" in row:
            batches[row["rank"]] = [batch for batch in mine if batch[0] < row["start"]]
        elif "batch" in row:
            mine.append((row["step"], tuple(row["batch"]), tuple(row["solutions"])))
    return {rank: [batch[1:] for batch in mine] for rank, mine in batches.items()}


def draws(trained: dict[int, list[tuple[Any, ...]]]) -> dict[int, Counter[int]]:
    """How often every epoch drew each solution, over all ranks."""
    counts: dict[int, Counter[int]] = {}
    for batches in trained.values():
        for (epoch, _), solutions in batches:
            counts.setdefault(epoch, Counter()).update(solutions)
    return counts


def _checkpoint_differences(expected: Path, found: Path) -> list[str]:
    names = [sorted(path.name for path in folder.iterdir()) for folder in (expected, found)]
    differing = [] if names[0] == names[1] else [f"checkpoints: {names[1]}, not {names[0]}"]
    states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (expected, found)]
    for state in states:
        state["callbacks"].get("Throughput", {}).pop("seconds", None)
    flat = [dict(_leaves(state)) for state in states]
    for name in sorted(flat[0].keys() | flat[1].keys()):
        one, other = (side.get(name) for side in flat)
        tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        if not (torch.equal(one, other) if tensors else repr(one) == repr(other)):
            differing.append(f"last.ckpt: {name}")
    return differing


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists with its path."""
    if isinstance(value, dict | list | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _leaves(inner, f"{name}/{key}")
    else:
        yield name, value


def _event_differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    tags = sorted(expected.keys() | found.keys())
    return [f"TensorBoard: {tag}" for tag in tags if expected.get(tag) != found.get(tag)]
