"""What a journal keeps; live requests and batches against a faulty server, never over budget."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from fake_claude import FakeClaude, clumsy, honest

from prm_lightning.labelling.ask import Asker, UnfinishedError
from prm_lightning.labelling.batches import ask
from prm_lightning.labelling.claude import connect, cost, load_prices
from prm_lightning.labelling.journal import Stage, open_journal
from prm_lightning.labelling.prompts import Answer, Request, judge_request, judge_settings
from prm_lightning.types import JudgeRequest

PRICES = load_prices()
SETTINGS = judge_settings("claude-sonnet-5-5", 3000, "medium", {"type": "between_tools"})


def requests(count):
    return lambda: (
        judge_request(SETTINGS, JudgeRequest(f"problem {i}", ("a", "b")[: 1 + i % 2], "2"))
        for i in range(count)
    )


@contextmanager
def asking(folder, fake, budget=50.0, **patience):
    settings = {"longest_wait": 0.03, "in_a_row": 25, "timeout": 1.0, "tries": 25, "chunk": 10}
    with open_journal(folder) as journal:
        client = lambda: connect("sk-ant-x", fake.url)  # noqa: E731
        yield Asker(client, journal, PRICES, budget, **settings | patience)


def billed(fake):
    return sum(cost(PRICES[model], usage, batch=batch) for model, usage, batch in fake.usages)


def outcomes(asker, firsts):
    found = [asker.outcome(request) for request in firsts()]
    assert None not in found
    return Counter(answer.outcome for answer in found)


def answered_twice(journal):
    return journal.table(
        "SELECT key FROM sends WHERE state = 'parsed' AND outcome <> 'unreadable' "
        "GROUP BY key HAVING COUNT(*) > 1"
    )


def test_useless_answers_are_asked_for_once_more_and_refusals_never(tmp_path):
    with FakeClaude(answer=clumsy) as fake, asking(tmp_path, fake) as asker:
        ask(asker, requests(60), "live")
        rows = asker.journal.table(
            "SELECT outcome, attempt, json_extract(json, '$.max_tokens'), COUNT(*) "
            "FROM sends JOIN requests USING (key) JOIN settings ON settings.id = settings "
            "GROUP BY 1, 2, 3"
        )
        by_first = Counter({outcome: n for outcome, attempt, _, n in rows if attempt == 1})
        assert set(by_first) == {"judged", "refusal", "malformed", "wrong_steps", "max_tokens"}
        seconds = sum(n for _, attempt, _, n in rows if attempt == 2)
        assert seconds == 60 - by_first["judged"] - by_first["refusal"]
        doubled = sum(n for _, attempt, most, n in rows if (attempt, most) == (2, 6000))
        assert doubled == by_first["max_tokens"]


@pytest.mark.parametrize("mode", ["live", "batch"])
@pytest.mark.parametrize("budget", [0.01, 0.06])
def test_the_budget_is_a_hard_cap_and_a_larger_one_continues(tmp_path, mode, budget):
    faults = ["cut after", None, "html", None, "cut after"]
    with FakeClaude(faults=faults) as fake:
        with asking(tmp_path, fake, budget) as asker:
            with pytest.raises(UnfinishedError, match=r"budget of \$0\.\d+ is reached"):
                for _ in range(3):  # again: a restart is no way around it
                    ask(asker, requests(60), mode)
            assert billed(fake) <= asker.journal.committed <= budget
        with asking(tmp_path, fake) as asker:
            ask(asker, requests(60), mode)
            assert outcomes(asker, requests(60)) == {"judged": 60}
            assert not answered_twice(asker.journal)


def test_a_lost_batch_is_found_and_not_submitted_again(tmp_path):
    with FakeClaude(batch_faults=["lost after", "lost after"]) as fake:
        with asking(tmp_path, fake) as asker:
            ask(asker, requests(20), "batch")
        assert len(fake.batches) == 2 and set(fake.asked.values()) == {1}


def test_a_batch_whose_creation_was_cut_off_by_a_kill_is_found(tmp_path):
    with FakeClaude(polls=1) as fake:
        with asking(tmp_path, fake) as asker:
            firsts = list(requests(5)())
            priced = [(request, 0.01) for request in firsts]
            asker.journal.intend_batch(priced, [])  # then the process died
            connect("sk-ant-x", fake.url).create_batch([(r.key[:40], r.params) for r in firsts])
        with asking(tmp_path, fake) as asker:
            ask(asker, requests(5), "batch")
            assert outcomes(asker, requests(5)) == {"judged": 5}
        assert len(fake.batches) == 1 and set(fake.asked.values()) == {1}


def test_somebody_elses_batch_of_the_same_size_is_not_taken_for_ours(tmp_path):
    with FakeClaude() as fake, asking(tmp_path, fake) as asker:
        priced = [(request, 0.01) for request in requests(5)()]
        asker.journal.intend_batch(priced, [])  # never created
        others = requests(10)
        theirs = list(others())[5:]
        connect("sk-ant-x", fake.url).create_batch([(r.key[:40], r.params) for r in theirs])
        ask(asker, requests(5), "batch")
        assert outcomes(asker, requests(5)) == {"judged": 5}
        assert all(asker.journal.answer(request.key) is None for request in theirs)


@pytest.mark.parametrize("fault", ["401", "spend limit", "400"])
def test_what_cannot_succeed_stops_the_run_at_once(tmp_path, fault):
    with FakeClaude(faults=[fault]) as fake, asking(tmp_path, fake) as asker:
        with pytest.raises(UnfinishedError, match="refuses to continue"):
            ask(asker, requests(30), "live")
        assert len(fake.headers) == 1
        ask(asker, requests(30), "live")  # mended
        assert outcomes(asker, requests(30)) == {"judged": 30}


def test_one_request_that_is_refused_as_malformed_does_not_stop_the_others(tmp_path):
    with FakeClaude(faults=[None, "400"]) as fake, asking(tmp_path, fake) as asker:
        ask(asker, requests(30), "live")
        assert outcomes(asker, requests(30)) == {"judged": 29, "rejected": 1}
        assert len(fake.headers) == 30


def test_failures_in_a_row_stop_the_run_and_are_not_outcomes(tmp_path):
    with FakeClaude(faults=["500"] * 40) as fake, asking(tmp_path, fake, in_a_row=5) as asker:
        with pytest.raises(UnfinishedError, match=r"in a row failed.*500"):
            ask(asker, requests(30), "live")
        assert 5 <= len(fake.headers) <= 13
        assert asker.journal.committed == pytest.approx(0, abs=1e-9)


def test_a_request_that_keeps_failing_is_left_for_another_run(tmp_path):
    def answer(body, key):
        if "problem 3" in body["messages"][0]["content"] and len(fake.usages) < 40:
            raise ConnectionError  # the server hangs up
        return honest(body, key)

    with FakeClaude(answer=answer) as fake, asking(tmp_path, fake, tries=3) as asker:
        with pytest.raises(UnfinishedError, match="1 requests have no answer after 3 tries"):
            ask(asker, requests(30), "live")
        fake.answer = honest
        ask(asker, requests(30), "live")
        assert outcomes(asker, requests(30)) == {"judged": 30}
        assert not answered_twice(asker.journal)


def test_waits_asked_for_are_capped_and_shared(tmp_path, caplog):
    server = FakeClaude(faults=[None, "429 wait"], retry_after="3600")
    with server as fake, asking(tmp_path, fake, longest_wait=0.2) as asker:
        ask(asker, requests(20), "live")
        assert outcomes(asker, requests(20)) == {"judged": 20}
    assert "asks to wait 3600 s" in caplog.text


def test_auto_sends_batches_only_where_they_are_worth_it(tmp_path):
    with FakeClaude() as fake, asking(tmp_path, fake, chunk=100) as asker:
        ask(asker, requests(20), "auto")
        assert not fake.batches
        ask(asker, requests(230), "auto")
        assert len(fake.batches) == 3
        ask(asker, requests(235), "auto")
        assert len(fake.batches) == 3
        assert outcomes(asker, requests(235)) == {"judged": 235}


def test_copies_are_asked_about_once_and_batches_cost_half(tmp_path):
    paid = {}
    for mode in ("live", "batch"):
        with FakeClaude() as fake, asking(tmp_path / mode, fake) as asker:
            ask(asker, lambda: itertools.chain(requests(31)(), requests(31)()), mode)
            assert set(fake.asked.values()) == {1} and len(fake.asked) == 31
            paid[mode] = asker.journal.paid
            assert (
                asker.journal.committed == pytest.approx(billed(fake)) == pytest.approx(paid[mode])
            )
    assert paid["batch"] == pytest.approx(paid["live"] * (1 + 30 * 0.5) / 31, rel=0.02)


# -- the journal -----------------------------------------------------------------------------

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
