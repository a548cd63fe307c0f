"""The picture in the run folder."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from toys import ToyData, callbacks_for, make_trainer

from lightning_pbrl.callbacks import learning_curve as module
from lightning_pbrl.callbacks.learning_curve import LearningCurve
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.reports.metrics import read_metrics


@pytest.fixture
def drawn(monkeypatch):
    """What each drawing showed, panel by panel: axis name -> (x, y)."""
    seen = []
    save = Figure.savefig

    def spy(self, *args, **kwargs):
        lines = {axes.get_ylabel().split(" (")[0]: axes.lines[-1] for axes in self.axes}
        seen.append({name: (line.get_xdata().tolist(), line.get_ydata().tolist()) for name, line in lines.items()})
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def fit_policy(folder, updates, curve, **settings):
    data = ToyData()
    policy = BC(data.spec, updates=updates, eval_interval=10, block=5, hidden=(8,))
    trainer = make_trainer(folder, [curve])
    trainer.fit(policy, data, **settings)
    return trainer


def test_a_policy_is_drawn_after_every_evaluation(tmp_path, drawn):
    fit_policy(tmp_path / "bc" / "seed0", 30, LearningCurve(every_seconds=0))
    assert (tmp_path / "bc" / "seed0" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert [picture["success"][0] for picture in drawn] == [[10.0], [10.0, 20.0], [10.0, 20.0, 30.0]]
    seeds = ToyData().episode_seeds("validation", 4)
    assert drawn[-1]["success"][1] == pytest.approx([sum(seed % 2 for seed in seeds) / 4] * 3)
    assert drawn[-1]["return"][1] == pytest.approx([sum(3 * (seed % 97) for seed in seeds) / 4] * 3)


def test_short_rounds_wait_for_the_end(tmp_path, drawn):
    fit_policy(tmp_path, 30, LearningCurve(every_seconds=1e9))
    assert [picture["success"][0] for picture in drawn] == [[10.0, 20.0, 30.0]]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_is_drawn_from_its_start(tmp_path, drawn):
    fit_policy(tmp_path, 20, LearningCurve())
    last = tmp_path / "checkpoints" / "epoch=0.ckpt"
    fit_policy(tmp_path, 20, LearningCurve(), ckpt_path=last)
    assert (tmp_path / "csv" / "version_1").is_dir()
    assert drawn[-1]["success"][0] == [10.0, 20.0]


def test_a_reward_model_is_drawn_against_labels(tmp_path, drawn):
    data = ToyData()
    reward = RewardEnsemble(data.spec, hidden=(8,), epochs=2)
    make_trainer(tmp_path, [*callbacks_for(RewardEnsemble), LearningCurve()]).fit(reward, data)
    assert drawn[-1].keys() == {"accuracy", "Pearson correlation with true returns", "clear answers"}
    assert drawn[-1]["accuracy"][0] == [10.0, 20.0, 30.0]
    assert drawn[-1]["clear answers"][1][0] == 1.0  # this teacher skips nothing


def test_rows_of_finished_rounds_are_on_disk(tmp_path):
    """Lightning writes every hundredth row; a killed run would lose its evaluations."""
    seen = []

    class Look(LearningCurve):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            seen.append(read_metrics(tmp_path)["eval/return_mean"].step.tolist())

    fit_policy(tmp_path, 20, Look())
    assert seen == [[10.0], [10.0, 20.0]]


def test_without_csv_or_room_nothing_breaks(tmp_path, monkeypatch):
    data = ToyData()
    policy = BC(data.spec, updates=10, eval_interval=10, hidden=(8,))
    make_trainer(tmp_path / "quiet", [LearningCurve()], logger=False).fit(policy, data)
    assert not (tmp_path / "quiet" / "learning_curve.png").exists()

    def full(*args):
        raise module.UserError("learning_curve.png cannot be written (No space left on device): make room.")

    monkeypatch.setattr(module, "learning_curve", full)
    with pytest.warns(UserWarning, match="No space left"):
        trainer = fit_policy(tmp_path / "full", 10, LearningCurve())
    assert trainer.global_step == 10
