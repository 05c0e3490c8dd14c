"""`search`: problems in, results out, whatever happens in between."""

import json
import shutil
from math import prod
from statistics import fmean

import pytest
from loopback import serving
from test_prm import tiny_prm
from test_score import another_process_writing
from test_server_generator import answer, chat

from prm_lightning.searching.search import Candidate, SearchResult
from prm_lightning.searching.verb import count, main, record_of, table
from prm_lightning.sources.problems import Problem

ROWS = [
    {
        "question": f"Ann has {n} apples and buys {n} more. How many?",
        "answer": f"2*{n}\n#### {2 * n}",
    }
    for n in range(1, 5)
]


@pytest.fixture(scope="module")
def job(tiny_model_folder, tmp_path_factory):
    """The options of a search with tiny models; `job(method="beam")` changes some."""
    folder = tmp_path_factory.mktemp("search")
    problems = folder / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    tiny_prm(tiny_model_folder("llama")).save_pretrained(folder / "prm")

    def build(**changes):
        options = {
            "problems": problems, "generator": tiny_model_folder("qwen3"), "model": folder / "prm",
            "n": 4, "width": 2, "steps": 3, "max_tokens": 6, "separator": " ", "device": "cpu",
        } | changes  # fmt: skip
        return [f"--{key}={value}" for key, value in options.items() if value is not None]

    return build


def read(file):
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def found(job, tmp_path):
    """Runs the verb: `found("a.jsonl", "--overwrite", n=2)` are its records."""

    def run(name="found.jsonl", *more, **changes):
        main([*job(**changes), "--output", str(tmp_path / name), *more])
        return read(
            tmp_path / name if name.endswith("jsonl") else tmp_path / name / "results.jsonl"
        )

    return run


@pytest.mark.parametrize("method", ["best_of_n", "weighted_majority", "beam", "dvts"])
def test_every_method_writes_every_candidate(found, tmp_path, capsys, method):
    records = found("found", method=method)
    assert [r["question"] for r in records] == [row["question"] for row in ROWS]
    assert [r["reference"] for r in records] == ["2", "4", "6", "8"]
    for record in records:
        finals = [c for c in record["candidates"] if c["ended"] not in ("pruned", "duplicate")]
        assert len(finals) == 4
        assert all(len(c["scores"]) == len(c["steps"]) for c in record["candidates"])
        assert record["tokens"] >= max(c["tokens"] for c in finals)
    summary = json.loads((tmp_path / "found" / "results.summary.json").read_text())
    assert summary["tokens"] == sum(record["tokens"] for record in records)
    assert summary["job"]["method"] == method
    shown = capsys.readouterr().out
    assert "problems   4: " in shown
    way = "weighted majority" if method == "weighted_majority" else "highest score"
    assert f"{way:24} *" in shown
    names = {file.name for file in (tmp_path / "found").iterdir()}
    assert names == {"results.jsonl", "results.summary.json"}


def test_scores_are_made_as_the_model_says_or_as_asked(job, found, tmp_path):
    model = tmp_path / "prm"
    shutil.copytree(job()[2].removeprefix("--model="), model)
    manifest = json.loads((model / "prm.json").read_text())
    (model / "prm.json").write_text(json.dumps(manifest | {"aggregation": "prod"}))
    for asked, how in ((None, prod), ("mean", fmean)):
        records = found(
            f"{asked}.jsonl", method="beam", model=model, limit=2, max_tokens=20, aggregate=asked
        )
        scored = [c for r in records for c in r["candidates"] if c["steps"]]
        assert any(len(c["scores"]) > 1 for c in scored)
        assert all(c["score"] == pytest.approx(how(c["scores"])) for c in scored)


@pytest.mark.slow
def test_a_run_cut_anywhere_resumes_to_the_same_results(found, tmp_path):
    whole = tmp_path / "whole.jsonl"
    found("whole.jsonl", method="beam")
    lines = whole.read_bytes().splitlines(keepends=True)
    header = json.dumps(json.loads(whole.with_suffix(".summary.json").read_text())["job"]) + "\n"
    begun = header.encode() + lines[0].replace(b'"message": ""', b'"message": "kept"')
    assert b"kept" in begun
    for cut in (0, 5, len(header), len(begun) + 1, len(begun) + len(lines[1]) - 1):
        partial = tmp_path / f".cut{cut}.jsonl.partial"
        partial.write_bytes((begun + b"".join(lines[1:]))[:cut])
        found(f"cut{cut}.jsonl", method="beam")
        written = (tmp_path / f"cut{cut}.jsonl").read_bytes()
        assert written.replace(b"kept", b"") == b"".join(lines)
        assert (b"kept" in written) == (cut > len(begun))  # what was done is not done again
        assert not partial.exists()


def test_another_job_is_not_resumed(found, tmp_path):
    found()
    with pytest.raises(FileExistsError, match="--overwrite"):
        found()
    described = json.loads((tmp_path / "found.summary.json").read_text())["job"]
    (tmp_path / "found.jsonl").unlink()
    (tmp_path / ".found.jsonl.partial").write_text(json.dumps(described) + "\n{}\n")
    for changed in ({"seed": 1}, {"n": 2}, {"aggregate": "last"}, {"method": "dvts"}):
        with pytest.raises(ValueError, match=rf"another job \(its {next(iter(changed))} differ"):
            found(**changed)
    with pytest.raises(ValueError, match=r"another job \(its problems_content differ"):
        found(limit=2)
    assert len(found("found.jsonl", "--overwrite", seed=1, limit=2)) == 2


