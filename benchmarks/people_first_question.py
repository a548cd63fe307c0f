"""Seconds from a fresh clone to a question that a person can answer: ``python -m benchmarks.people_first_question``.

Runs the commands of the README's section "Let people teach" in an empty folder, the installation apart. The last one prints the
link. Whoever has it opens it at once, and asks for the clips of the first question until both are there, as the page does.
"""

from __future__ import annotations

import argparse
import http.cookiejar
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

ROOT = Path(__file__).resolve().parents[1]
SECTION = "## Let people teach"
OURS = [sys.executable, "-m", "lightning_pbrl"]
PATIENCE = 900.0
"""Longest time for all commands, seconds."""


def commands() -> list[list[str]]:
    """Return the commands of the README's section, in its order, without those that install."""
    section = (ROOT / "README.md").read_text().split(SECTION, 1)[1].split("\n## ", 1)[0]
    code = re.search(r"```bash\n(.*?)```", section, re.S)
    assert code is not None, SECTION
    words = [shlex.split(line, comments=True) for line in code[1].replace("\\\n", " ").splitlines()]
    return [[*OURS, *line[1:]] for line in words if line and line[0] == "lightning-pbrl"]


def link_of(process: subprocess.Popen[str]) -> str:
    """Return the first personal link that a command prints."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http\S+/join/\S+", line):
            return found[0]
    raise RuntimeError(f"the command ended without a link (exit code {process.wait()})")


def until_playable(link: str, end: float) -> None:
    """Join by a link, and wait until both clips of the first question can be fetched."""
    address, token = link.split("/join/")
    visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    visitor.open(f"{address}/join", urllib.parse.urlencode({"token": token}).encode(), timeout=60).read()
    while time.monotonic() < end:
        questions = json.load(visitor.open(f"{address}/questions", timeout=60))["questions"]
        if questions and not questions[0]["waiting"]:
            clips = [visitor.open(address + clip["webm"], timeout=60).read() for clip in questions[0]["clips"]]
            assert len(clips) == 2 and all(clip.startswith(b"\x1aE\xdf\xa3") for clip in clips)  # the first bytes of WebM
            return
        time.sleep(0.1)
    raise TimeoutError(f"no question can be answered after {PATIENCE:g} s")


def measured(folder: Path) -> list[dict[str, Any]]:
    """Run the commands in an empty folder; return each with its seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    began = time.monotonic()
    *first, last = commands()
    rows: list[dict[str, Any]] = []

    def told(command: list[str], start: float, **more: float) -> None:
        rows.append({"command": shlex.join(command[3:]), "seconds": round(time.monotonic() - start, 1), **more})
        print(json.dumps(rows[-1]), flush=True)

    for command in first:
        start = time.monotonic()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        told(command, start)
    start = time.monotonic()
    process = subprocess.Popen(last, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        link = link_of(process)
        linked = time.monotonic()
        until_playable(link, began + PATIENCE)
        told(last, start, until_the_link=round(linked - start, 1))
    finally:
        process.terminate()
        process.wait(60)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder))
    spent = os.times()
    result = {"rows": rows, "seconds": round(sum(row["seconds"] for row in rows), 1)}
    result |= {"cpu_seconds": round(spent.children_user + spent.children_system, 1), "load": os.getloadavg()[1]}
    print(f"{result['seconds']} s, of the processors {result['cpu_seconds']} s; load {result['load']:.1f}")
    if chosen.out is not None:
        chosen.out.write_text(json.dumps({**result, "machine": machine()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
