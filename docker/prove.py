"""Prove the image without a container engine: ``python3 docker/prove.py --root FOLDER`` (Debian or Ubuntu, as root).

A clean Debian root comes from debootstrap. The Dockerfile's own ARG, ENV, COPY, RUN, USER and WORKDIR steps are then taken in it,
one after another, with ``chroot`` in place of a container. Last, its ENTRYPOINT runs as its USER: ``list``, the first stage of
the demo, and the labelling page, which must answer over HTTP. Only the base image differs: Debian's Python in a virtual
environment stands in for ``python:3.12-slim``. What pip needs from this machine (wheels, certificates, settings) is shown to the
root with ``--with``. Standard library only.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1]
BASE = ("python3", "python3-venv", "ca-certificates", "passwd")
VENV = "/opt/python"
PORT = 8017
FIRST_STAGE = """python -c "
import yaml
study = yaml.safe_load(open('conf/experiment/demo.yaml'))
name = next(iter(study['stages']))
study = {'name': 'proof', 'stages': {name: study['stages'][name]}}
yaml.safe_dump(study, open('proof.yaml', 'w'))
" """


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile, lines joined: ("RUN", "pip install ...")."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        yield word.upper(), rest.strip()


def ignored(path: str, patterns: list[str]) -> bool:
    """Return True if ``.dockerignore`` leaves this file or folder out."""
    name = path.rsplit("/", 1)[-1]
    return any(fnmatch.fnmatch(name if each.startswith("**/") else path, each.removeprefix("**/")) for each in patterns)


class Root:
    """Root of a clean system, and what the steps so far have set.

    Attributes:
        env: environment of commands.
        user: who runs them.
        folder: where.
    """

    def __init__(self, place: Path, arguments: dict[str, str], keep: list[str]) -> None:
        self.place, self.arguments = place, arguments
        self.env = {"PATH": f"{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        self.env |= {name: os.environ[name] for name in keep if name in os.environ}
        self.user, self.folder, self.entry = "root", "/", [""]

    def command(self, line: str) -> list[str]:
        """Return the command that runs a shell line in this root, as the user and with the environment of now."""
        env = [f"{name}={value}" for name, value in self.env.items()]
        inside = f"cd {shlex.quote(self.folder)} && {line}"
        return ["chroot", f"--userspec={self.user}", str(self.place), "env", "-i", *env, "sh", "-c", inside]

    def run(self, line: str) -> None:
        print(f"[{self.user}] {line}", flush=True)
        subprocess.run(self.command(line), check=True)

    def copy(self, rest: str) -> None:
        """Take a COPY step with one source."""
        words = shlex.split(rest)
        owner = next((word.partition("=")[2] for word in words if word.startswith("--chown=")), None)
        source, target = (word for word in words if not word.startswith("--"))
        patterns = (CONTEXT / ".dockerignore").read_text().split()
        found, to = CONTEXT / source, self.place / target.lstrip("/")

        def leave(folder: str, names: list[str]) -> set[str]:
            inside = Path(folder).relative_to(CONTEXT)
            return {name for name in names if ignored((inside / name).as_posix(), patterns)}

        to.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, to, symlinks=True, ignore=leave, dirs_exist_ok=True)
        else:
            shutil.copy2(found, to)
        if owner:
            subprocess.run(["chroot", str(self.place), "chown", "-R", f"{owner}:{owner}", target], check=True)

    def login(self, user: str) -> tuple[str, str]:
        """Return name and home of a user, who is given by name or number."""
        for line in (self.place / "etc/passwd").read_text().splitlines():
            name, _, number, _, _, home, *_ = line.split(":")
            if user in (name, number):
                return name, home
        raise SystemExit(f"The Dockerfile runs as user {user!r}, whom the image does not have.")

    def take(self, word: str, rest: str) -> None:
        """Take one step of the Dockerfile."""
        if word == "RUN":
            self.run(rest)
        elif word == "COPY":
            self.copy(rest)
        elif word == "ENV":
            self.env |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif word == "ARG":
            name, _, default = rest.partition("=")
            self.env[name] = self.arguments.get(name, default.strip('"'))
        elif word == "USER":
            self.user, self.env["HOME"] = self.login(rest)
        elif word == "WORKDIR":
            self.folder = rest
        elif word == "ENTRYPOINT":
            self.entry = [part.strip(' "') for part in rest.strip("[]").split(",")]
        elif word not in ("FROM", "CMD"):
            raise SystemExit(f"docker/prove.py does not know the step {word}: teach it.")


