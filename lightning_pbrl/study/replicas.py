"""Train the seeds of a stage inside one process, where its method can: ``run --replicas``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_pbrl import registry
from lightning_pbrl.study.plan import Trial


def in_process(trials: Sequence[Trial], replicas: int) -> None:
    """Give stages whose method trains replicas in one process a single job; the rest keep a process per seed, and say so.

    Args:
        trials: of consecutive seeds; their jobs are changed.
        replicas: how many seeds.
    """
    from lightning_pbrl.methods.base import Method

    registry.import_all()
    jobs = [job for trial in trials for job in trial.jobs]
    registry.import_named(name for job in jobs for name in job.own.get("imports", []))
    needed = {other.stage for job in jobs for other in job.after}
    for trial in trials:
        first = trial.point.seed == trials[0].point.seed
        for job in list(trial.jobs):
            name = (job.settings.get("model") or {}).get("class_path")
            method = Method.registry.get(name.rsplit(".", 1)[-1]) if isinstance(name, str) else None
            shares = method is not None and method.population
            if not shares or job.after or job.stage in needed:
                links = f"{'waits for' if job.after else 'is needed by'} another stage's seed"
                why = links if shares else "asks or acts while it trains"
                if first:
                    print(f"{job.stage}: runs its seeds as processes, because it {why}.", file=sys.stderr)
            elif first:
                model = dict(job.own.get("model", {}))
                model["init_args"] = {**model.get("init_args", {}), "replicas": replicas}
                job.own = {**job.own, "model": model}
            else:
                trial.jobs.remove(job)
