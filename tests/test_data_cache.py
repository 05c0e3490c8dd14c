"""Tokens and texts come from the cache only where they are what would be made anew."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import assert_same_weights, options, write_rows

from prm_lightning.batching import cache
from prm_lightning.batching.data import Texts, collate
from prm_lightning.batching.datamodule import PRMDataModule
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.plan import Planner
from prm_lightning.sources import SourceSpec, Stepwise
from prm_lightning.types import Solution, Step


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Where the entries of this test are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PRM_LIGHTNING_CACHE", raising=False)
    return tmp_path / "cache" / "prm_lightning" / "data"


@pytest.fixture
def rows(tmp_path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", problems=8)


def started(rows, tokenizer, source=None, encoder=None, spec=None, **settings) -> PRMDataModule:
    sources = [SourceSpec(source or Stepwise(str(rows)), **(spec or {}))]
    encoder = Encoder(tokenizer, **(encoder or {}))
    settings = {"val_ratio": 0.25, "template": encoder.template} | settings
    data = PRMDataModule(sources, encoder, **settings)
    data.setup("fit")
    return data


def content(data: PRMDataModule) -> str:
    """Everything that a run sees: report, fingerprint, arrays and the first plan."""
    sides = {
        name: [
            {f.name: listed(getattr(part, f.name)) for f in fields(part)}
            for part in (side.data, side.sizes)
        ]
        for name, side in data.sides.items()
    }
    plan = Planner(data.sides["train"].sizes, 512, 16, seed=1).train_steps(0)
    return json.dumps([data.report, data.fingerprint, sides, repr(plan)])


def listed(value):
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    return list(value) if isinstance(value, Texts) else value


def made_anew(monkeypatch, *args, **settings) -> str:
    with monkeypatch.context() as patch:
        patch.setenv("PRM_LIGHTNING_CACHE", "off")
        return content(started(*args, **settings))


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def age(folder: Path) -> None:
    """Make all entries look as if they had not been used for long."""
    for path in folder.iterdir():
        os.utime(path, (0, 0))


def used(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.stat().st_mtime > 1}


def test_a_second_start_takes_what_the_first_made(rows, tokenizer, folder, monkeypatch):
    anew = made_anew(monkeypatch, rows, tokenizer)
    assert not folder.exists()
    assert content(started(rows, tokenizer)) == anew
    first = entries(folder)
    assert len(first) == 2  # what trains and what validates
    age(folder)
    again = started(rows, tokenizer)
    assert content(again) == anew
    assert entries(folder) == used(folder) == first
    assert first.issubset(Path("/proc/self/maps").read_text().replace("\n", "/").split("/"))
    train = again.sides["train"]
    ((batch, *_), *_) = Planner(train.sizes, 8192).train_steps(0)
    labels = train.data.labels[train.data.weights > 0]
    assert collate(batch, train.data, 0).labels.sum() == labels.sum()


CHANGES = {
    "label": lambda text: text.replace("true", "false", 1),
    "soft label": lambda text: text.replace("true", "0.75", 1),
    "step": lambda text: text.replace("She has", "She now has", 1),
    "problem": lambda text: text.replace('"prompt": "', '"prompt": "Now: ', 3),
    "order": lambda text: "".join(text.splitlines(keepends=True)[::-1]),
    "number of rows": lambda text: "".join(text.splitlines(keepends=True)[1:]),
}


SETTINGS = [
    {"max_tokens": 60},
    {"encoder": {"template": "plain"}},
    {"encoder": {"template": "guide"}},
    {"encoder": {"step_end": "\n"}, "step_end": "\n"},
    {"spec": {"repeat": 2.0}},
    {"spec": {"name": "other"}},
]


@pytest.mark.parametrize(
    ("change", "settings"),
    [*((change, {}) for change in CHANGES.values()), *((str, settings) for settings in SETTINGS)],
    ids=[*CHANGES, *map(str, SETTINGS)],
)
def test_other_rows_or_settings_have_other_entries(rows, tokenizer, monkeypatch, change, settings):
    before, text, stat = content(started(rows, tokenizer)), rows.read_text(), rows.stat()
    rows.write_text(change(text))
    os.utime(rows, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a tool that keeps times does
    after = content(started(rows, tokenizer, **settings))
    assert after == made_anew(monkeypatch, rows, tokenizer, **settings)
    assert after != before
    rows.write_text(text)
    assert content(started(rows, tokenizer)) == before


def test_a_tokenizer_counts_by_its_definition(rows, tokenizer, tiny_model_folder, folder):
    from transformers import AutoTokenizer

    saved = tiny_model_folder("qwen3")
    before = content(started(rows, AutoTokenizer.from_pretrained(saved)))
    made = entries(folder)
    padded = AutoTokenizer.from_pretrained(saved)
    padded(["a", "b c"], padding=True, truncation=True, max_length=5)  # what it was used for
    assert content(started(rows, padded)) == before
    assert entries(folder) == made
    templated = AutoTokenizer.from_pretrained(saved)
    templated.chat_template = tokenizer.chat_template.replace("assistant\n", "judge\n")
    extended = AutoTokenizer.from_pretrained(saved)
    extended.add_tokens(["apples"])
    for changed in (templated, extended):
        assert content(started(rows, changed)) != before


def test_code_of_a_model_is_no_tokenizer_to_rely_on(rows, tokenizer, folder):
    class Remote(type(tokenizer)):
        """Comes with a model, and may do anything."""

    remote = Remote(tokenizer_object=tokenizer.backend_tokenizer)
    remote.chat_template = tokenizer.chat_template
    started(rows, remote)
    assert not entries(folder)


class Given:
    """A source of one's own."""

    def __init__(self, solutions):
        self.solutions = solutions

    def read(self):
        return iter(self.solutions)