def begin(place: Path, suite: str, mirror: Sequence[str]) -> None:
    """Make the clean system from a mirror of Debian, debootstrap's own if none is named, unless it is there and still clean."""
    if (place / "src").exists():
        raise SystemExit(f"The steps have been taken in {place} before: remove that folder, or name another with --root.")
    if not (place / "usr/bin/python3").exists():
        packages = ",".join(BASE)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(place), *mirror], check=True)
    shutil.copy2("/etc/resolv.conf", place / "etc/resolv.conf")


@contextmanager
def mounted(place: Path, extra: list[Path]) -> Iterator[None]:
    """Show the root /proc and the folders of ``extra``, and copy the files among them to their place."""
    mounts: list[tuple[list[str], Path]] = [(["-t", "proc", "proc"], place / "proc")]
    for path in extra:
        to = place / str(path.absolute()).lstrip("/")
        if path.is_dir():
            to.mkdir(parents=True, exist_ok=True)
            mounts.append((["-o", "bind,ro", str(path)], to))
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)
    done = []
    try:
        for what, to in mounts:
            subprocess.run(["mount", *what, str(to)], check=True)
            done.append(to)
        yield
    finally:
        for to in reversed(done):
            subprocess.run(["umount", str(to)], check=False)


def page(root: Root, command: str, seconds: int = 180) -> None:
    """Serve the labelling page of a run, and ask it for its first page."""
    line = f"exec {command} --port {PORT}"
    print(f"[{root.user}] {line}", flush=True)
    server = subprocess.Popen(root.command(line))
    try:
        for _ in range(seconds):
            time.sleep(1)
            if server.poll() is not None:
                raise SystemExit(f"the page ended with {server.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=10) as answer:
                    print(f"the page answers {answer.status}", flush=True)
                    return
            except urllib.error.HTTPError as error:  # without a person's link
                print(f"the page answers {error.code}", flush=True)
                return
            except OSError:
                continue
        raise SystemExit(f"the page does not answer within {seconds} s")
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Take the steps, then look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the clean system, which is made")
    parser.add_argument("--suite", default="bookworm", help="Debian release (default: %(default)s)")
    parser.add_argument("--mirror", nargs=1, default=[], metavar="URL", help="of Debian (default: debootstrap's own)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as of docker build")
    shown = "file or folder that the root sees, too"
    parser.add_argument("--with", dest="extra", action="append", default=[], type=Path, metavar="PATH", help=shown)
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="variable of this shell that commands see")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("docker/prove.py needs root, for debootstrap and chroot: sudo python3 docker/prove.py --root FOLDER.")
    place = options.root.resolve()
    begin(place, options.suite, options.mirror)
    root = Root(place, dict(each.split("=", 1) for each in options.build_arg), options.env)
    with mounted(place, options.extra):
        root.run(f"python3 -m venv {VENV}")
        for word, rest in steps((CONTEXT / "Dockerfile").read_text()):
            root.take(word, rest)
        program = " ".join(root.entry)
        root.run(f"{program} list")
        root.run(FIRST_STAGE)
        root.run(f"{program} run proof.yaml --seeds 0")
        page(root, f"{program} label runs/proof/reward/seed0")
    print("The image's steps, list, the demo's first stage and the labelling page: all well.")


if __name__ == "__main__":
    main()
