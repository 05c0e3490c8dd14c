"""The completion script: a real bash is asked what it would complete."""

import shutil
import subprocess
import sys

import pytest

from prm_lightning.__main__ import VERBS, main

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p prm_lightning | sed -E 's/.*-F ([^ ]+).*/\\1/') 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    command = [sys.executable, "-m", "prm_lightning", "completion", "bash"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path = tmp_path_factory.mktemp("completion") / "prm_lightning.bash"
    path.write_text(text)
    return path


def completed(script, *words):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    asked = ["bash", "-c", ASK, "ask", str(script), "prm_lightning", *words]
    return set(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.slow
def test_verbs_options_and_choices_are_completed(script):
    assert completed(script, "") >= set(VERBS)
    assert completed(script, "sc") == {"score"}
    assert {"--model", "--steps", "--cache"} <= completed(script, "score", "--")
    assert "--data.tokens_per_batch" in completed(script, "fit", "--data.tok")
    assert completed(script, "search", "--method", "") == {
        "best_of_n", "weighted_majority", "beam", "dvts",
    }  # fmt: skip


def test_an_unknown_shell_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prm_lightning", "completion", "fish"])
    assert main() == 1
    assert "fish" in capsys.readouterr().err
