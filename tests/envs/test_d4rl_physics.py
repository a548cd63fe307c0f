"""D4RL's bodies and rewards on today's MuJoCo, against numbers of MuJoCo 2.0 and against recorded steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lightning_pbrl.configs import names, packaged_config, read_config
from lightning_pbrl.envs.d4rl_physics import VERSION_2, restore_bodies
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.gymnasium_robotics import GymnasiumRobotics
from lightning_pbrl.envs.pixels import Pixels
from lightning_pbrl.errors import UserError

CLIPS = Path(__file__).parents[2].parent / "shared/data/preferences"

# Masses as mujoco-py 2.0 prints them for Gym's version 2.
LIMBS = [3.92699082, 2.71433605]
MASSES = {
    "Hopper-v5": [3.53429174, *LIMBS, 5.08938010],
    "Walker2d-v5": [3.53429174, *LIMBS, 2.94053072, *LIMBS, 2.94053072],
    "HalfCheetah-v5": [6.36031332, 1.53524804, 1.58093995, 1.0691906, 1.42558747, 1.17885117, 0.84986945],
    "Ant-v5": [0.32724923, *[0.03647693, 0.03647693, 0.06491138] * 4],
}


def d4rl(env_id, **settings):
    """The task with D4RL's physics, and the same task as Gymnasium has it."""
    settings |= {"contact_forces": False} if env_id == "Ant-v5" else {}
    return GymMuJoCo(env_id, physics="d4rl", **settings), GymMuJoCo(env_id, **settings)


def cylinder(radius, length, density):
    """Mass, and inertia across and along the axis."""
    mass = density * math.pi * radius**2 * length
    return mass, mass * (3 * radius**2 + length**2) / 12, mass * radius**2 / 2


@pytest.mark.parametrize("env_id", VERSION_2)
def test_bodies_weigh_what_they_weighed_in_mujoco_2(env_id):
    old, new = (simulator.make().physics.model for simulator in d4rl(env_id))
    assert old.body_mass[1:] == pytest.approx(MASSES[env_id], abs=5e-9)
    ratio = new.body_mass[1:] / old.body_mass[1:]
    assert {
        "Hopper-v5": (1.0247, 1.0444),
        "Walker2d-v5": (1.0247, 1.0769),
        "HalfCheetah-v5": (0.9827, 1.0408),  # the total is 14 kg in both
        "Ant-v5": (1.0, 1.0735),
    }[env_id] == pytest.approx((ratio.min(), ratio.max()), abs=1e-4)
    assert old.body_subtreemass[0] == pytest.approx(old.body_mass.sum())
    assert np.array_equal(old.body_sameframe, new.body_sameframe) and np.array_equal(old.body_simple, new.body_simple)
    for name in ("geom_size", "geom_pos", "geom_type", "jnt_range", "dof_armature", "actuator_gear", "qpos0"):
        assert np.array_equal(getattr(old, name), getattr(new, name)), name


def test_inertias_are_those_of_longer_cylinders():
    mass, across, along = cylinder(0.06, 2 * 0.195 + 0.06, 1000.0)  # hopper's foot
    hopper = d4rl("Hopper-v5")[0].make().physics.model
    assert hopper.body("foot").mass == pytest.approx(mass)
    assert hopper.body("foot").inertia == pytest.approx([across, across, along])
    mass, across, along = cylinder(0.08, 0.4 * math.sqrt(2) + 0.08, 5.0)  # ant's shins, from one point to another
    ant = d4rl("Ant-v5")[0].make().physics.model
    assert ant.body_mass[4] == pytest.approx(mass)
    assert ant.body_inertia[4] == pytest.approx([across, across, along])
    assert ant.body_ipos[4] == pytest.approx([0.2, 0.2, 0.0])


