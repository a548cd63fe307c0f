#!/usr/bin/env bash
# dm_control 1.0.50 and mujoco 4.0.0: pip brings them together, and no task of the control suite loads.
#
# Guess:  dm_control asks for mujoco >= 3.17.0 and names no upper end; pip takes 4.0.0 and `pip check` is content, so they work together.
# Truth:  suite.load fails for all 51 tasks: dm_control reads every field that it knows of MjModel by name, and flex_vertedge is gone.
#         `from dm_control import suite` still works. With mujoco 3.17.0 all 51 load.
# Hurt:   every `pip install dm_control` without a pin, and whatever only tests that dm_control can be imported. (Earlier releases of
#         mujoco did the same with other fields: issues 430, 500 and 525 of dm_control.)
# Cure:   pin mujoco==3.17.0 beside it.
#
# Run by hand; needs Python 3.11 or 3.12 and a package index. Ends with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > load.py <<'PYTHON'
import sys
from collections import Counter
from importlib.metadata import version

from dm_control import suite

print(*(f"{name} {version(name)}" for name in ("dm_control", "mujoco", "numpy")), sep=", ")
ends = Counter()
for domain, task in suite.ALL_TASKS:
    try:
        suite.load(domain, task)
        ends["loads"] += 1
    except Exception as error:
        ends[f"{type(error).__name__}: {error}"] += 1
print(f"of {len(suite.ALL_TASKS)} tasks:", dict(ends))
same = len(ends) == 1 and (next(iter(ends)) == "loads") == (sys.argv[1] == "loads")
sys.exit(0 if same and len(suite.ALL_TASKS) == 51 else "The behaviour has changed.")
PYTHON
export MUJOCO_GL=disabled
for mujoco in 3.17.0 4.0.0; do  # an environment each: upgraded in place by pip 23.2.1, mujoco 4.0.0 lacked its own core and did not import
  python3 -m venv "venv-$mujoco"
  "venv-$mujoco/bin/pip" install --quiet dm_control==1.0.50 "mujoco==$mujoco" numpy==2.3.5
done
venv-3.17.0/bin/python -W ignore load.py loads
echo "guess: all 51 tasks load, as before"
venv-4.0.0/bin/pip check
venv-4.0.0/bin/python -W ignore load.py fails
