"""Films of simulations, drawn without the code under test, and where they can be drawn."""

from __future__ import annotations

import pytest

from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.errors import UserError


@pytest.fixture(scope="session")
def opengl():
    """Skip when this machine cannot render."""
    try:
        Camera(GymMuJoCo("Hopper-v5").make().physics, 16).close()
    except UserError as error:
        pytest.skip(str(error))
