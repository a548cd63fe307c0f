"""Stands for a fit: writes the evaluations that a formula gives, one every PBRL_TEST_EVERY seconds; goes on when started again.

The success rate is 1 - |log10(lr) + 3| / 2, less 0.1 for every seed above 0, and grows to that within ten evaluations. It fails
as long as the file PBRL_TEST_FAIL exists.
"""

import csv
import math
import os
import sys
import time
from pathlib import Path

import yaml

settings = yaml.safe_load(Path(sys.argv[-1]).read_text())
folder, seed = Path(settings["run_dir"]), settings["seed_everything"]
with (folder / "starts").open("a") as starts:
    starts.write(f"{os.getpid()}\n")
if os.path.exists(os.environ.get("PBRL_TEST_FAIL", "/nowhere")):
    sys.exit("no luck")
arguments = settings["model"]["init_args"]
best = 1 - abs(math.log10(arguments["lr"]) + 3) / 2 - 0.1 * seed
file = folder / "csv/version_0/metrics.csv"
file.parent.mkdir(parents=True, exist_ok=True)
done = max(0, len(file.read_text().splitlines()) - 1) // 2 if file.is_file() else 0
with file.open("a", newline="") as lines:
    writer = csv.writer(lines)
    if not done:
        writer.writerow(("step", "train/loss", "eval/success_rate"))
    for k in range(done + 1, arguments["updates"] + 1):
        time.sleep(float(os.environ.get("PBRL_TEST_EVERY", "0")))
        writer.writerow((k, 1, ""))
        writer.writerow((k, "", best * min(1, k / 10)))
        lines.flush()
