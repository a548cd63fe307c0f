"""``python -m lightning_pbrl`` whose server of forked jobs imports PyTorch alone: for tests that look at its processes only."""

import sys
from types import SimpleNamespace

from lightning_pbrl import fork_server, registry
from lightning_pbrl.cli import program

if sys.argv[1:2] == [fork_server.WORD]:
    packages, registry.PACKAGES = registry.PACKAGES, {}
    fork_server._rehearse = lambda: None
    sys.modules["lightning_pbrl.trainer"] = SimpleNamespace(prepare=lambda: None)
    fork_server.serve(int(sys.argv[2]))
    registry.PACKAGES = packages
    del sys.modules["lightning_pbrl.trainer"]
program()
