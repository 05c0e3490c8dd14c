"""The client against a server that speaks the wire format, and what requests cost."""

from __future__ import annotations

import io
import logging
from datetime import date

import pytest
from fake_claude import FakeClaude
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.labelling.claude import (
    ApiError,
    Batch,
    connect,
    cost,
    load_prices,
    read_key,
    require_served,
    scrub,
    scrub_logs,
    worst_cost,
)

KEY = "sk-ant-api03-abcDEF_123-xyz"
PARAMS = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": '{"problem": "1 + 1?", "steps": []}'}],
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(*faults, timeout=5.0, **settings):
    with FakeClaude(faults=faults, **settings) as fake:
        return attempt(lambda: connect(KEY, fake.url).ask(PARAMS, "k1", timeout)), fake


def attempt(action):
    """What an action returns, or the error that it raises."""
    try:
        return action()
    except ApiError as error:
        return error


def test_an_answer_is_raw_bytes_and_the_request_is_as_documented():
    raw, fake = ask()
    assert b'"stop_reason": "end_turn"' in raw
    [headers] = fake.headers
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent["authorization"] == f"Bearer {KEY}"
    assert sent["idempotency-key"] == "k1"
    assert fake.bodies == [PARAMS]


@pytest.mark.parametrize(
    ("fault", "then", "billed", "status"),
    [
        ("429", "retry", False, 429),
        ("529", "retry", False, 529),
        ("500", "retry", False, 500),
        ("cut before", "retry", True, 0),
        ("cut after", "retry", True, 0),
        ("cut body", "retry", True, 0),
        ("400", "reject", False, 400),
        ("401", "stop", False, 401),
        ("spend limit", "stop", False, 429),
    ],
)
def test_what_a_failure_means(fault, then, billed, status):
    failure, fake = ask(fault)
    assert isinstance(failure, ApiError)
    assert (failure.then, failure.billed, failure.status) == (then, billed, status)
    assert KEY not in str(failure) and "\n" not in str(failure)
    assert len(fake.headers) == 1  # the SDK did not try again


def test_a_timeout_may_have_been_billed_and_an_unreachable_server_not():
    slow, _ = ask("slow", timeout=0.2)
    absent = attempt(lambda: connect(KEY, "http://127.0.0.1:9").ask(PARAMS, "k", 2.0))
    assert [(e.then, e.billed) for e in (slow, absent)] == [("retry", True), ("retry", False)]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("0.5", 0.5), ("3600", 3600), ("soon", None), ("-3", None), ("nan", None)],
)
def test_how_long_the_api_asks_to_wait(said, seconds):
    failure, _ = ask("429 wait", retry_after=said)
    assert failure.wait == seconds


def test_a_batch_is_created_watched_and_its_results_are_read():
    with FakeClaude(result_faults=["cut", None]) as fake:
        claude = connect(KEY, fake.url)
        batch = claude.create_batch([("a", PARAMS), ("b", PARAMS)])
        assert batch == Batch("msgbatch_000000", 2, False)
        assert claude.newest_batches() == [batch]
        ended = claude.batch(batch.name)
        assert ended.ended
        with pytest.raises(ApiError):
            list(claude.results(ended))  # cut off
        assert b"".join(line + b"\n" for line in claude.results(ended)) == fake.results(batch.name)
        with pytest.raises(ApiError, match="404") as gone:
            claude.batch("msgbatch_999999")
        assert (gone.value.then, gone.value.status) == ("stop", 404)


def test_the_key_is_sent_to_no_other_host():
    with FakeClaude(polls=0) as fake, FakeClaude() as other:
        claude = connect(KEY, fake.url)
        batch = claude.create_batch([("a", PARAMS)])
        fake.results(batch.name)
        url, fake.url = fake.url, other.url  # what results_url is made of
        with pytest.raises(ApiError, match=other.url.removeprefix("http://")):
            list(connect(KEY, url).results(batch))
        assert other.headers == []


def test_a_reply_that_is_no_answer_of_this_api_is_a_failure():
    with FakeClaude() as fake:
        claude = connect(KEY, fake.url)
        fake.described = lambda name: "<html>"
        with pytest.raises(ApiError, match="no answer of this API") as caught:
            claude.create_batch([("a", PARAMS)])
        assert caught.value.billed


@pytest.mark.parametrize("text", [KEY, f" {KEY}\n", f"{KEY}\r\n"])
def test_the_key_comes_from_the_environment_or_a_file_and_is_stripped(tmp_path, text):
    dotenv = tmp_path / ".env"
    assert read_key({"ANTHROPIC_API_KEY": text}, dotenv) == KEY
    dotenv.write_text(f"ANTHROPIC_API_KEY={KEY}\n")
    assert read_key({}, dotenv) == KEY


@pytest.mark.parametrize("text", ["", "  ", "sk-ant-", "sk-ant-a b", "sk-ant-ü", "sk-proj-abc"])
def test_a_key_of_another_shape_is_refused_without_being_shown(tmp_path, text):
    with pytest.raises(ValueError, match="ANTHROPIC_API_KEY") as caught:
        read_key({"ANTHROPIC_API_KEY": text}, tmp_path / ".env")
    assert not text.strip() or text.strip() not in str(caught.value).replace("sk-ant- and", "")


