"""Online learning against plain PyTorch: the loop of acting and updating, and its expensive parts; one thread, side by side.

The loop is a real ``fit`` (Trainer, data module, replay, CSV logger) whose blocks take turns with blocks of the opponent.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any, NamedTuple

import pytorch_lightning as pl

from benchmarks.engine import trainer, transitions
from benchmarks.measure import Claim, Rounds, interleave, judge, per_unit, summary, without_onednn
from benchmarks.plain_sac import PlainLoop, PlainSAC, state_entropy
from benchmarks.plain_scoring import PlainEnsemble
from benchmarks.scoring import Size as EnsembleSize
from benchmarks.scoring import copy_weights, ensemble
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.methods.sac import SAC
from lightning_pbrl.nn.state_entropy import nearest_distance

BLOCK = 64
CLAIMS = [
    Claim("online loop (env step + SAC update, 256x2, b256) in the Trainer / plain loop", 1.3, "loop plain", "loop ours"),
    Claim("SAC update compiled, small (256x2, b256) / plain PyTorch", 1.4, "small plain", "small compiled"),
    Claim("SAC update compiled, large (1024x2, b1024) / plain PyTorch", 1.15, "large plain", "large compiled"),
    Claim("relabelling 1M stored rows, 3 members / all rows at once", 1.7, "relabel plain", "relabel ours"),
    Claim("state entropy, 512 states x 100k stored of size 39 / all differences", 20.0, "entropy plain", "entropy ours"),
    Claim("SAC update eager, small / plain PyTorch", None, "small plain", "small eager"),
    Claim("... compiled, small, without oneDNN / plain PyTorch", None, "small plain", "small compiled, default library"),
    Claim("... compiled, large, without oneDNN / plain PyTorch", None, "large plain", "large compiled, default library"),
]


class Size(NamedTuple):
    """How much is measured; the goals are stated for the default."""

    env_id: str = "HalfCheetah-v5"
    seed_steps: int = 1_000
    loop_blocks: int = 3  # per round
    small: tuple[int, tuple[int, ...], int, int] = (24, (256, 256), 256, 128)  # observations, hidden, batch, updates per round
    large: tuple[int, tuple[int, ...], int, int] = (24, (1024, 1024), 1024, 4)
    action_dim: int = 6
    replay_rows: int = 250_000
    relabel_rows: int = 1_000_000
    ensemble_hidden: tuple[int, ...] = (256, 256, 256)
    states: tuple[int, int] = (512, 39)  # compared at once, and their size (Meta-World)
    stored: int = 100_000
    rounds: int = 9
    slow_rounds: int = 3  # of relabelling and state entropy, whose opponents take ten seconds a turn
    compile: bool = True


QUICK = Size(
    env_id="InvertedPendulum-v5",
    seed_steps=64,
    loop_blocks=1,
    small=(7, (32, 32), 32, 4),
    large=(7, (48, 48), 64, 2),
    action_dim=3,
    replay_rows=600,
    relabel_rows=2_000,
    ensemble_hidden=(32, 32),
    states=(16, 5),
    stored=600,
    rounds=2,
    slow_rounds=2,
    compile=False,
)


def replay(rows: int, obs_dim: int, action_dim: int) -> Replay:
    """A full replay of random transitions."""
    source = transitions(rows, obs_dim, action_dim)
    table = Replay(len(source), 1, obs_dim, action_dim, horizon=500)
    table.packed[: len(source)] = source.packed
    table.steps = len(source)
    return table


def sac(obs_dim: int, action_dim: int, hidden: tuple[int, ...], batch_size: int, **settings: Any) -> SAC:
    """The method, built."""
    spec = {"obs_dim": obs_dim, "action_dim": action_dim, "horizon": 0}
    method = SAC(spec, hidden=hidden, batch_size=batch_size, **{"env_steps": 1_000_000, "block": BLOCK, **settings})
    method.configure_model()
    return method


def updates(source: Replay, hidden: tuple[int, ...], batch_size: int, compile: bool) -> UpdateEngine:  # noqa: A002
    """The bare engine on a stored replay."""
    method = sac(source.obs_dim, source.action_dim, hidden, batch_size)
    method.source = source
    return UpdateEngine(method, method.groups(), method.programs(), [0], compile)


def opponent(source: Replay, hidden: tuple[int, ...], batch_size: int) -> PlainSAC:
    """Plain SAC with the same rows in its replay."""
    plain = PlainSAC(source.obs_dim, source.action_dim, hidden, batch_size, source.size)
    for name, column in (("obs", "obs"), ("action", "action"), ("reward", "learned_reward"), ("next_obs", "next_obs")):
        plain.columns[name][:] = source.column(column)[: source.size].view(source.size, -1).numpy()
    plain.columns["alive"][:] = 1.0
    plain.size = source.size
    return plain


class TakeTurns(pl.Callback):
    """Before every block of updates, as many steps of the opponent; both in CPU seconds per env step.

    Ours counts from the end of the opponent's turn to the beginning of its next one: everything that Lightning does is in it.
    """

    def __init__(self, plain: PlainLoop, blocks: int) -> None:
        self.plain, self.blocks = plain, blocks
        self.turns: list[tuple[float, float]] = []
        self.began: float | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        now = time.process_time()
        if pl_module.rounds.name != "policy":
            return
        ours = None if self.began is None else (now - self.began) / BLOCK
        before = time.process_time()
        self.plain.run(BLOCK)
        self.began = time.process_time()
        self.turns.append(((self.began - before) / BLOCK, float("nan")))
        if ours is not None:
            self.turns[-2] = (self.turns[-2][0], ours)

    def rounds(self) -> Rounds:
        """Means over the blocks of a round; the first two blocks (compiling, warming up) and the unfinished last are left out."""
        turns = self.turns[2:-1]
        parts = [turns[at : at + self.blocks] for at in range(0, len(turns) - self.blocks + 1, self.blocks)]
        both = [[sum(turn[who] for turn in part) / len(part) for part in parts] for who in (0, 1)]
        return {"loop plain": both[0], "loop ours": both[1]}


def loop(size: Size) -> Rounds:
    """Both online loops in one fit."""
    data = OnlineDataModule(GymMuJoCo(size.env_id), eval_episodes=0, segment_length=1)
    spec, (_, hidden, batch_size, _) = data.spec, size.small
    steps = (size.rounds * size.loop_blocks + 3) * BLOCK
    total = size.seed_steps + steps
    method = sac(
        spec["obs_dim"],
        spec["action_dim"],
        hidden,
        batch_size,
        env_steps=total,
        seed_steps=size.seed_steps,
        round_steps=steps,
        compile=size.compile,
    )
    env = GymMuJoCo(size.env_id).make()
    plain = PlainLoop(env, PlainSAC(spec["obs_dim"], spec["action_dim"], hidden, batch_size, total))
    for _ in range(size.seed_steps):
        plain.step(random=True)
    turns = TakeTurns(plain, size.loop_blocks)
    with tempfile.TemporaryDirectory() as folder:
        trainer(folder, -1, turns).fit(method, data)
    env.close()
    return turns.rounds()


def parts(size: Size) -> Rounds:
    """Updates at both sizes."""
    contestants = {}
    for name, (obs_dim, hidden, batch_size, count) in (("small", size.small), ("large", size.large)):
        source = replay(size.replay_rows, obs_dim, size.action_dim)
        plain = opponent(source, hidden, batch_size)
        compiled = updates(source, hidden, batch_size, size.compile)
        run = per_unit(lambda engine=compiled, n=count: engine.run("policy", n), count)
        contestants |= {
            f"{name} plain": per_unit(lambda plain=plain, n=count: plain.run(n), count),
            f"{name} compiled": run,
            f"{name} compiled, default library": without_onednn(run),
        }
        if name == "small":
            eager = updates(source, hidden, batch_size, compile=False)
            contestants["small eager"] = per_unit(lambda engine=eager, n=count: engine.run("policy", n), count)
    return interleave(contestants, size.rounds)


def slow(size: Size) -> Rounds:
    """Relabelling and state entropy."""
    obs_dim = size.small[0]
    source = replay(size.relabel_rows, obs_dim, size.action_dim)
    members = ensemble(source, EnsembleSize(hidden=size.ensemble_hidden))
    plain = PlainEnsemble(source.features()[: source.size].contiguous().numpy(), 3, size.ensemble_hidden)
    copy_weights(members, plain)
    count, width = size.states
    stored = replay(size.stored, width, size.action_dim).column("obs")
    states, copied = stored[:count].clone(), stored.numpy().copy()
    return interleave(
        {
            "relabel plain": per_unit(plain.relabel, source.size),
            "relabel ours": per_unit(lambda: source.relabel(members), source.size),
            "entropy plain": per_unit(lambda: state_entropy(states, copied, 5), count),
            "entropy ours": per_unit(lambda: nearest_distance(states, [stored], 5), count),
        },
        size.slow_rounds,
    )


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    seen = {**loop(size), **parts(size), **slow(size)}
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per env step with its update (loop), update (small, large), row (relabel), state (entropy)",
        "claims": [judge(claim, seen) for claim in CLAIMS],
        "seconds": summary(seen),
    }