def test_a_body_of_two_capsules():
    """HalfCheetah's torso and head: moments about the common centre of mass, one axis of which is the sideways one."""
    torso, head = cylinder(0.046, 1.0 + 0.046, 1.0), cylinder(0.046, 0.3 + 0.046, 1.0)
    model = d4rl("HalfCheetah-v5")[0].make().physics.model
    mass = torso[0] + head[0]
    centre = np.array([0.6, 0.0, 0.1]) * head[0] / mass
    apart = torso[0] * head[0] / mass * (0.6**2 + 0.1**2)  # of two masses about their centre, on the sideways axis
    scale = model.body("torso").mass[0] / mass  # 14 kg in all
    assert model.body("torso").ipos == pytest.approx(centre)
    sideways = scale * (torso[1] + head[1] + apart)
    assert np.abs(model.body("torso").inertia - sideways).min() == pytest.approx(0.0, abs=1e-12)
    assert model.body("torso").inertia.sum() == pytest.approx(scale * (2 * (torso[1] + head[1] + apart) + torso[2] + head[2]))


def test_constants_that_follow_from_masses_are_computed_anew(tmp_path):
    """The solver's too: a model whose file states these inertias has them all."""
    import mujoco

    xml = """<mujoco><worldbody><geom type="plane" size="1 1 1"/><body pos="0 0 1"><freejoint/>{}</body></worldbody></mujoco>"""
    path = tmp_path / "capsule.xml"
    path.write_text(xml.format('<geom type="capsule" size="0.1 0.3"/>'))
    model = mujoco.MjModel.from_xml_path(str(path))
    mass, across, along = cylinder(0.1, 0.7, 1000.0)
    stated = f'<inertial pos="0 0 0" mass="{mass}" diaginertia="{across} {across} {along}"/><geom type="capsule" size="0.1 0.3"/>'
    expected = mujoco.MjModel.from_xml_string(xml.format(stated))
    assert model.body_mass[1] != pytest.approx(mass, rel=1e-3)
    restore_bodies(model, str(path))
    for name in ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"):
        assert getattr(model, name) == pytest.approx(getattr(expected, name), rel=1e-12), name
    assert model.stat.meaninertia == pytest.approx(expected.stat.meaninertia)


def test_walkers_right_foot_has_less_friction():
    old, new = (simulator.make().physics.model for simulator in d4rl("Walker2d-v5"))
    assert [old.geom("foot_geom").friction[0], old.geom("foot_left_geom").friction[0]] == [0.9, 1.9]
    assert [new.geom("foot_geom").friction[0], new.geom("foot_left_geom").friction[0]] == [1.9, 1.9]


@pytest.mark.parametrize(("env_id", "height"), [("Hopper-v5", 0.6), ("Walker2d-v5", 0.7), ("Ant-v5", 1.5)])
def test_the_step_of_a_fall_pays_for_being_alive(env_id, height):
    """The reward is the sum of version 2's parts, and 1 more than in version 5."""
    rewards = {}
    for simulator in d4rl(env_id):
        env = simulator.make()
        for start in (None, height):
            env.reset(seed=0)
            body = env.physics.env
            if start is not None:
                qpos = body.data.qpos.copy()
                qpos[2 if env_id == "Ant-v5" else 1] = start
                body.set_state(qpos, body.data.qvel)
            action = np.full(simulator.action_dim, 0.5)
            before = position(body)
            _, reward, terminated, _, _ = env.step(action)
            cost = (0.5 if env_id == "Ant-v5" else 1e-3) * float(action @ action)
            rewards[simulator.physics, terminated] = reward - (position(body) - before) / body.dt + cost
    assert rewards == {
        ("d4rl", False): pytest.approx(1.0),
        ("d4rl", True): pytest.approx(1.0),
        ("gymnasium", False): pytest.approx(1.0),
        ("gymnasium", True): pytest.approx(0.0, abs=1e-9),
    }


def position(body):
    """Where version 2 measures the way covered: the ant's torso as of the last substep, else the root joint."""
    return float(body.data.body("torso").xpos[0] if body.model.nq == 15 else body.data.qpos[0])


