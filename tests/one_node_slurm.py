"""A SLURM on this machine, for tests: own ports, sockets and folders, nothing of the system's is touched."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=1000 State=UNKNOWN\n"


def missing() -> list[str]:
    """Programs of SLURM and MUNGE that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


@contextmanager
def cluster(folder: Path, cpus: int = 2, nodes: int = 1) -> Iterator[dict[str, str]]:
    """Start the daemons in the foreground, wait for the nodes, and end them by their process ids.

    Yields:
        The environment that SLURM's commands need.
    """
    host = socket.gethostname().split(".")[0]
    names = [f"n{k}" for k in range(nodes)]
    ports = []
    for _ in ["controller", *names]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    for name in ("ctld", *names):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    each = [NODE.format(name=name, host=host, port=port, cpus=cpus) for name, port in zip(names, ports[1:], strict=True)]
    config.write_text(CONFIG.format(host=host, ports=ports, user=user, folder=folder) + "".join(each))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    own = ("munge.socket", "munge.pid", "munge.log", "munge.seed")
    munge = [f"--{flag}={folder / name}" for flag, name in zip(("socket", "pid-file", "log-file", "seed-file"), own, strict=True)]
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    commands = [["munged", "-F", "-f", f"--key-file={key}", *munge], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", name] for name in names]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            log = (folder / f"{command[0]}-{command[-1][:2]}.out").open("wb")
            with log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
            if command[0] == "munged":
                _until(lambda: (folder / "munge.socket").exists(), folder)
        _until(lambda: _answer(["sinfo", "--noheader", "--Node", "--format=%T"], environment).split() == ["idle"] * nodes, folder)
        yield environment
    finally:
        with suppress(OSError):
            _answer(["scancel", "--me"], environment)
        for daemon in reversed(daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait()


def _answer(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout


def _until(true: object, folder: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-800:]}" for path in folder.glob("*.out"))
            raise RuntimeError(f"SLURM has not started:\n{logs}")
        time.sleep(0.2)
