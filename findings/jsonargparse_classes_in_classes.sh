#!/usr/bin/env bash
# jsonargparse 4.53.0 (the parser of LightningCLI): every further level of classes within classes makes parsing 2.3 times as long.
#
# Guess:  the time to parse a config is proportional to its size: eight classes, each an argument of the one before, take twice as
#         long as four.
# Truth:  0.02 s for two levels below the first class, 0.1 s for four, 0.5 s for six, 2.5 s for eight: each class is checked
#         more than twice as often as the one around it. The value of the innermost argument is converted once, as one would expect.
# Hurt:   whoever composes an experiment of classes by config (a data module of a data set of a simulator of behaviours): half a
#         second at the start of every run and every trial of a sweep, for files of twenty lines.
# Cure:   at most three or four levels; arguments of plain types below them.
#
# Run by hand; needs python3.11, 3.12 or 3.13 and a package index. Exits 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q "jsonargparse[signatures]==4.53.0" pyyaml==6.0.3
cat > levels.py <<'PYTHON'
import sys
import time
from importlib.metadata import version

import yaml
from jsonargparse import ArgumentParser


class Part:
    pass


class Last(Part):
    def __init__(self, size: int = 1):
        self.size = size


class Around(Part):
    def __init__(self, part: Part):
        self.part = part


def config(levels):
    if not levels:
        return {"class_path": "__main__.Last", "init_args": {"size": 2}}
    return {"class_path": "__main__.Around", "init_args": {"part": config(levels - 1)}}


def seconds(levels):
    """CPU seconds, the least of three, to parse a file with this many classes around the last."""
    with open("config.yaml", "w") as file:
        yaml.safe_dump({"whole": config(levels)}, file)
    found = []
    for _ in range(3):
        parser = ArgumentParser()
        parser.add_argument("--config", action="config")
        parser.add_subclass_arguments(Part, "whole")
        began = time.process_time()
        parsed = parser.parse_args(["--config", "config.yaml"])
        found.append(time.process_time() - began)
    whole, depth = parser.instantiate_classes(parsed).whole, 0
    while isinstance(whole, Around):
        whole, depth = whole.part, depth + 1
    assert depth == levels and whole.size == 2
    return min(found)


print(f"jsonargparse {version('jsonargparse')}, python {sys.version.split()[0]}")
took = {levels: seconds(levels) for levels in (2, 4, 6, 8)}
for levels, each in took.items():
    print(f"{levels} levels: {each:.3f} CPU seconds")
print(f"eight levels for four: {took[8] / took[4]:.1f} times as long; guess: 2")
if took[8] < 8 * took[4]:
    sys.exit("changed: parsing no longer grows by a factor with every level")
PYTHON
venv/bin/python -W ignore levels.py