def test_what_is_described_and_refused():
    simulator = GymMuJoCo("Hopper-v5", physics="d4rl")
    assert simulator.describe() == {"simulator": "GymMuJoCo", "env_id": "Hopper-v5", "horizon": 1000, "physics": "d4rl"}
    assert (simulator.d4rl_task, simulator.d4rl_physics, GymMuJoCo("Hopper-v5").d4rl_physics) == ("hopper", True, False)
    assert Pixels(simulator).d4rl_physics and not Pixels(GymMuJoCo("Hopper-v5")).d4rl_physics
    with pytest.raises(UserError, match=r"D4RL has no data of Reacher-v5: leave physics out \(Ant-v5, HalfCheetah-v5, Hopper"):
        GymMuJoCo("Reacher-v5", physics="d4rl")
    with pytest.raises(UserError, match="contact forces of D4RL's ant are zero: give contact_forces: false beside physics: d4rl"):
        GymMuJoCo("Ant-v5", physics="d4rl")
    with pytest.raises(UserError, match="GymMuJoCo got physics='D4RL': give one of its choices"):
        GymMuJoCo("Hopper-v5", physics="D4RL")


def test_what_is_judged_by_d4rls_score_has_d4rls_physics():
    rows = [name for name in names() if name.startswith(("data/d4rl/", "data/preferences/"))]
    simulators = [read_config(packaged_config(row))["data"]["init_args"]["simulator"] for row in rows]
    played = [each["init_args"] for each in simulators if each["class_path"] == "GymMuJoCo"]
    assert len(played) == 8  # four tasks of D4RL's data, four sets of answers
    assert all(GymMuJoCo(**settings).d4rl_physics for settings in played)


def test_antmazes_ant_has_d4rls_legs():
    pytest.importorskip("gymnasium_robotics")
    model = GymnasiumRobotics("antmaze-umaze").make().physics.model
    assert model.body_mass[model.body_mass > 0] == pytest.approx(MASSES["Ant-v5"], abs=5e-9)


def test_rounding_is_told_from_other_bodies(tmp_path):
    """Clips made here, kept in float32 as D4RL keeps them."""
    from benchmarks.d4rl_physics import one_step_errors, rounding_bound

    old, new = (simulator.make().physics.env for simulator in d4rl("Walker2d-v5"))
    action = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 1, 12, 6)).astype(np.float32).astype(float)
    obs = np.zeros((2, 1, 12, 17))
    for clip in range(2):
        obs[clip, 0, 0] = old.reset(seed=clip)[0]
        for step in range(11):
            obs[clip, 0, step + 1] = old.step(action[clip, 0, step].astype(np.float32) + np.float32(1) - np.float32(1))[0]
    obs = obs.astype(np.float32).astype(float)
    action[1, 0, 5, 2] = 0.999  # of a clipped action nobody knows what it was
    np.savez(tmp_path / "clips.npz", obs_1=obs[0], obs_2=obs[1], action_1=action[0], action_2=action[1])
    found = one_step_errors(old, tmp_path / "clips.npz")
    assert len(found.error) == 21
    assert (found.error <= rounding_bound(old, found.state, found.action)).all() and found.error.max() < 1e-5
    assert np.median(one_step_errors(new, tmp_path / "clips.npz").error) > 1e-2


@pytest.mark.parametrize(
    ("env_id", "folder", "median", "most"), [("Hopper-v5", "hopper", 2e-7, 1.5e-6), ("Walker2d-v5", "walker2d", 5e-7, 2e-5)]
)
def test_recorded_steps_are_repeated_to_their_rounding(env_id, folder, median, most):
    """Every twentieth step of the published clips, but those whose actions or velocities were clipped before they were stored."""
    path = CLIPS / f"{folder}-medium-expert-v2/num100_human_train.npz"
    if not path.is_file():
        pytest.skip("the published clips are not at hand")
    from benchmarks.d4rl_physics import one_step_errors, rounding_bound

    old, new = (simulator.make().physics.env for simulator in d4rl(env_id))
    found = one_step_errors(old, path, every=20)
    assert len(found.error) > 500
    assert np.median(found.error) < median and found.error.max() < most
    worst = np.argsort(found.error)[-10:]
    assert (found.error[worst] <= rounding_bound(old, found.state[worst], found.action[worst])).all()
    assert np.median(one_step_errors(new, path, every=200).error) > 5e-3
