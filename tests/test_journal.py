"""What a journal keeps, whatever happens to its process."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from prm_lightning.labelling.journal import Stage, open_journal
from prm_lightning.labelling.prompts import Answer, Request

REQUEST = Request("judge", '{"model":"m"}', "words", 2, "v1")


def parsed(request, batched, raw):
    return Answer("judged", raw.decode()), {"output_tokens": 1}, 0.25


@pytest.mark.parametrize(
    "change",
    [{"stage": "write"}, {"settings": '{"model":"n"}'}, {"user": "word"}, {"version": "v2"},
     {"sample": 2}, {"attempt": 2}],
)  # fmt: skip
def test_everything_that_tells_two_requests_apart_is_in_the_key(change):
    assert dataclasses.replace(REQUEST, **change).key != REQUEST.key
    assert dataclasses.replace(REQUEST).key == REQUEST.key


def test_a_request_goes_from_sent_to_received_to_parsed(tmp_path):
    lost = dataclasses.replace(REQUEST, user="others")
    with open_journal(tmp_path) as journal:
        send = journal.send(REQUEST, 1.0)
        journal.send(lost, 2.0)  # on its way when the process dies
        assert journal.is_open(REQUEST.key) and journal.is_open(lost.key)
        assert (journal.paid, journal.outstanding) == (0.0, 3.0)
        journal.receive([(send, b"raw")])
        assert journal.answer(REQUEST.key) is None
    with open_journal(tmp_path) as journal:  # killed before it could parse
        assert not journal.is_open(lost.key)  # so it is asked again
        assert (journal.paid, journal.outstanding) == (0.0, 3.0)
        assert journal.parse(parsed) == [(REQUEST, Answer("judged", "raw"))]
        assert journal.answer(REQUEST.key) == Answer("judged", "raw")
        assert (journal.paid, journal.outstanding) == (0.25, 2.0)  # that may have been billed
        assert journal.parse(parsed) == []


def test_failures_release_or_hold_the_worst_cost(tmp_path):
    with open_journal(tmp_path) as journal:
        first, second, third = (journal.send(REQUEST, usd) for usd in (1.0, 2.0, 4.0))
        journal.fail([first], "void", "429")
        assert journal.committed == 6.0
        journal.fail([second], "lost", "cut")
        assert journal.committed == 6.0
        journal.fail([third], "void", "400", "rejected")
        assert journal.committed == 2.0
        assert journal.answer(REQUEST.key) == Answer("rejected")
    with open_journal(tmp_path) as journal:
        assert journal.committed == 2.0


def test_an_answer_whose_cost_is_unknown_costs_its_worst(tmp_path):
    with open_journal(tmp_path) as journal:
        send = journal.send(REQUEST, 1.0)
        journal.receive([(send, b"<html>")])
        journal.parse(lambda request, batched, raw: (Answer("unreadable"), {}, None))
        assert journal.answer(REQUEST.key) is None
        assert (journal.paid, journal.outstanding) == (1.0, 0.0)


def test_a_batch_survives_its_process(tmp_path):
    with open_journal(tmp_path) as journal:
        batch = journal.intend_batch([(REQUEST, 1.0)], ["older"])
    with open_journal(tmp_path) as journal:
        [found] = journal.open_batches()
        assert (found.name, found.known, found.size) == (None, ["older"], 1)
        assert journal.is_open(REQUEST.key)  # in that batch, if it exists
        journal.name_batch(batch, "b1")
        journal.disown_batch(journal.open_batches()[0])
        assert journal.open_batches()[0].known == ["older", "b1"]
        journal.settle_batch(batch, "void", "never created")
        assert journal.committed == 0.0
        assert not journal.open_batches() and not journal.is_open(REQUEST.key)


def test_stored_lists_grow_page_by_page_and_are_kept(tmp_path):
    with open_journal(tmp_path) as journal:
        stored = Stage(journal, "solutions")
        stored.append(range(1200))
        stored.append([{"text": "a\u2028\x00\ud800"}])
        assert len(stored) == 1201 and not stored.is_finished
        assert list(stored)[:1200] == list(range(1200))
        assert list(stored)[-1] == {"text": "a\u2028\x00\ud800"}
        stored.finish({"dropped": 3})
    with open_journal(tmp_path) as journal:
        assert Stage(journal, "solutions").about == {"dropped": 3}
        assert len(Stage(journal, "others")) == 0


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from prm_lightning.labelling.journal import open_journal\n"
        "with open_journal(pathlib.Path(sys.argv[1])):\n"
        "    print('open', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "open\n"
    refused = pytest.raises(BlockingIOError, match=f"is being written by process {other.pid}")
    with refused, open_journal(tmp_path):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    other.stdout.close()
    started = time.monotonic()
    with open_journal(tmp_path):
        assert time.monotonic() - started < 5


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"something else entirely, long enough" * 9)
    with pytest.raises(ValueError, match="not a journal"), open_journal(tmp_path):
        pass