def test_no_log_record_shows_a_key_in_message_argument_or_traceback():
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("another.package")
    logger.addHandler(handler)
    try:
        scrub_logs()
        scrub_logs()
        logger.warning(f"Authorization: Bearer {KEY}")
        logger.warning("headers %s", {"authorization": f"Bearer {KEY}"})
        try:
            raise ValueError(f"Illegal header value b'Bearer {KEY}\\n'")
        except ValueError:
            logger.exception("failed")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert KEY not in stream.getvalue() and "abcDEF" not in stream.getvalue()
    assert stream.getvalue().count("sk-ant-***") == 3
    assert scrub(f"x {KEY}' y") == "x sk-ant-***' y"


PRICES = load_prices()
TODAY = date(2026, 11, 21)
TOKENS = st.integers(0, 150_000)


def usage(new=0, five=0, hour=0, read=0, out=0, **more):
    return {
        "input_tokens": new,
        "cache_creation_input_tokens": five + hour,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "cache_read_input_tokens": read,
        "output_tokens": out,
    } | more


@pytest.mark.parametrize(
    ("model", "used", "batch", "usd"),
    [
        # 350 * 2 + 350 * 10, per million
        ("claude-sonnet-5-5", usage(new=350, out=350), False, 0.0042),
        ("claude-sonnet-5-5", usage(new=350, out=350), True, 0.0021),
        # 1200 tokens of rubric written for an hour at 4, later read at 0.10
        ("claude-sonnet-5-5", usage(hour=1200), False, 0.0048),
        ("claude-sonnet-5-5", usage(five=1200), False, 0.0030),
        ("claude-sonnet-5-5", usage(read=1200), False, 0.00012),
        ("claude-sonnet-5-5", usage(new=350, out=350, inference_geo="us"), False, 0.00462),
        # above 100,000 prompt tokens, cached ones included, everything costs five times as much
        ("claude-haiku-5-5", usage(new=100_000), False, 0.01),
        ("claude-haiku-5-5", usage(new=60_000, read=40_001, out=1000), False,
         5 * (0.006 + 0.00040001 + 0.0005)),
        ("claude-opus-5-5", {"input_tokens": 10, "output_tokens": None}, False, 0.00004),
    ],
)  # fmt: skip
def test_what_an_answer_cost(model, used, batch, usd):
    assert cost(PRICES[model], used, batch=batch) == pytest.approx(usd, rel=1e-9)


@given(
    model=st.sampled_from(sorted(PRICES)), batch=st.booleans(), new=TOKENS, five=TOKENS,
    hour=TOKENS, read=TOKENS, out=st.integers(0, 4000),
    geography=st.sampled_from([None, "us", "global"]),
)  # fmt: skip
def test_no_answer_costs_more_than_the_worst(model, batch, new, five, hour, read, out, geography):
    used = usage(new, five, hour, read, out, inference_geo=geography)
    worst = worst_cost(PRICES[model], new + five + hour + read, 4000, batch=batch)
    assert cost(PRICES[model], used, batch=batch) <= worst


def test_a_model_without_a_price_and_a_retired_one_are_refused():
    require_served(PRICES, "claude-sonnet-5-5", TODAY)
    require_served(PRICES, "claude-sonnet-4-20250514", date(2026, 6, 15))
    with pytest.raises(ValueError, match=r"'claude-sonnet-9' has no price.*claude-haiku-5-5"):
        require_served(PRICES, "claude-sonnet-9", TODAY)
    with pytest.raises(ValueError, match=r"retired on 2026-06-15.*claude-sonnet-5-5"):
        require_served(PRICES, "claude-sonnet-4-20250514", TODAY)


def test_a_file_of_ones_own_overrides_and_adds(tmp_path):
    file = tmp_path / "prices.yaml"
    entry = "{input: 1, output: 2, write_5m: 3, write_1h: 4, read: 0.5}"
    file.write_text(f"batch_factor: 0.25\nmodels:\n  claude-new: {entry}\n")
    prices = load_prices(str(file))
    assert prices["claude-new"].batch_factor == 0.25
    assert prices["claude-haiku-5-5"] == PRICES["claude-haiku-5-5"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models:\n  m: {input: 1}\n", "'output', 'write_5m'"),
        ("models:\n  m: {input: free, output: 1, write_5m: 1, write_1h: 1, read: 1}\n", "'free'"),
        ("models:\n  m: {input: -1, output: 1, write_5m: 1, write_1h: 1, read: 1}\n", "-1"),
        ("models:\n  m: {inptu: 1}\n", "inptu"),
        ("prices: {}\n", "models"),
        ("models: [", "not YAML"),
    ],
)
def test_a_wrong_price_file_says_what_is_wrong(tmp_path, text, said):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_prices(str(file))
    assert "\n" not in str(caught.value)
