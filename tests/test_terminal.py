"""What a person sees: progress, texts of others made safe to print, near names."""

from prm_lightning import terminal
from prm_lightning.terminal import Bar, did_you_mean, visible


def test_progress_in_a_pipe_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    with Bar("reading") as bar:
        bar.advance()
        bar.stage("scoring", 30)
        bar.advance(10)
        bar.show(20, note="loss 0.4")
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [
        "reading  1",
        "scoring  10 of 30",
        "scoring  loss 0.4  20 of 30",
    ]


def test_a_short_job_says_nothing(capsys):
    with Bar("scoring", 2) as bar:
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_terminal_escapes_in_texts_are_shown():
    assert visible("\x1b]0;title\x07 \x9b2J") == "\\x1b]0;title\\x07 \\x9b2J"
    assert visible("right to left \u202e, surrogate \ud800") == (
        "right to left \\u202e, surrogate \\ud800"
    )
    plain = "x² + ½\n\t二 👩\u200d🏫\u00a0%"
    assert visible(plain) == plain


def test_a_near_name_is_offered():
    assert did_you_mean("fti", ["fit", "test"]) == " Did you mean 'fit'?"
    assert did_you_mean("xyz", ["fit", "test"]) == ""