def some_solutions(**second):
    steps = Step("a", reward=0.75), Step("b", **({"reward": -0.5} | second))
    return [Solution(f"{n} + 1?", steps, "given", str(n)) for n in range(8)]


def test_all_that_is_known_of_a_solution_counts(rows, tokenizer, folder, monkeypatch):
    some = some_solutions()
    judged = [replace(s, steps=(*s.steps, Step("c", 1.0, verdict="correct"))) for s in some]
    unjudged = [replace(s, steps=(*s.steps, Step("c", 1.0))) for s in some]
    for number, solutions in enumerate((some, some_solutions(reward=0.25), judged, unjudged), 1):
        for _ in range(2):
            data = content(started(rows, tokenizer, Given(solutions)))
            assert data == made_anew(monkeypatch, rows, tokenizer, Given(solutions))
            assert len(entries(folder)) == 2 * number  # of each, what trains and what validates
    as_label = started(rows, tokenizer, Given(some), reward_as="label")
    assert set(as_label.sides["train"].data.labels) == {0.875, 0.25}


def test_strictness_is_asked_for_anew(rows, tokenizer):
    data = started(rows, tokenizer).sides["train"].data
    fits_half = int(np.median(data.positions[data.step_offsets[:-1]]))
    lenient = started(rows, tokenizer, max_tokens=fits_half).report["encoded"]["train"]
    assert lenient["no step fits in max_tokens"]
    with pytest.raises(ValueError, match=f"max_tokens={fits_half}"):
        started(rows, tokenizer, max_tokens=fits_half, strict=True)
    with rows.open("a") as file:
        file.write("no JSON\n")
    started(rows, tokenizer)
    with pytest.raises(ValueError, match="not JSON"):
        started(rows, tokenizer, strict=True)


