"""A labelled folder: rewards as stored or made anew, the guide's rows and its training view."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, solutions, texts, write_lines

from prm_lightning.batching.encode import Encoder
from prm_lightning.sources import Labelled
from prm_lightning.sources.rewards import he_rewards, se_rewards, supervise
from prm_lightning.text import guide_text
from prm_lightning.types import Dropped

VERDICTS = ["correct", "incorrect", "unsure", None]
WRONG = {
    "question": "2 + 3 * 4?",
    "solution": "3 * 4 = 12\n2 + 12 = 15\nSo 15",
    "steps": ["3 * 4 = 12", "2 + 12 = 15", "So 15"],
    "step_rewards": [-1.0, -1.0, None],
    "is_correct": False,
    "ground_truth_answer": "14",
    "verdicts": ["correct", "incorrect", "unsure"],
    "reasons": ["", "it is 14", ""],
    "predicted_answer": "15",
    "generator": "some model",
    "judge": "some judge",
    "key": "k1",
}
RIGHT = {
    **WRONG,
    "solution": "3 * 4 = 12\n2 + 12 = 14",
    "steps": ["3 * 4 = 12", "2 + 12 = 14"],
    "step_rewards": [1.0, 1.0],
    "is_correct": True,
    "verdicts": ["correct", "correct"],
    "key": "k2",
}


def write_folder(folder, *rows, dataset='{"reward": "HE", "cost": 0.5}'):
    write_lines(folder / "solutions.jsonl", *rows)
    (folder / "dataset.json").write_text(dataset)
    return str(folder)


def rewards(solution):
    return [step.reward for step in solution.steps]


def test_the_folders_own_rewards_are_taken(tmp_path):
    wrong, right = solutions(Labelled(write_folder(tmp_path / "set_HE", WRONG, RIGHT)))
    assert (wrong.source, wrong.id, right.id, wrong.answer) == ("set_HE", "k1", "k2", "14")
    assert (texts(wrong), rewards(wrong)) == (WRONG["steps"], [-1.0, -1.0, None])
    assert [step.verdict for step in wrong.steps] == WRONG["verdicts"]
    settled = supervise(wrong, "weight", "mask")
    assert [(s.label, s.weight) for s in settled.steps] == [(0.0, 1.0), (0.0, 1.0), (None, 0.0)]
    assert rewards(right) == [1.0, 1.0]


def test_other_rewards_are_made_from_the_stored_verdicts(tmp_path):
    folder = write_folder(tmp_path / "f", WRONG, RIGHT)
    wrong, right = solutions(Labelled(folder, "SE"))
    assert rewards(wrong) == [pytest.approx(2 / 3), pytest.approx(-5 / 6), None]
    assert rewards(right) == [0.75, 1.0]
    wrong, right = solutions(Labelled(folder, "verdicts", name="mine"))
    assert (wrong.source, rewards(wrong)) == ("mine", [None, None, None])
    assert (labels(wrong), labels(right)) == ([1.0, 0.0, None], [1.0, 1.0])


def test_soft_labels_of_a_judge_are_labels(tmp_path):
    row = {**WRONG, "labels": [0.75, 0.0, None]}
    folder = write_folder(tmp_path / "set", row, {**row, "labels": [0.5]}, RIGHT)
    source = Labelled(folder, rewards="labels")
    wrong, short, without = source.read()
    assert labels(wrong) == [0.75, 0.0, None]
    settled = supervise(wrong, "weight", "mask")
    assert [(s.label, s.weight) for s in settled.steps] == [(0.75, 1.0), (0.0, 1.0), (None, 0.0)]
    assert short.reason == "steps and labels differ in number"
    assert without.reason == "missing column"
    (view,) = [list(Labelled(write_folder(tmp_path / "one", row), "labels").rows())]
    assert view[0]["step_rewards"] == [0.5, -1.0, None]


def test_rows_and_training_view_are_those_of_the_guide(tmp_path):
    source = Labelled(write_folder(tmp_path / "f", WRONG, RIGHT), "SE")
    keys = ["question", "solution", "steps", "step_rewards", "is_correct", "ground_truth_answer"]
    wrong, right = source.rows()
    assert list(wrong) == keys
    assert right == {key: RIGHT[key] for key in keys} | {"step_rewards": [0.75, 1.0]}
    view = list(source.training_view())
    assert [row["target_text"] for row in view] == [
        *["CORRECT (+0.666667)", "INCORRECT (-0.833333)", "CORRECT (+0.75)", "CORRECT (+1)"]
    ]
    assert [row["reward_value"] for row in view[2:]] == [0.75, 1.0]
    assert view[3]["input_text"] == (
        "### Question:\n2 + 3 * 4?\n\n### Partial Solution:\n3 * 4 = 12\n2 + 12 = 14\n"
        "\n### Evaluate this step:\n"
    )
    assert [r["step_rewards"] for r in Labelled(source.folder, "verdicts").rows()] == [
        *[[1.0, -1.0, None], [1.0, 1.0]]
    ]


def test_the_training_view_is_what_a_model_reads(tokenizer):
    problem, steps = "2 + 3\n\n* 4?", ["3 * 4\r\n\n= 12", " 2 + 12 = 14 "]
    encoder = Encoder(tokenizer, "guide")
    read = encoder.last_path(encoder.encode(problem, steps)).input_ids
    assert tokenizer.decode(read) == guide_text(problem, steps)


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=5), st.booleans())
@settings(max_examples=40)
def test_stored_and_remade_rewards_are_the_same(tmp_path_factory, verdicts, correct):
    made = {"HE": he_rewards(verdicts, correct), "SE": se_rewards(verdicts)}
    steps = [f"step {k}" for k in range(len(verdicts))]
    row = {**WRONG, "steps": steps, "verdicts": verdicts, "is_correct": correct}
    for kind, stored in made.items():
        folder = tmp_path_factory.getbasetemp() / kind
        write_folder(folder, {**row, "step_rewards": stored}, dataset=f'{{"reward": "{kind}"}}')
        for asked in (None, "HE", "SE"):
            (solution,) = solutions(Labelled(str(folder), asked))
            assert rewards(solution) == made[asked or kind]


def test_a_folder_of_the_guides_rows_alone_is_read_as_it_is(tmp_path):
    keys = ("question", "steps", "step_rewards", "is_correct")
    folder = write_folder(tmp_path / "f", {key: WRONG[key] for key in keys})
    (solution,) = solutions(Labelled(folder))
    assert (solution.id, rewards(solution)) == ("f:0", [-1.0, -1.0, None])
    with pytest.raises(ValueError, match="no verdicts among question"):
        list(Labelled(folder, "SE").rows())
    for dataset in ("{", "[]", '{"reward": "XE"}', "\x00", "[" * 100_000):
        incomplete = write_folder(tmp_path / "i", WRONG, dataset=dataset)
        with pytest.raises(ValueError, match=r"dataset\.json.*run label again") as error:
            list(Labelled(incomplete).read())
        assert len(str(error.value).splitlines()) == 1
    (tmp_path / "f" / "dataset.json").unlink()
    for missing in (folder, folder + "/none"):
        with pytest.raises(FileNotFoundError, match="run label again"):
            list(Labelled(missing).rows())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"step_rewards": [-1.0]}, "steps and step_rewards differ in number"),
        ({"step_rewards": [-1.0, -1.0, 2]}, "reward outside [-1, 1]"),
        ({"step_rewards": [-1.0, float("nan"), None]}, "reward outside [-1, 1]"),
        ({"step_rewards": [1.0, -1.0, None]}, "rewards contradict verdicts"),
        ({"step_rewards": [-1.0, None, -1.0]}, "rewards contradict verdicts"),
        ({"is_correct": None}, "is_correct unknown"),
        ({"verdicts": ["correct"]}, "steps and verdicts differ in number"),
        ({"verdicts": ["correct", "bad", None]}, "verdict unknown"),
        ({"verdicts": ["correct", [], None]}, "verdict unknown"),
        ({"is_correct": "no"}, "is_correct is no flag"),
        ({"steps": ["a", "", "b"]}, "no steps"),
        ({"question": " "}, "no question"),
    ],
)
def test_a_bad_row_is_dropped_and_no_row_of_the_guide(tmp_path, changed, reason):
    source = Labelled(write_folder(tmp_path / "f", RIGHT, {**WRONG, **changed}))
    good, dropped = source.read()
    assert (rewards(good), dropped.reason) == ([1.0, 1.0], reason)
    assert isinstance(dropped, Dropped)
    with pytest.raises(ValueError, match=r"solutions\.jsonl:2: "):
        list(source.training_view())
