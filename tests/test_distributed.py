"""Two processes against one, through the command line: DDP and FSDP2 take the same steps."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_training import adapter, metrics, options, write_rows
from two_processes import main as run_here

from prm_lightning.modeling.prm import PRM
from prm_lightning.training.checkpoints import find_fault

pytestmark = pytest.mark.slow

DDP = {"trainer.devices": 2, "trainer.strategy": "ddp"}
SHARDED = {"trainer.devices": 2, "trainer.strategy": "ModelParallelStrategy"}
ONE_FILE = SHARDED | {"trainer.strategy.save_distributed_checkpoint": "false"}
FULL = {"model.backbone.lora": "null", "model.lr": 1e-3}
SHORT = {"trainer.max_epochs": 1, "checkpoint_every": 50}
SLOW_RATE = {"model.lr": 1e-5}  # so that a step that Adam makes of noise does not show


class Runs:
    """Command lines in a folder, for one backbone."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.model = root, model
        self.rows = write_rows(root / "rows.jsonl", problems=9)
        single = write_rows(root / "single.jsonl", problems=1)
        # Of one problem, so that steps and validation have fewer batches than ranks.
        self.single = {"data.sources": str(single), "data.val_sources": str(single)}

    def of(self, world: int) -> list[dict]:
        ddp, sharded, one_file = (DDP, SHARDED, ONE_FILE) if world == 2 else ({}, {}, {})
        runs = [
            self.run(f"exact{world}", ddp | SHORT, double=True),
            self.run(f"plain{world}", ddp | SHORT | SLOW_RATE),
            self.run(f"single{world}", ddp | SHORT | self.single, double=True),
            self.run(f"sharded{world}", sharded),
            self.run(f"full{world}", one_file | FULL),
        ]
        for name, changes, step in (("part2", sharded, 6), ("fullpart2", one_file | FULL, 3)):
            if world == 2:
                runs.append(self.run(name, changes, dies_at=step))
                runs.append(self.run(name, changes, "--ckpt_path", "last"))
        return runs

    def run(self, name, changes, *extra, double=False, dies_at=None) -> dict:
        output = str(self.root / name)
        recorder = {"folder": output, "double": double}
        callbacks = [
            {"class_path": "two_processes.Recorder", "init_args": recorder},
            {"class_path": "two_processes.Dying"},
        ]
        changes = {"trainer.devices": 1, **changes, "trainer.callbacks": json.dumps(callbacks)}
        arguments = [*options(self.model, self.rows, Path(output), **changes), *extra]
        return {"arguments": arguments, "dies_at": dies_at}


@pytest.fixture(scope="module")
def outputs(tiny_model_folder, tmp_path_factory) -> Path:
    """The folder that holds one folder a run."""
    model = tiny_model_folder("qwen3", tie_word_embeddings=False)
    runs = Runs(tmp_path_factory.mktemp("runs"), model)
    file = runs.root / "runs.json"
    file.write_text(json.dumps(runs.of(2)))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    here = Path(__file__).parent
    processes = []
    for rank in range(2):
        environment = os.environ | {
            **{name: str(rank) for name in ("RANK", "LOCAL_RANK")},
            **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",  # so Lightning takes them for torchrun's
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]),
        }
        command = [sys.executable, str(here / "two_processes.py"), str(file)]
        log = (runs.root / f"rank-{rank}.log").open("w")
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        run_here(runs.of(1))
        for rank, process in enumerate(processes):
            log = runs.root / f"rank-{rank}.log"
            assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    return runs.root


def record(folder: Path, rank: int = 0) -> dict:
    return torch.load(folder / f"rank-{rank}.pt")


def assert_close(found, expected, share):
    """The difference is at most a share of the norm."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= share * b.norm()


@pytest.mark.parametrize("kind", ["exact", "plain", "single", "sharded", "full"])
def test_no_solution_is_lost_or_seen_twice(outputs, kind):
    one = record(outputs / f"{kind}1")
    two = [record(outputs / f"{kind}2", rank) for rank in range(2)]
    for side in ("batches", "validated"):
        assert len(two[0][side]) == len(two[1][side])
        seen = [(epoch, i) for rank in two for epoch, ids in rank[side] for i in ids]
        expected = [(epoch, i) for epoch, ids in one[side] for i in ids]
        assert expected
        assert Counter(seen) == Counter(expected)
        assert max(Counter(seen).values()) == 1


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("exact", None), ("single", None), ("plain", 3), ("sharded", 1), ("full", 1)],
)
def test_gradients_are_those_of_one_process_and_in_float64_all_steps_are(outputs, kind, steps):
    one, two = record(outputs / f"{kind}1"), record(outputs / f"{kind}2")
    is_exact = steps is None
    assert_close(two["gradients"][:steps], one["gradients"][:steps], 1e-9 if is_exact else 1e-5)
    if is_exact:
        assert one["weights"][0].dtype == torch.float64
        assert_close(two["weights"], one["weights"], 1e-9)


@pytest.mark.parametrize("kind", ["exact", "plain", "single", "sharded", "full"])
def test_metrics_are_those_of_one_process(outputs, kind):
    one, two = (metrics(outputs / f"{kind}{world}") for world in (1, 2))
    assert [row.keys() for row in two] == [row.keys() for row in one]
    for a, b in zip(two, one, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, abs=1e-3
        )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(PRM.from_pretrained(folder, device="cpu").named_parameters())


@pytest.mark.parametrize("kind", ["sharded", "full"])
@pytest.mark.parametrize("name", ["best_model", "final_model"])
def test_a_sharded_run_leaves_a_model_like_any_other(outputs, kind, name):
    folders = [outputs / f"{kind}{world}" / name for world in (1, 2)]
    one, two = map(weights, folders)
    assert one.keys() == two.keys()
    both = [torch.cat([side[key].flatten() for key in one]) for side in (one, two)]
    assert_close([both[1]], [both[0]], 1e-3)
    files = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", ["", "full"])
def test_a_killed_sharded_run_goes_on_as_if_nothing_had_happened(outputs, kind):
    whole, part = outputs / f"{kind or 'sharded'}2", outputs / f"{kind}part2"
    for name in ("best_model", "final_model"):
        expected, found = weights(whole / name), weights(part / name)
        for key, value in expected.items():
            assert torch.equal(value, found[key]), key
    assert metrics(part) == metrics(whole)


def test_a_sharded_checkpoint_is_a_folder_that_knows_whether_it_is_whole(outputs):
    folder = outputs / "sharded2" / "checkpoints" / "last.ckpt"
    assert folder.is_dir()
    assert find_fault(folder) is None
    (folder / "meta.pt").unlink()
    assert find_fault(folder) == "is cut off"
    assert adapter(outputs / "sharded2" / "final_model")