def test_a_problem_beyond_the_generator_is_an_outcome(found, tiny_model_folder, tmp_path, capsys):
    problems = tmp_path / "problems.jsonl"
    long = {"question": "Count these: " + "apple pear " * 200, "answer": "400"}
    rows = [ROWS[0], long, ROWS[1], {"question": "No answer?"}]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generator = tiny_model_folder("llama", max_position_embeddings=512)
    records = found(problems=problems, generator=generator)
    assert [r["outcome"] == "refused by the generator" for r in records] == [False, True, False]
    assert "fills the context of 512 tokens" in records[1]["message"]
    assert records[1]["correct"] is None
    summary = json.loads((tmp_path / "found.summary.json").read_text())
    assert summary["counted"] == 2
    assert summary["left_out"] == {"no answer": 1}
    assert "1 refused by the generator" in capsys.readouterr().out


def test_a_server_writes_the_steps_of_beams(found, tokenizer, tiny_model_folder):
    """Steps go back as they were written: as the assistant's text, or as token ids."""
    sent = []

    def behave(path, body, number):
        reply = {"/v1/chat/completions": chat, "/v1/completions": answer}[path]
        if path == "/v1/completions":
            begun = tokenizer.decode(body["prompt"]).rpartition("assistant\n")[2]
        else:
            begun = "".join(message["content"] for message in body["messages"][1:])
        sent.append(begun)
        if begun:
            return 200, {}, reply("So 2.", stop_reason=None)
        return 200, {}, reply(f"Step {number % 2}", stop_reason="\n\n")

    tokenizer_option = f"--tokenizer={tiny_model_folder('qwen3')}"
    for endpoint in ("chat", None):
        sent.clear()
        more = [tokenizer_option] + ([f"--endpoint={endpoint}"] if endpoint else [])
        with serving(behave) as (loopback, url):
            (record,) = found(
                f"{endpoint}.jsonl", *more,
                generator=f"{url}#writer", method="beam", limit=1, separator=None,
            )  # fmt: skip
        assert record["outcome"] == "answered"
        assert record["correct"]
        assert {body["model"] for _, body, _, _ in loopback.requests} == {"writer"}
        assert {*sent} <= {"", "Step 0\n\n", "Step 1\n\n"}
        assert record["tokens"] == 3 * len(sent) == 24


def test_what_refuses_every_problem_is_no_outcome(found, tiny_model_folder, tmp_path):
    """It says why, and leaves nothing that the corrected command would stumble over."""
    small = tiny_model_folder("llama", max_position_embeddings=32)
    with pytest.raises(ValueError, match=r"refused all 4 problems.*context of 32 tokens"):
        found(generator=small)
    assert not list(tmp_path.iterdir())


def test_a_search_that_failed_leaves_the_corrected_command_alone(found):
    for wrong in ({"generator": "nowhere/at/all"}, {"model": "nowhere/at/all"}):
        with pytest.raises((ValueError, OSError), match="nowhere/at/all"):
            found(**wrong, limit=1)
    assert len(found(limit=1, seed=3)) == 1


def test_only_one_process_writes_an_output(found, tmp_path):
    output = tmp_path / "found.jsonl"
    held = pytest.raises(OSError, match="is being written by process")
    with another_process_writing(output, "search"), held:
        found(limit=1)
    assert not output.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "beam", "n": 5}, "n=5 is not divisible by width=2"),
        ({"temperature": -1}, "temperature >= 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"method": "greedy"}, "greedy"),
        pytest.param(
            {"generator": "http://127.0.0.1:9"}, "http://127.0.0.1:9", marks=pytest.mark.slow
        ),  # tries again for 15 s
    ],
)
def test_bad_options_are_one_line(found, tmp_path, changes, said):
    with pytest.raises((ValueError, OSError), match=said):
        found(**changes)
    assert not (tmp_path / "found.jsonl").exists()


def candidate(answer, score, ended="end", note=""):
    steps = ("a",) if score is not None else ()
    return Candidate(f"So {answer}", steps, (score,) * len(steps), score, answer, 3, ended, note)


def test_figures_count_each_way_to_choose_and_no_failure():
    problem = Problem("1", "How many?", "8")
    split = [candidate("7", 0.4), candidate("8", 0.9), candidate("7", 0.3)]
    split.append(candidate("8", 1, "pruned"))
    refused = (candidate("8", None, note="too long"),)
    silent = (candidate(None, 0.5, "length"),)
    records = [
        record_of(problem, SearchResult(candidates, chosen, 10))
        for candidates, chosen in ((split, 1), (refused, None), (silent, 0))
    ]
    told = count(records, "best_of_n")
    assert told["outcomes"] == {"answered": 1, "refused by the scorer": 1, "no answer": 1}
    assert told["correct"] == {"first": 0, "majority": 0, "best": 1, "weighted": 1, "oracle": 1}
    assert told["accuracy"]["best"] == 0.5
    assert told["tokens"] == 30
    assert "highest score            * 0.500   1 of 2" in table(told, "best_of_n", {})
    assert count(records[1:2], "beam")["accuracy"]["best"] is None
