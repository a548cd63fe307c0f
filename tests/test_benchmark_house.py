"""The counts of benchmarks/house.py: on a small tree whose numbers are known, and on this one, where nothing may get worse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import house, house_round, house_source, house_speed
from benchmarks.readme import RESULTS

ROOT = Path(__file__).parents[1]

FILES = {
    "lightning_pbrl/__init__.py": "",
    "lightning_pbrl/engine/draws.py": '''
class Draw:
    """How to draw."""
''',
    "lightning_pbrl/methods/base.py": '''
import pytorch_lightning as pl
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from lightning_pbrl.methods.sac import SAC

class Checked:
    """Checks."""

class Acting(pl.LightningModule):
    """Whether it acts."""
    @property
    def env_steps(self): return 0

class Method(Checked, Acting):
    """A method."""
    def plan(self, number): return []
    def unused(self): return self.env_steps

class _Private(Method):
    """Where nobody looks."""
''',
    "lightning_pbrl/methods/sac.py": '''
import torch
from lightning_pbrl.methods import base
from lightning_pbrl.engine.draws import Draw

class Crops(Draw):
    """Crops."""

class SAC(base.Method):
    """Soft actor-critic."""
    def plan(self, number): return [self.learn]
    def learn(self, batch):
        if self.phase == "explore":
            return 0
        if self.opening and batch:
            return 1
        return self.first(batch) if "first" in batch else self.other(batch)
    def first(self, batch): return "key" in batch
    def other(self, batch): return batch["which"] if "which" in batch else self.env_steps
    def passes(self, updates, rng: torch.Generator): return []
    def crops(self, ids, rng: torch.Generator): return ids

''',
    "lightning_pbrl/methods/qpa.py": '''
from lightning_pbrl.methods.sac import SAC

class QPA(SAC):
    """Query-policy alignment."""
    def plan(self, number): return [*self.reward_model.plan(number), *super().plan(number)]
''',
    "lightning_pbrl/methods/reward_ensemble.py": '"""Old name."""\nclass RewardEnsemble:\n    """Old."""\n',
    "lightning_pbrl/rewards/ensemble.py": '''
class RewardEnsemble:
    """A reward ensemble."""
    def plan(self, number):
        from lightning_pbrl.methods.qpa import QPA
        return [QPA]
''',
    "callbacks/__init__.py": "",
    "callbacks/first.py": "from lightning_pbrl.callbacks.second import two\n",
    "callbacks/second.py": "def two():\n    from lightning_pbrl.callbacks import first\n    return first\n",
    "conf/model/qpa.yaml": "a: 1\nb: 2\n",
    "conf/model/README.md": "not counted\n",
    "tests/test_long.py": "\n" * 7,
    "benchmarks/short.py": "\n",
}


@pytest.fixture
def small(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "lightning_pbrl/callbacks").symlink_to("../callbacks")  # shows the same files again
    return tmp_path


def test_counts_of_a_tree_whose_numbers_are_known(small):
    seen = house.static(small)
    found = seen["found"]
    assert (seen["conf_files"], seen["conf_lines"], seen["longest_test"], seen["ask_teacher_lines"]) == (1, 2, 7, 0)
    assert (seen["longest_file"], found["longest_file"]) == (22, ["lightning_pbrl/methods/sac.py"])
    lines = sum(text.count("\n") for name, text in FILES.items() if name.split("/")[1] in ("methods", "rewards", "engine"))
    assert seen["learner_lines"] == lines
    assert found["depth"] == ["QPA > SAC > Method > Acting"]  # Checked is no LightningModule
    assert found["circles"] == [["lightning_pbrl.methods.base", "lightning_pbrl.methods.sac"]]
    assert ["lightning_pbrl.callbacks.first", "lightning_pbrl.callbacks.second"] in found["circles_in_functions"]
    assert [each.split(" ", 1)[1] for each in found["phase_tests"]] == [
        "self.phase == 'explore'",
        "self.opening and batch",
        "'first' in batch",
    ]
    assert [each.split(" ", 1)[1] for each in found["samplers"]] == ["passes", "Crops"]
    assert [each.split(" ", 1)[1] for each in found["other_draws"]] == ["crops"]
    assert [each.split(" ", 1)[1] for each in found["noun_clauses"]] == ["Draw", "Acting"]


def test_a_round_is_followed_from_plan_to_wherever_it_leads(small):
    assert house_round.files(house_source.Tree(small)) == {
        "lightning_pbrl/methods/base.py": ["env_steps"],
        "lightning_pbrl/methods/qpa.py": ["plan"],
        "lightning_pbrl/methods/sac.py": ["first", "learn", "other", "plan"],
        "lightning_pbrl/rewards/ensemble.py": ["plan"],  # not the old name in methods/
    }


def test_bounds_are_judged():
    rows = {row["key"]: row for row in house.rows({"learner_lines": 10}, {"learner_lines": 11, "samplers": 3, "speed_IQL": 0.98})}
    assert (rows["learner_lines"]["bound"], rows["learner_lines"]["holds"]) == (10, False)
    assert (rows["samplers"]["holds"], rows["speed_IQL"]["holds"], rows["speed_SAC"]["holds"]) == (True, True, None)
    assert house.cells(rows["speed_IQL"])[1:] == ["-", "0.98", "at least 0.97", "yes"]


def test_nothing_is_worse_than_it_was():
    before, now = json.loads((RESULTS / "house.json").read_text())["before"], house.static(ROOT)
    assert set(now) | {"store_reads", "old_answers", "aten"} >= set(before)
    bounded = [figure.key for figure in house.FIGURES if figure.bound is not None and figure.key in now]
    assert {key: now[key] for key in bounded if now[key] > before[key]} == {}
    assert [row for row in house.rows(before, now) if row["holds"] is False] == []


@pytest.mark.slow
def test_a_round_of_questions_is_measured_in_a_process_of_its_own():
    seen = house_speed.once(ROOT, "asking-50")
    assert len(seen["seconds"]) == len(seen["reads"]) == 6
    assert min(seen["seconds"]) > 0
    assert min(seen["reads"]) >= 0
