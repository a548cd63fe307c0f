#!/bin/bash
# gymnasium 1.4.0: HalfCheetah-v5 is drawn as it was 10 ms before, not as it is observed.
#
# One would guess: the picture that render() gives after step() shows the joint angles that step() has returned.
# What happens: with the Euler integrator mj_step places bodies and geoms by the state before it and then moves the joints, and gymnasium
# does not place them again. What is drawn, and data.body(...).xpos, are one substep behind the observation: by centimetres. Tasks with the
# Runge-Kutta integrator (Hopper-v5, Walker2d-v5) hardly show it. After reset() both agree: the first frame is on time, the others are late.
# Whom it hurts: learning from pictures beside states, films compared with states that set_state has restored (it places everything anew),
# and whoever reads places of bodies beside the observation.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install --quiet 'gymnasium[mujoco]==1.4.0' mujoco==3.3.0 numpy==2.3.5
MUJOCO_GL=disabled env/bin/python -W ignore - <<'END'
from importlib.metadata import version

import gymnasium
import mujoco
import numpy as np

print({name: version(name) for name in ("gymnasium", "mujoco", "numpy")})
print("guess: each geom is where the observed joints place it")
print("seen, largest distance of a geom from there over 100 random steps, cm:")
late, lagged, reset = {}, {}, {}
for name in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"):
    env = gymnasium.make(name).unwrapped
    model, data, fresh, before = env.model, env.data, mujoco.MjData(env.model), mujoco.MjData(env.model)

    def apart(qpos):
        fresh.qpos[:] = qpos
        mujoco.mj_kinematics(model, fresh)
        return 100 * float(np.linalg.norm(data.geom_xpos - fresh.geom_xpos, axis=1).max())

    rng = np.random.default_rng(0)
    env.reset(seed=0)
    reset[name], late[name], lagged[name] = apart(data.qpos), 0.0, 0.0
    for _ in range(100):
        action = rng.uniform(-1, 1, env.action_space.shape) * env.action_space.high
        before.qpos[:], before.qvel[:] = data.qpos, data.qvel
        before.qacc_warmstart[:], before.ctrl[:] = data.qacc_warmstart, action
        mujoco.mj_step(model, before, nstep=env.frame_skip - 1)  # all substeps but the last
        env.step(action)
        late[name], lagged[name] = max(late[name], apart(data.qpos)), max(lagged[name], apart(before.qpos))
    integrator = mujoco.mjtIntegrator(model.opt.integrator).name
    print(f"  {name} ({integrator}, substeps of {1000 * model.opt.timestep:g} ms): {late[name]:.3f}, after reset {reset[name]:.3f};")
    print(f"    from where the joints before the last substep place it: {lagged[name]:.3f}")
cheetah = "HalfCheetah-v5"
same = late[cheetah] > 3 and lagged[cheetah] < 1e-6 and max(late["Hopper-v5"], late["Walker2d-v5"]) < 0.1 and max(reset.values()) < 1e-6
assert same, "the behaviour has changed"
END
