"""A PostgreSQL server for a measurement: in a temporary folder, by an unprivileged user, on a socket in that folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

UNPRIVILEGED = ("postgres", "nobody")
"""Users that may run the server when root starts it, which PostgreSQL refuses to be."""


def why_not() -> str | None:
    """Return a sentence on why no server can be started here; None if one can."""
    if not _programs():
        return "PostgreSQL is not installed: there is no /usr/lib/postgresql/*/bin/initdb, and no initdb on the path."
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "Python has no driver for PostgreSQL: pip install 'lightning-pbrl[postgresql]'."
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server with its durable default settings; give the URL of its database; stop it at the end."""
    programs = _programs()
    assert programs is not None, why_not()
    owner = _owner()
    as_owner: dict[str, str] = {} if owner is None else {"user": owner}
    folder = Path(tempfile.mkdtemp(prefix="pbrl-postgres-"))
    if owner is not None:
        shutil.chown(folder, owner)
    data = folder / "data"
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "labels", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_owner)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=100"]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [str(programs / "postgres"), "-D", str(data), *options], stdout=log, stderr=log, cwd=folder, **as_owner
        )
    try:
        url = f"postgresql+psycopg://labels@/postgres?host={folder}"
        _wait(url, server, folder / "log.txt")
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # ends the connections that are open
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """Return the folder of the server's programs; the newest version of Debian's."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb")
    return versions[-1].parent if versions else Path(found).parent if found else None


def _owner() -> str | None:
    """Return the user that runs the server; None for the present one."""
    if os.geteuid() != 0:
        return None
    known = {each.pw_name for each in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in known)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server takes connections."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    until = time.monotonic() + 60
    while True:
        try:
            with engine.connect():
                return
        except sa.exc.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"PostgreSQL does not start: {log.read_text()[-1000:]}") from None
            time.sleep(0.1)