def flipped(data: bytes, place: float) -> bytes:
    """One bit is changed, so far into the content."""
    at = int(place * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    **{f"flipped at {place}": partial(flipped, place=place) for place in (0, 0.01, 0.5, 1)},
    "cut": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entries_are_made_again(rows, tokenizer, folder, damage, caplog):
    good = content(started(rows, tokenizer))
    names = entries(folder)
    for path in folder.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    assert content(started(rows, tokenizer)) == good
    assert caplog.text.count("is damaged") == 2
    caplog.clear()
    assert content(started(rows, tokenizer)) == good
    assert not caplog.text  # repaired
    assert entries(folder) == names


def test_the_least_recently_used_go_first(rows, tokenizer, folder, monkeypatch):
    started(rows, tokenizer)
    first = entries(folder)
    started(rows, tokenizer, max_tokens=60)
    second = entries(folder) - first
    age(folder)
    started(rows, tokenizer)
    assert used(folder) == first
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(cache, "MAX_BYTES", size + 2000)
    started(rows, tokenizer, max_tokens=61)
    assert first <= entries(folder)
    assert not second <= entries(folder)
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    last = started(rows, tokenizer, max_tokens=62)
    assert len(content(last)) > 100  # what is in use stays readable
    assert len(entries(folder)) == 1


def test_a_cache_that_cannot_be_written_is_only_slower(
    rows, tokenizer, tmp_path, monkeypatch, caplog
):
    good = made_anew(monkeypatch, rows, tokenizer)
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert content(started(rows, tokenizer)) == good
    assert "cannot be written" in caplog.text


def test_other_code_has_another_version(tmp_path):
    packages = [cache.PACKAGE, tmp_path / "same", tmp_path / "other"]
    for package in packages[1:]:
        shutil.copytree(cache.PACKAGE, package, ignore=lambda *_: ["__pycache__"])
    with (packages[2] / "text.py").open("a") as file:
        file.write("\n")
    ours, same, other = map(cache.code_version, packages)
    assert ours == same != other


@settings(max_examples=40)
@given(texts=st.lists(st.text(st.characters(codec=None))))
def test_texts_come_back(texts):
    packed = Texts.of(texts)
    assert list(packed) == texts
    assert len(packed) == len(texts)
    if texts:
        assert packed[-1] == texts[-1]
    with pytest.raises(IndexError):
        packed[len(texts)]


def test_solutions_come_with_their_texts_from_the_cache_too(tokenizer):
    steps = tuple(Step(f"{k}\n\n= \U0001f34e", 1.0) for k in range(3))
    solutions = [Solution(f"{n} \u00e9 + 1?\n\nSay it.", steps, "s", str(n)) for n in range(8)]
    folded = ["0\n= \U0001f34e", "1\n= \U0001f34e", "2\n= \U0001f34e"]
    whole = started(None, tokenizer, Given(solutions)).sides["train"].data
    fits_two = int(whole.positions[1]) + 1
    for _ in range(2):
        data = started(None, tokenizer, Given(solutions), max_tokens=fits_two)
        part = data.sides["train"].data
        for i, name in enumerate(part.solution_names):
            assert part.texts(i) == (f"{name} \u00e9 + 1?\nSay it.", folded[:2])
            assert whole.texts(i)[1] == folded


def content_and_warnings(rows, tokenizer):
    with patch.object(cache.log, "warning") as warning:
        return content(started(rows, tokenizer)), warning.call_count


def test_processes_that_start_at_once_agree(tokenizer, tmp_path, folder):
    rows = write_rows(tmp_path / "rows.jsonl", problems=40, attempts=6)
    with get_context("fork").Pool(3) as pool:
        found = pool.starmap(content_and_warnings, [(rows, tokenizer)] * 3, chunksize=1)
    assert found == [(content(started(rows, tokenizer)), 0)] * 3
    assert len(entries(folder)) == 2
    assert all(not name.startswith(".") for name in entries(folder))


@pytest.mark.slow
def test_ranks_that_start_at_once_take_the_steps_of_one_process(
    tiny_model_folder, tmp_path, folder
):
    rows = write_rows(tmp_path / "rows.jsonl", problems=13)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    outputs = []
    for name, ranks in (("alone", []), ("empty", launch), ("filled", launch)):
        outputs.append(tmp_path / name)
        changes = {"trainer.max_epochs": 1, "trainer.devices": 2 if ranks else 1}
        changes |= {"trainer.strategy": "ddp"} if ranks else {}
        arguments = options(tiny_model_folder("qwen3"), rows, outputs[-1], **changes)
        command = [sys.executable, *ranks, "-m", "prm_lightning", "fit", *arguments]
        cached = str(tmp_path / ("apart" if not ranks else "cache"))
        environment = os.environ | {"XDG_CACHE_HOME": cached}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert_same_weights(outputs[0], outputs[-1])
    assert len(entries(folder)) == 2
    reports = {(output / "data.json").read_text() for output in outputs}
    assert len(reports) == 1
