"""A checkpoint whose weights do not fit is refused with the settings that differ, whatever it is loaded for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.weights import check_fitting_weights
from lightning_pbrl.methods.bc import BC

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")


def method(**settings: Any) -> BC:
    return BC(SPEC, **{"updates": 4, "eval_interval": 2, "hidden": [8], "lr": 1e-3, **settings})


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the first of two rounds."""
    folder = tmp_path_factory.mktemp("first")
    make_trainer(folder, max_epochs=1).fit(method(), ToyData())
    return folder / "checkpoints" / "last.ckpt"


def test_a_fit_with_other_layers_does_not_go_on(last: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hidden=\[8\].*\[16\]"):
        make_trainer(tmp_path).fit(method(hidden=[16]), ToyData(), ckpt_path=last)


def test_other_layers_are_not_tested(last: Path, tmp_path: Path) -> None:
    """Other settings do not matter to a test, but are named beside."""
    make_trainer(tmp_path).test(method(lr=3e-4), ToyData(), ckpt_path=last, verbose=False)
    with pytest.raises(UserError) as refused:
        make_trainer(tmp_path).test(method(hidden=[16], lr=3e-4), ToyData(), ckpt_path=last, verbose=False)
    assert str(refused.value) == (
        "The checkpoint is of a BC with hidden=[8], lr=0.001, and this run has hidden=[16], lr=0.0003: set it back, or start "
        "another run folder."
    )


def test_weights_of_another_version() -> None:
    now = method()
    now.configure_model()
    weights = {f"{key}.old" if key.startswith("actor") else key: value for key, value in now.state_dict().items()}
    with pytest.raises(UserError, match=r"^The checkpoint does not fit this version's BC \(actor\.\S+ is absent there and \("):
        check_fitting_weights(now, {"state_dict": weights, "hyper_parameters": dict(now.hparams)})
