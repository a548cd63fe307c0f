"""What is claimed about speed, and the command that shows it: ``python -m benchmarks``."""

import lightning_pbrl as lightning_pbrl  # before Lightning: what that imports and few processes need is put off
