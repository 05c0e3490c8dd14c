"""The verb `label` from its command line to its folder, against a server on loopback."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_claude import FakeClaude, clumsy, honest, payload_of, verdict_of
from loopback import serving
from test_server_generator import chat

from prm_lightning.__main__ import main as door
from prm_lightning.labelling.claude import Claude
from prm_lightning.labelling.label import main
from prm_lightning.labelling.options import LabelOptions
from prm_lightning.labelling.solutions import least_sure, uncertainty
from prm_lightning.sources.rewards import he_rewards, se_rewards

REAL_KEY = os.environ.get("ANTHROPIC_API_KEY", "")
KEY = "sk-ant-api03-SECRET-of-this-test"
PAY = ("--budget", "50", "--yes")
CONFIG = Path(__file__).parents[1] / "configs" / "label_claude.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def fake(monkeypatch):
    with FakeClaude() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def solution(i: int) -> dict:
    total = i + 2 + (i % 3 == 0)
    steps = [f"Ann has {i} + 2 = {total} apples.", f"So the answer is {total}."]
    question = f"Ann has {i} apples and buys 2 more. How many?"
    return {"question": question, "answer": str(i + 2), "steps": steps}


def write(rows, name="s.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def write_questions(count) -> str:
    rows = ({"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(count))
    return write(rows, "p.jsonl")


def label(*args):
    main([*map(str, args)])


def rows(folder="data/prm_dataset_method1_SE"):
    text = Path(folder, "solutions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def record(folder="data/prm_dataset_method1_SE"):
    return json.loads(Path(folder, "dataset.json").read_text(encoding="utf-8"))


def test_ready_solutions_get_verdicts_and_both_rewards_at_one_price(fake, capsys):
    file = write(solution(i) | {"generator": "gpt-x", "is_correct": True} for i in range(12))
    label("--solutions", file, "--reward", "SE", *PAY)
    asked = len(fake.headers)
    assert len(fake.usages) == 12
    for body in fake.bodies:  # Claude is told nothing of who wrote a solution
        assert set(payload_of(body)) == {"problem", "reference_answer", "steps"}
        assert "gpt-x" not in json.dumps(body)
    label("--solutions", file, "--reward", "HE")  # no budget, no consent: nothing is asked
    assert len(fake.headers) == asked
    soft, hard = rows(), rows("data/prm_dataset_method1_HE")
    assert len(soft) == len(hard) == 12
    for i, (se, he) in enumerate(zip(soft, hard, strict=True)):
        given = solution(i)
        verdicts = [verdict_of(given["question"], step).casefold() for step in given["steps"]]
        assert se["verdicts"] == he["verdicts"] == verdicts
        assert se["step_rewards"] == se_rewards(verdicts)
        assert he["step_rewards"] == he_rewards(verdicts, i % 3 != 0)
        assert (se["question"], se["steps"]) == (given["question"], given["steps"])
        assert se["is_correct"] == (i % 3 != 0)
        assert se["ground_truth_answer"] == given["answer"]
        assert se["reasons"] == ["Step 1 was checked.", "Step 2 was checked."]
        assert (se["judge"], se["generator"]) == ("claude-sonnet-5-5", "gpt-x")
        assert {k for k in se if se[k] != he[k]} <= {"step_rewards"}
    said = record()
    assert said["counts"]["outcomes"] == {"judged": 12}
    assert said["counts"]["steps"]["total"] == 24
    assert said["cost"]["paid_usd"] > 0 and said["cost"]["unsettled_usd"] == 0
    assert record("data/prm_dataset_method1_HE")["cost"] == said["cost"]
    label("--skip_generation", "--sft_model", "models/sft")  # the complete folder as it is
    assert len(fake.headers) == asked
    out = capsys.readouterr().out
    assert "a labelled step" in out and out.count("judged 12") == 3


def test_outcomes_that_are_no_verdicts_are_counted_and_become_no_labels(fake):
    fake.answer = clumsy
    file = write([*(solution(i) for i in range(60)), solution(3), {"question": "?"}])
    label("--solutions", file, *PAY)
    said = record()
    outcomes = said["counts"]["outcomes"]
    assert set(outcomes) >= {"judged", "refusal", "copy of another solution"}
    assert sum(outcomes.values()) == 61
    assert len(rows()) == outcomes["judged"]
    assert said["left_out"] == {"no answer": 1}
    account = said["cost"]["stages"]["judge claude-sonnet-5-5"]
    assert sum(account["outcomes"].values()) == account["answers"] == len(fake.usages)
    assert account["outcomes"]["refusal"] == outcomes["refusal"]


def test_method_2_writes_and_judges_with_claude(fake):
    line = ["--method", 2, "--problems", write_questions(4), "--mine_samples", 0]
    line += ["--num_rollouts", 5, "--num_samples", 3]
    label(*line, *PAY)
    found = rows("data/prm_dataset_method2_SE")
    written = [b for b in fake.bodies if "steps" not in payload_of(b)]
    assert len(written) == 15 and {b["model"] for b in written} == {"claude-haiku-5-5"}
    assert len({b["system"][0]["text"] for b in written}) == 3
    assert {row["generator"] for row in found} == {"claude-haiku-5-5"}
    for row in found:
        assert row["solution"].split("\n") == row["steps"]
        assert row["predicted_answer"] in row["steps"][-1]
        assert row["is_correct"] == (row["predicted_answer"] == row["ground_truth_answer"])
    asked = len(fake.headers)
    label(*line, "--reward", "HE")
    assert len(fake.headers) == asked
    stages = record("data/prm_dataset_method2_HE")["cost"]["stages"]
    assert set(stages) == {"write claude-haiku-5-5", "judge claude-sonnet-5-5"}


def test_a_dry_run_prints_the_cost_and_leaves_nothing(fake, capsys, monkeypatch):
    file = write(solution(i) for i in range(10))
    label("--solutions", file, "--dry_run")
    counted = capsys.readouterr().err
    assert "10 requests to claude-sonnet-5-5" in counted and "at most $" in counted
    assert "as the API counts" in counted and fake.usages == []
    worst = float(counted.rpartition("at most $")[2].partition(")")[0])
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    label(
        "--method", 2, "--dry_run", "--num_samples", 500, "--num_rollouts", 3, "--problems", "a/b"
    )
    planned = capsys.readouterr().err
    assert "1,500 requests to claude-haiku-5-5" in planned
    assert "1,500 requests to claude-sonnet-5-5" in planned
    assert [p.name for p in Path().iterdir()] == [file]
    assert "a guess" in planned
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    label("--solutions", file, *PAY)
    assert 0 < record()["cost"]["paid_usd"] <= worst


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--solutions", "s.jsonl"], "--budget USD"),
        (["--solutions", "s.jsonl", "--budget", "5"], "--yes"),
        (["--solutions", "s.jsonl", "--budget", "-1"], "-1"),
        (["--solutions", "s.jsonl", "--judge_model", "claude-9", *PAY], "'claude-9' has no price"),
        (["--solutions", "s.jsonl", "--judge_model", "claude-sonnet-4-20250514", *PAY], "retired"),
        (["--solutions", "s.jsonl", "--judge_model", "claude-opus-5-5", *PAY], "404"),
        (["--solutions", "none.jsonl", *PAY], "none.jsonl"),
        (["--solutions", "bad.jsonl", *PAY], "no row of bad.jsonl"),
        (["--method", "1"], "needs a model"),
        (["--method", "2"], "--mine_samples 0"),
        (["--method", "3"], "method"),
        (["--judge", "agreement", "--solutions", "s.jsonl"], "--judge agreement needs a model"),
        (["--sft_model", "m", "--server", "http://x"], "give one"),
        (["--skip_generation"], "no complete labelled data"),
        (["--solutions", "s.jsonl", "--output_dir", "taken"], "taken exists"),
        (["--solutions", "s.jsonl", "--then_fit", "no.yaml"], "no.yaml"),
        (["--problems", "no.jsonl", "--dry_run"], "no.jsonl"),
        (["--select", "uncertain"], "--prm"),
        (["--fraction", "0"], "fraction 0"),
        (["--min_fail", "0.9"], "min_fail 0.9"),
        (["--mine_samples", "-1"], "NonNegativeInt: -1"),
    ],
)
def test_bad_input_is_one_clear_line_and_costs_nothing(fake, args, said):
    fake.retired.add("claude-opus-5-5")
    write([solution(1)])
    write([{"question": "?"}], "bad.jsonl")
    Path("taken").mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        main(args)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert fake.usages == []


@pytest.mark.slow
def test_the_key_is_nowhere(fake, monkeypatch, caplog):
    fake._faults["live"] = iter(["401"])
    file = write([solution(1)])
    with pytest.raises(ValueError, match="401") as failed:
        label("--solutions", file, *PAY)
    monkeypatch.setenv("ANTHROPIC_LOG", "debug")
    line = [sys.executable, "-c", "import sys; from prm_lightning.labelling.label import main; "
            "main(sys.argv[1:])", "--solutions", file, *PAY]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0
    said = "".join((str(failed.value), caplog.text, done.stdout, done.stderr))
    assert "SECRET" not in said and "/v1/messages" in said  # the SDK did log
    for path in Path().rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()


@pytest.mark.slow
def test_a_model_of_ones_own_mines_and_writes(fake, tiny_model_folder):
    line = ["--sft_model", str(tiny_model_folder("llama")), "--problems", write_questions(3),
            "--num_rollouts", 2, "--max_new_tokens", 12, "--mine_samples", 2]  # fmt: skip
    mined = [*line, "--min_fail", 0, "--max_fail", 1, "--num_samples", 2]
    label(*mined, *PAY)
    said = record()
    assert sum(said["counts"]["outcomes"].values()) == 4
    asked = len(fake.headers)
    label(*mined, "--reward", "HE")
    assert len(fake.headers) == asked
    with pytest.raises(ValueError, match=r"no question .*too hard"):
        label(*line, "--max_fail", 0.5, "--journal", "j", "--out", "o", *PAY)


@pytest.mark.parametrize(("said", "paid"), [("yes\n", 4), ("n\n", 0), ("\n", 0)])
def test_a_person_is_asked_before_anything_is_spent(fake, monkeypatch, said, paid):
    terminal = io.StringIO(said)
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    line = ["--solutions", write(solution(i) for i in range(4)), "--budget", "5"]
    if paid:
        label(*line)
    else:
        with pytest.raises(ValueError, match="nothing was asked"):
            label(*line)
    assert len(fake.usages) == paid


def test_after_ctrl_c_nothing_is_asked_for_twice(fake, monkeypatch, capsys):
    line = ["--solutions", write(solution(i) for i in range(6)), *PAY]
    monkeypatch.setattr("sys.argv", ["prm_lightning", "label", *line])
    answer, calls = Claude.ask, itertools.count(1)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

    def interrupted(self, params, key, timeout):
        if next(calls) == 3:
            signal.raise_signal(signal.SIGINT)  # the main thread gets it, wherever this runs
        return answer(self, params, key, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(Claude, "ask", interrupted)
        assert door() == 1
    signal.signal(signal.SIGINT, usual)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: label: interrupted")
    received = len(fake.usages)
    assert door() == 0
    assert len(fake.usages) == 6 >= received >= 3


def test_a_server_writes(fake):
    def behave(path, body, number):
        question = json.dumps(body)
        i = next(i for i in range(3) if f"What is {i} + 1" in question)
        if i == 2:
            return 400, {}, {"error": {"message": "longer than the context"}}
        return 200, {}, chat(f"We add {i} + 1 = {i + 1}, try {number}.\n\nThe answer is {i + 1}.")

    with serving(behave) as (_, url):
        line = ["--problems", write_questions(3), "--num_rollouts", 2, "--mine_samples", 0]
        label("--server", url, "--server_model", "m", *line, *PAY)
    found = rows()
    assert len(found) == len(fake.usages) == 4
    outcomes = record()["counts"]["outcomes"]
    assert outcomes == {"judged": 4, "not written: unanswerable": 2}
    assert all(row["is_correct"] and len(row["steps"]) == 2 for row in found)


def test_only_what_a_prm_is_least_sure_of_is_judged(fake, tiny_model_folder):
    from prm_lightning.modeling.backbone import Backbone
    from prm_lightning.modeling.prm import PRM

    PRM.create(Backbone(str(tiny_model_folder("llama")), dtype="float32")).save_pretrained("prm")
    file = write(solution(i) for i in range(8))
    label("--solutions", file, "--select", "uncertain", "--prm", "prm", "--fraction", 0.25, *PAY)
    assert len(fake.usages) == 2
    assert record()["counts"]["outcomes"]["not selected"] == 6
    prm, doubts = PRM.from_pretrained("prm"), {}
    for row in map(solution, range(8)):
        doubts[row["question"]] = uncertainty(prm.score(row["question"], row["steps"]))
    chosen = {row["question"] for row in rows()}
    assert chosen == set(sorted(doubts, key=doubts.__getitem__, reverse=True)[:2])


@pytest.mark.slow
def test_rollouts_and_agreement_are_judges_too(fake, tiny_model_folder):
    file = write(solution(i) for i in range(3))
    line = ["--solutions", file, "--sft_model", tiny_model_folder("llama"), "--rollouts", 2,
            "--max_new_tokens", 8]  # fmt: skip
    label(*line, "--judge", "rollouts", "--out", "a", "--journal", "j")
    assert fake.usages == []
    assert sum(record("a")["counts"]["outcomes"].values()) == 3
    label(*line, "--judge", "agreement", "--out", "b", "--journal", "j", *PAY)
    assert len(fake.usages) == 3
    assert sum(record("b")["counts"]["outcomes"].values()) == 3
    label(*line, "--judge", "agreement", "--reward", "HE", "--out", "c", "--journal", "j")
    assert len(fake.usages) == 3


@pytest.mark.network
@pytest.mark.skipif("PRM_LIGHTNING_SPEND" not in os.environ, reason="spends money: set it to do so")
def test_five_solutions_with_a_real_key(monkeypatch, capsys):
    monkeypatch.setenv("ANTHROPIC_API_KEY", REAL_KEY)
    label("--solutions", write(solution(i) for i in range(5)), "--mode", "live", "--budget", 1,
          "--judge_model", "claude-haiku-5-5", "--yes")  # fmt: skip
    said = record()
    assert said["counts"]["outcomes"] == {"judged": 5}
    assert 0 < said["cost"]["paid_usd"] <= 1
    with capsys.disabled():
        print(json.dumps(said["cost"], indent=2))


def test_equations_judge_without_a_key(monkeypatch, capsys):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    text = "Step 1: 1 + 1 = 2.\nStep 2: so 2 + 1 = 3.\n#### 3"
    whole = {"question": "q", "answer": "3", "solution": text}
    file = write([solution(1), solution(3), solution(1) | {"answer": "9"}, whole])
    label("--judge", "equations", "--solutions", file)
    right, wrong, split = rows()
    assert split["is_correct"] and split["predicted_answer"] == "3" and len(split["steps"]) >= 2
    assert (right["verdicts"], right["step_rewards"]) == (["correct"] * 2, [0.75, 1.0])
    assert (wrong["verdicts"], wrong["step_rewards"]) == (["incorrect", None], [-0.75, None])
    assert wrong["reasons"] == ["3 + 2 = 6 is false", ""]
    said = record()
    assert said["counts"]["outcomes"] == {"judged": 3, "unexplained": 1}
    assert (said["judge"], said["cost"]["paid_usd"]) == ("equations", 0)
    assert "$" not in capsys.readouterr().out


def test_half_a_character_is_replaced_wherever_it_comes_from(fake):
    line = ["--problems", write_questions(2), "--mine_samples", 0, "--num_rollouts", 1, *PAY]

    def behave(path, body, number):
        return 200, {}, chat("We add: \ud83d.\n\nThe answer is \ud83d2.")

    def answer(body, key):
        reason, text = honest(body, key)
        return reason, text.replace("asked", "\\ud83d").replace("checked", "\\ud83d")

    fake.answer = answer
    with serving(behave) as (_, url):
        label("--generator", f"{url}#m", *line)
    label("--method", 2, *line)
    for method in (1, 2):
        found = rows(f"data/prm_dataset_method{method}_SE")
        assert found and all("?" in row["reasons"][0] for row in found)
        assert all({"?", "\ufffd"} & set(row["steps"][0]) for row in found)
    ready = [solution(1), solution(2) | {"generator": "g\ud83d"}]
    label("--solutions", write(ready), "--out", "ready", *PAY)
    assert len(rows("ready")) == 1
    assert record("ready")["left_out"] == {"text with half a character": 1}


def test_a_journal_of_version_0_1_is_read_and_nothing_is_paid_again(fake):
    """It holds mined questions, solutions of two models, verdicts and an answer not yet read."""
    Path("j").mkdir()
    with sqlite3.connect("j/journal.sqlite") as sql:
        sql.executescript(Path(__file__).with_name("journal_of_0_1.sql").read_text("utf-8"))
    write_questions(3)
    write([{"question": "2 + 2?", "answer": "4", "steps": ["2 + 2 = 4.", "So 4."]}], "s.jsonl")
    line = ["--journal", "j", "--problems", "p.jsonl", "--num_samples", 2]
    label(*line, "--sft_model", "my-sft", "--mine_samples", 2, "--min_fail", 0, "--max_fail", 1,
          "--num_rollouts", 2, "--max_new_tokens", 12, "--out", "one")  # fmt: skip
    label(*line, "--method", 2, "--mine_samples", 0, "--num_rollouts", 3, "--out", "two")
    label("--journal", "j", "--solutions", "s.jsonl", "--out", "three")
    assert fake.calls == 0
    assert record("one")["counts"]["outcomes"] == {"no complete step": 3, "judged": 1}
    assert record("two")["counts"]["outcomes"] == {
        "judged": 3, "not written: refusal": 1, "not written: malformed": 1,
        "copy of another solution": 1,
    }  # fmt: skip
    assert [row["verdicts"] for row in rows("three")] == [["correct", "correct"]]
    assert rows("three")[0]["key"] == "de886f82cf21f68981e848b5a2d69afbef8d9c5f"
    assert record("three")["cost"]["paid_usd"] == pytest.approx(0.0092, abs=1e-4)


def test_the_least_sure_are_chosen():
    assert uncertainty([0.99, 0.6]) == pytest.approx(0.8)
    assert uncertainty([0.99, 0.1, 0.5]) == pytest.approx(0.2)  # after the first error: nothing
    assert uncertainty([1.0]) == 0.0
    assert least_sure([0.1, 0.9, 0.5, 0.9], 0.5) == [1, 3]
    assert least_sure([0.5, 0.5, 0.5], 0.34) == [0, 1]
    assert least_sure([], 0.5) == []


def test_the_shipped_configuration_is_read(fake):
    assert "label --config configs/label_claude.yaml" in CONFIG.read_text()
    file = write([solution(1)])
    label("--config", CONFIG, "--solutions", file, *PAY)
    assert len(fake.usages) == 1
    assert yaml.safe_load(CONFIG.read_text()).keys() <= vars(LabelOptions()).keys()
