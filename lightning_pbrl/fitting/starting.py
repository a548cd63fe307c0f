"""Start of a fit: checks of what a method needs, and an engine with the first weights or with those of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from lightning_pbrl.compute import products
from lightning_pbrl.engine import Group, UpdateEngine
from lightning_pbrl.engine.program import cosine
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting import author_checks as checks
from lightning_pbrl.fitting import lightning_glue as glue
from lightning_pbrl.fitting.lightning_glue import plain


def check_data(method: Any) -> None:
    """Refuse to fit without data."""
    if method.source is None:
        name = type(method).__name__
        raise UserError(f"{name} needs data: give fit() a data module of lightning_pbrl.datamodules.")


def check_size(method: Any) -> None:
    """Raise a UserError if the data's observations have another size than the method's."""
    wanted, simulator = method.spec["obs_dim"], getattr(method.trainer.datamodule, "simulator", None)
    found = method.source.obs_dim if simulator is not None and simulator.pixels is None else method.source.shown_dim
    if len(method.source) and found != wanted:
        raise UserError(
            f"The model was built for observations of size {wanted}, the data have {found}; build it with spec=datamodule.spec."
        )


def check_needs(method: Any) -> None:
    """Raise a UserError that says what a method needs and how to give it, if the fit lacks it."""
    check_size(method)
    name, data = type(method).__name__, type(method.trainer.datamodule).__name__
    if method.pixels and not method.pictures:
        from lightning_pbrl.registry import classes  # knows the methods, so that it stands above them

        able = ", ".join(other for other, cls in classes("methods").items() if cls.pictures)  # type: ignore[attr-defined]
        raise UserError(
            f"{name} learns from states and the data show pictures: choose one that sees them ({able}), or set policy=states in "
            "the simulator Pixels, for a policy of states with a reward of pictures."
        )
    if method.reward_model is not None:
        method.reward_model.check_segments(method.trainer.datamodule.segment_length)
    if "env" in method.needs and method.collector is None:
        raise UserError(f"{name} acts while it learns and {data} has logged data only: use a config of conf/data/online.")
    if "examples" in method.needs and getattr(method.trainer.datamodule, "examples", None) is None:
        raise UserError(f"{name} learns from examples of success and {data} brings none: wrap it in ExamplesDataModule.")
    if "learned_reward" in method.needs and method.source.drawable_part(method.source.column("learned_reward")).isnan().all():
        raise UserError(
            f"{name} learns from a reward and the data have none yet: set relabel.reward to a reward model's "
            "checkpoint, or to true, zero, random or negated for a control."
        )


def start_engine(method: Any) -> None:
    """Build a method's engine, with initial weights or with those of the checkpoint that it goes on from.

    Raises:
        UserError: if a parameter has no group, or if a longer run would differ from one that long from the start.
    """
    parts, seeds = method.groups(), [method.seed + k for k in range(method.replicas)]
    checks.check_parts(method, parts)
    reduce, planned = glue.gradient_reducer(method.trainer), getattr(method, "updates", 0)
    how = method.compile_updates, method.layout, planned, reduce, method.precision
    engine = UpdateEngine(method, parts, method.programs(), seeds, *how)
    attach(method, engine, method.trainer.global_rank)
    stretched = [name for name, part in parts.items() if isinstance(part, Group) and isinstance(part.schedule, cosine)]
    if method.grown and stretched:
        raise UserError(
            f"The learning rate of {type(method).__name__}'s {', '.join(stretched)} falls to 0 over the run, so one that "
            f"was planned shorter cannot go on as a longer one: set {' and '.join(method.longer)} back, or start a new run "
            "in another folder (run_dir)."
        )
    if method._restored is None:
        init_replicas(method)
        return
    engine.load_state_dict(method._restored["engine"])
    products.restore(method._restored.get("products"))
    torch.set_rng_state(method._restored["torch_rng"].cpu())
    method.finished = method._restored["finished"] and not method.grown
    method.__dict__["_restored"] = None


def attach(method: Any, engine: UpdateEngine, rank: int = 0) -> None:
    """Let a method, and the reward model that it holds, be trained by this engine."""
    method.__dict__.update(engine=engine, running=engine)
    if method.reward_model is not None:
        method.reward_model.source = method.source
        method.reward_model.attach(engine, rank)


def init_replicas(method: Any) -> None:
    """Give replica k the initial weights of seed + k; raise a UserError if a buffer, which all share, depends on the seed."""
    first = _twin(method, method.seed) if method.replicas > 1 else method
    for replica in range(1, method.replicas):
        twin = _twin(method, method.seed + replica)
        checks.check_shared_buffers(method, first, twin)
        method.running.state.set_weights(replica, twin.state_dict())


def _twin(method: Any, seed: int) -> Any:
    """Build this method alone with another seed."""
    twin = type(method)(**{**plain(method.hparams), "seed": seed, "replicas": 1})
    twin.configure_model()
    return twin
