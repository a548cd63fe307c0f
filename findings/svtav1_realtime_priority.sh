#!/usr/bin/env bash
# PyAV 15.1.0 (LeRobot 0.6.1) and 18.1.0: whoever encodes one AV1 film as root runs at the highest real-time priority afterwards.
#
# Guess:  encoding a film changes a file.
# Truth:  SVT-AV1, LeRobot's default encoder, raises the thread that opens it to SCHED_FIFO, priority 99, where it may (root, as in most
#         containers, or CAP_SYS_NICE), and leaves it there when the encoder is closed. Threads and processes that this thread starts
#         later inherit it: data loaders, simulators, a browser. The kernel lets nothing else run on a core before they wait.
# Hurt:   after the first recorded episode the rest of the process starves the robot's control loop, ssh and other jobs. Our own test run
#         stood still: its next tests started programs that way, and two cores had no time left for the process that they waited for.
# Cure:   after encoding, os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)) in the same thread; or encode in a process of its
#         own, or not as root; or with another encoder (libx264 changes nothing).
#
# Run by hand on Linux, as root; needs python3.11 and a package index. Takes half a minute. Exits 0 while the behaviour is as described.
set -eu
[ "$(id -u)" = 0 ] || { echo "run as root: another user may not raise its priority, and nothing is seen" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >finding.py <<'PY'
import os
import subprocess
import sys

import av
import numpy as np


def encode(codec: str) -> None:
    with av.open("film.mp4", "w") as film:
        stream = film.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in range(5):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")))
        film.mux(stream.encode())


def policy() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


ask = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
print("PyAV", av.__version__, "before:", policy())
encode("libx264")
after_x264 = policy()
encode("libsvtav1")
after_av1 = policy()
child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.split()
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
print("after libx264:", after_x264, "after libsvtav1:", after_av1, "a program started then:", child, "put back:", policy())
print("guess: (0, 0) everywhere; 1 is SCHED_FIFO")
if after_x264 != (0, 0) or after_av1 != (os.SCHED_FIFO, 99) or child != ["1", "99"]:
    sys.exit("changed: the priority is another")
PY
for version in 15.1.0 18.1.0; do
  python3.11 -m venv "venv-$version"
  "venv-$version/bin/pip" install -q "av==$version" numpy==2.2.6
  "venv-$version/bin/python" finding.py 2>errors || { tail -5 errors; exit 1; }
done
