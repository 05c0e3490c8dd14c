"""How fast the labelling ledger is, against the test suite's server on loopback.

    python benchmarks/labelling.py --solutions 10000

For live requests and Message Batches: requests a second, overhead over the bare client, peak memory
at a tenth and at the full number of solutions, time to resume a finished journal, journal size. The
server runs in a process of its own, and each measurement in another.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FAKE = Path(__file__).parents[1] / "tests" / "fake_claude.py"
CONCURRENCY = 8


def write_solutions(file: Path, count: int) -> None:
    """Solutions of six steps with about 80 letters each, as models write them."""
    with file.open("w", encoding="utf-8") as stream:
        for i in range(count):
            steps = [f"Step {k}: {i} + {k} = {i + k}, ".ljust(80, "x") + "." for k in range(6)]
            row = {"question": f"What is {i} + 5?".ljust(200), "answer": str(i + 5), "steps": steps}
            stream.write(json.dumps(row) + "\n")


def measure_label(args: list[str]) -> None:
    """Run `label` in this process; print seconds and MiB at its peak."""
    from prm_lightning.labelling.label import main

    started = time.perf_counter()
    sys.stdout, out = sys.stderr, sys.stdout
    main(args)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}), file=out)


def measure_bare(count: int) -> None:
    """The same requests by the client alone, from as many threads; print seconds."""
    from prm_lightning.labelling.claude import connect
    from prm_lightning.labelling.prompts import judge_request, judge_settings
    from prm_lightning.types import JudgeRequest

    claude = connect(os.environ["ANTHROPIC_API_KEY"])
    settings = judge_settings("claude-sonnet-5-5", 3000, "medium", {"type": "between_tools"})
    steps = tuple("x" * 80 for _ in range(6))
    requests = [
        judge_request(settings, JudgeRequest(f"{i}".ljust(200), steps, "5")) for i in range(count)
    ]
    claude.ask(requests[0].params, "warm", 60.0)
    started = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda r: claude.ask(r.params, r.key, 60.0), requests))
    print(json.dumps({"seconds": time.perf_counter() - started}))


def child(*args: str) -> dict[str, float]:
    """What a measurement in a process of its own printed."""
    done = subprocess.run(
        [sys.executable, __file__, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def benchmark(count: int, folder: Path) -> None:
    """Print a table."""
    few = count // 10
    for size in (few, count):
        write_solutions(folder / f"{size}.jsonl", size)
    bare = child("--bare", str(few))["seconds"] / few
    print(f"bare client  {1 / bare:.0f} requests/s from {CONCURRENCY} threads")
    for mode in ("live", "batch"):
        found = {}
        for size in (few, count):
            line = ["--label", "--solutions", str(folder / f"{size}.jsonl"), "--mode", mode]
            line += ["--journal", str(folder / f"{mode}{size}"), "--concurrency", str(CONCURRENCY)]
            line += ["--budget", "100000", "--yes", "--longest_wait", "0.2"]
            found[size] = child(*line, "--out", str(folder / f"{mode}{size}.SE"))
        again = child(*line, "--out", str(folder / f"{mode}.HE"), "--reward", "HE")
        journal = sum(f.stat().st_size for f in (folder / f"{mode}{count}").iterdir())
        each = found[count]["seconds"] / count
        print(
            f"{mode:12} {1 / each:.0f} requests/s, {1000 * (each - bare):+.2f} ms each over the "
            f"bare client; peak {found[few]['peak_mib']:.0f} MiB with {few} solutions, "
            f"{found[count]['peak_mib']:.0f} MiB with {count}; resume {again['seconds']:.1f} s; "
            f"journal {journal / 2**20:.1f} MiB",
            flush=True,
        )


def main() -> None:
    """Run the whole benchmark, or one measurement of it."""
    if sys.argv[1:2] == ["--label"]:
        return measure_label(sys.argv[2:])
    if sys.argv[1:2] == ["--bare"]:
        return measure_bare(int(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solutions", type=int, default=10_000)
    count = parser.parse_args().solutions
    os.environ.update(NO_PROXY="127.0.0.1", ANTHROPIC_API_KEY="sk-ant-not-a-key")
    serve = [sys.executable, str(FAKE), "--port", "0"]
    with (
        subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            os.environ["ANTHROPIC_BASE_URL"] = server.stdout.readline().split()[-1]
            benchmark(count, Path(folder))
        finally:
            server.kill()
    return None


if __name__ == "__main__":
    main()
