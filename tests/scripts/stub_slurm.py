"""SLURM's commands on one machine, without daemons: ``stub_slurm.py PROGRAM ARGUMENTS``, in a folder that ``STUB_SLURM`` names.

``sbatch`` keeps its options and starts the script, ``srun`` a process for each task with SLURM's variables, ``squeue`` tells what
runs. Every node is this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["STUB_SLURM"])
NUMBER = (FOLDER / "number").read_text()


def sbatch(script: str) -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", Path(script).read_text(), flags=re.MULTILINE))
    (FOLDER / "sbatch.json").write_text(json.dumps(options))
    nodes, each = int(options.get("nodes", 1)), int(options.get("ntasks-per-node", 1))
    variables = {"JOB_ID": NUMBER, "JOBID": NUMBER, "JOB_NAME": options["job-name"], "NNODES": nodes, "NTASKS": nodes * each}
    variables |= {"NTASKS_PER_NODE": each, "JOB_NUM_NODES": nodes, "NODELIST": "127.0.0.1", "JOB_NODELIST": "127.0.0.1"}
    environment = {**os.environ, **{f"SLURM_{name}": str(value) for name, value in variables.items()}}
    with (FOLDER / "batch.log").open("w") as log:
        job = subprocess.Popen(["sh", script], env=environment, stdout=log, stderr=log, start_new_session=True)
    (FOLDER / "pid").write_text(str(job.pid))
    print(f"Submitted batch job {NUMBER}")


def srun(*arguments: str) -> None:
    (FOLDER / "srun.json").write_text(json.dumps(arguments))
    at = next(k for k, word in enumerate(arguments) if Path(word).name.startswith("python"))
    tasks, each = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    started = []
    for task in range(tasks):
        own = {"SLURM_PROCID": task, "SLURM_LOCALID": task % each, "SLURM_NODEID": task // each}
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        with (FOLDER / f"task{task}.log").open("w") as log:
            started.append(subprocess.Popen(arguments[at:], env=environment, stdout=log, stderr=log))
    sys.exit(max(task.wait() for task in started))


def squeue(*_: str) -> None:
    pid = (FOLDER / "pid").read_text() if (FOLDER / "pid").is_file() else "none"
    stat = Path("/proc", pid, "stat")
    if stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        print(NUMBER)


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "squeue": squeue}[sys.argv[1]](*sys.argv[2:])
