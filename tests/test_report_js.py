"""The report in a browser: it shows and filters solutions, and obeys none of their text."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest
from test_report import HOSTILE, LONG, row, write_evaluation, write_run

from prm_lightning.evaluation.report import write_report

pytestmark = pytest.mark.slow


class Browser:
    """Headless Chromium.

    Args:
        program: its path.
        profile: a folder for what it keeps.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--virtual-time-budget=5000", f"--user-data-dir={profile}", "--dump-dom",
        ]  # fmt: skip

    def open(self, page: Path, /, **hash: object) -> tuple[str, list[str]]:
        """The page's document as HTML once its script ran, and what the console says."""
        url = page.as_uri() + (f"#{urlencode(hash)}" if hash else "")
        done = subprocess.run([*self.command, url], capture_output=True, text=True, timeout=120)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Browser:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium; on Debian: apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    page = tmp_path_factory.mktemp("page") / "page.html"
    page.write_text("<title>a</title><script>document.title = 'b'; throw 1</script>")
    html, console = browser.open(page)
    if "<title>b</title>" not in html or not console:
        pytest.skip(f"{program} starts, but runs no page here")
    return browser


def shown(html: str) -> list[str]:
    """Ids of the solutions that a document shows."""
    return re.findall(r'<article class="solution"><h3[^>]*>(.*?)</h3>', html)


def add_script(page: Path, script: str) -> Path:
    """Let a script of ours run in a page, which allows no script but its own."""
    html = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    page.write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    return page


def test_the_browser_shows_and_filters_solutions(browser, tmp_path):
    page = write_report([str(write_run(tmp_path / "run"))])
    html, console = browser.open(page)
    assert console == []
    assert shown(html) == ["missed", "alarm", "found", "passed"]
    assert '<p id="status" role="status">4 of 4 solutions; flagged below 0.375</p>' in html
    assert "✗ labelled wrong" in html and "no label" in html and ">false alarm<" in html
    for hash, expected in (
        ({"filter": "misses"}, ["missed"]),
        ({"filter": "alarms"}, ["alarm"]),
        ({"filter": "wrong", "search": "BEHIND"}, ["found"]),
        ({"source": "shop", "search": "high", "filter": "right"}, ["passed"]),
        ({"filter": "nonsense", "page": "x", "set": 9}, ["missed", "alarm", "found", "passed"]),
    ):
        html, console = browser.open(page, **hash)
        assert (shown(html), console) == (expected, []), hash


def test_the_boxes_write_the_address(browser, tmp_path):
    page = write_report([str(write_run(tmp_path / "run"))])
    drive = (
        "const box = document.getElementById('filter'); box.value = 'misses';"
        "box.dispatchEvent(new Event('change', {bubbles: true}));"
        "addEventListener('hashchange', () => { document.title = location.hash })"
    )
    html, console = browser.open(add_script(page, drive))
    assert (shown(html), console) == (["missed"], [])
    assert "<title>#filter=misses</title>" in html


def test_a_phone_need_not_scroll_sideways(browser, tmp_path):
    rows = [row([LONG.replace(" ", ""), "x" * 300], [1.0, 0.0], [0.9, 0.8], id="y" * 200)]
    folders = [write_run(tmp_path / "run", rows), write_evaluation(tmp_path / "evaluation", rows)]
    page = write_report([str(folder) for folder in folders], tmp_path / "page.html")
    tell = (
        "const root = document.documentElement;"
        "parent.postMessage(`${innerWidth} wide, ${root.scrollWidth - root.clientWidth} over`, '*')"
    )
    add_script(page, tell)
    phone = tmp_path / "phone.html"  # no window of Chromium is as narrow
    phone.write_text(
        "<script>onmessage = (event) => { document.title = event.data }</script>"
        f"<iframe src='{page.name}' style='width: 390px; height: 800px; border: 0'></iframe>"
    )
    html, console = browser.open(phone)
    assert console == []
    assert "<title>390 wide, 0 over</title>" in html


def test_hostile_text_does_nothing_in_a_browser(browser, tmp_path):
    url = "http://127.0.0.1:9/"  # the console would say that it cannot be loaded
    texts = [*HOSTILE, LONG, f"<img src='{url}'><link rel=stylesheet href='{url}'>"]
    rows = [row([t], [0.0], [0.9], id=t, source=t, problem=t, first_error=0) for t in texts]
    page = write_report([str(write_run(tmp_path / "run", rows))])
    first, console = browser.open(page, filter="misses")
    second, more = browser.open(page, filter="misses", page=2)
    assert console == more == []
    html = first + second
    texts = [text for text in texts if "\ud800" not in text]  # whose row was left out
    assert "<title>run · prm_lightning report</title>" in html
    assert len(shown(html)) == len(texts)
    assert html.count("<script") == 4 and "<img" not in html
    for mark in ("U+202E", "U+2066", "U+0000"):  # shown, and not obeyed
        assert f'<span class="mark">{mark}</span>' in html
    assert re.findall(r'<div class="text [^"]*"([^>]*)>', html) == [' dir="auto"'] * 2 * len(texts)
    # Folded and all there, as problem and as step.
    folded = re.findall(rf'<div class="text[^"]* folded"[^>]*>{re.escape(LONG)}</div>', html)
    assert len(folded) == html.count("Show all 10,000 characters</button>") == 2


def test_thousands_of_solutions_are_shown_a_page_at_a_time(browser, tmp_path):
    rows = [row([f"step {i}"], [i % 2], [0.5], id=f"n{i}") for i in range(3000)]
    rows.append(row([f"s{k}" for k in range(200)], [1.0] * 200, [0.5] * 200, id="many steps"))
    page = write_report([str(write_run(tmp_path / "run", rows))])
    html, console = browser.open(page, page=2)
    assert shown(html) == [f"n{i}" for i in range(5, 10)] and console == []
    assert "page 2 of 601" in html
    html, _ = browser.open(page, page=999)
    assert shown(html) == ["many steps"]
    assert "Show the other 140 steps" in html


def test_a_cell_is_coloured_from_the_threshold_on_and_its_column_leads_to_the_solution(
    browser, tmp_path
):
    rows = [row(["s", "t"], [1.0, 0.0], [0.36, 0.4], id=f"n{i}") for i in range(12)]
    page = write_report([str(write_run(tmp_path / "run", rows))])
    add_script(page, "document.querySelectorAll('#grid button')[7].click()")
    html, console = browser.open(page)
    assert console == []
    assert shown(html) == [f"n{i}" for i in range(5, 10)]
    columns = re.findall(r"<button[^>]*aria-label[^>]*>.*?</button>", html)
    assert len(columns) == 12
    cells = re.findall(r'<span class="(\w+)" style="--amount: (\d+)%;">(.)</span>', columns[0])
    assert cells == [("low", "70", "·"), ("high", "70", "✗")]  # 0.375 is the threshold
    assert [i for i, column in enumerate(columns) if "aria-current" in column] == [7]
