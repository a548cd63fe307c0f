"""The file formats that are mutated: a small sound file of each, its reader, and what the file says by itself.

``read`` is the library's reader. ``stored`` lists the numbers of a file as they lie in it, so that two files can be compared:
equal names, shapes and kinds, and some numbers changed, or something else.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks import mutation_data as data
from benchmarks import mutation_folders as others
from benchmarks import mutation_kinds as kinds
from benchmarks.mutation_data import Arrays
from lightning_pbrl.data import archive, jsonl
from lightning_pbrl.data.d3rlpy import read_d3rlpy
from lightning_pbrl.data.d4rl import read_d4rl
from lightning_pbrl.data.examples import load_examples
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Query
from lightning_pbrl.data.imitation_preferences import read_imitation_preferences
from lightning_pbrl.data.lire_human import read_answers, read_human_data, read_list
from lightning_pbrl.data.ogbench import read_ogbench
from lightning_pbrl.data.preference_npz import read_preference_npz
from lightning_pbrl.data.robomimic import read_robomimic
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions


class Format(NamedTuple):
    """A format.

    Attributes:
        name: in the table.
        file: name of the file that is mutated.
        write: makes a sound file at this path.
        read: the reader; its result is compared through :func:`flat`.
        stored: the numbers of the file by name; None: the file is text that people write, and any sound text may be accepted.
        structure: mutations of the structure.
        share: how many of 1,000 files.
        needs: a package that is not among the library's own.
        lines: each line is a record by itself, so that a file cut between two lines is a sound shorter one.
    """

    name: str
    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    stored: Callable[[Path], Arrays] | None
    structure: list[kinds.Mutation]
    share: int
    needs: str | None = None
    lines: bool = False


def flat(value: Any, name: str = "") -> dict[str, np.ndarray]:
    """Arrays of a reader's result by name."""
    if isinstance(value, Transitions):
        parts = {"rows": value.packed, "offsets": value.episodes.offsets, "reward": value.reward, "success": value.success}
        return flat({**parts, "drawable": value.drawable}, name)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: array for part in value for key, array in flat(value[part], f"{name}/{part}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    if isinstance(value, torch.Tensor):
        return {name: value.numpy()}
    return {name: np.asarray(value, dtype=None if isinstance(value, np.ndarray | np.generic | int | float) else object)}


# -- answers -----------------------------------------------------------------------------------------------------------------


def _write_answers(path: Path) -> None:
    rng = random.Random(0)
    path.write_text("".join(f"{rng.randrange(2000)} {rng.randrange(2000)} {rng.choice((1, 2, 3))}\n\n" for _ in range(30)))


def _write_list(path: Path) -> None:
    path.write_text("".join(f"{rank} [{rank * 700}, {rank * 700 + 25}]\n" for rank in range(12)))


def _numbers(path: Path) -> Arrays:
    """All numbers of a text, in order."""
    return {"numbers": np.array([int(word) for word in re.findall(r"-?[0-9]+", path.read_text())])}


def _make_store(path: Path) -> LabelStore:
    path.unlink(missing_ok=True)
    store, rng = LabelStore(path, "data-a"), torch.Generator().manual_seed(0)
    who = {"teacher": {"class": "SimulatedTeacher", "eps": 0.1}, "seed": 0, "answered_by": "simulated"}
    for number in range(3):
        clips = Clips(*(torch.randn(4, 2, 5, *rest, generator=rng) for rest in ((3,), (2,), ())))
        query = Query("pair", torch.randperm(40, generator=rng)[:8].view(4, 2), 5)
        answer = Answer(torch.tensor([0.0, 1.0, 0.5, float("nan")]), torch.tensor([1, 1, 2, 3]))
        store.put(AskKey("run", number, 4 * number), query, answer, strategy={"class": "U", "notes": {}}, clips=clips, **who)
    ratings = Query("rating", torch.arange(3)[:, None], 5)
    store.put(AskKey("run", 3, 12), ratings, Answer(torch.rand(3), torch.ones(3, dtype=torch.long)), strategy={}, **who)
    return store


def _read_store(path: Path) -> dict[str, Any]:
    """Everything that a run asks of its store."""
    store = LabelStore(path, "data-a")
    store.export_jsonl(path.with_suffix(".out"))
    return {
        "records": _records([json.loads(line) for line in path.with_suffix(".out").read_text().splitlines()]),
        "labels": [store.labels("pair", 5), store.labels("rating", 5)],
        "questions": list(store.questions("run")),
        "asked": [store.spent("run"), store.count, store.notes("run"), store.origin("run", 1)],
        "stored": list(store.stored("run", 1)),
        "clips": store.clips(range(12), "run"),
    }


def _records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records whose descriptions of strategy and teacher are one value each."""
    return [{key: json.dumps(cell) if isinstance(cell, dict) else cell for key, cell in row.items()} for row in rows]


def _store_cells(path: Path) -> Arrays:
    """What is accepted, its records in the order of the table: a changed cell may move its record elsewhere."""
    content = _read_store(path)
    with closing(sqlite3.connect(path)) as db:
        names = db.execute("SELECT run, round, number FROM pbrl_questions ORDER BY rowid").fetchall()
    place = {name: at for at, name in enumerate(names)}
    records = sorted(content["records"], key=lambda row: place[row["run"], row["round"], row["number"]])
    return flat({"records": records, "clips": content["clips"]})


# -- runs --------------------------------------------------------------------------------------------------------------------


def _write_checkpoint(path: Path, schema: int = 2) -> None:
    from lightning_pbrl.methods.bc import BC

    spec = {"obs_dim": 3, "action_dim": 2, "horizon": 3}
    method = BC(spec, updates=20, eval_interval=10, hidden=(4,), batch_size=8)
    method.configure_model()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    saved: dict[str, Any] = {"method": "BC", "finished": False, "updates": 20}
    if schema == 1:
        saved["engines"] = {"policy": {"flat": {"weights": [state], "moments": [{"actor": {}}]}, "updates": 20}}
    else:
        engine = {"weights": [state], "moments": [{"actor": {}}], "cuts": {}, "updates": {"actor": 20}}
        saved |= {"schema": schema, "engine": {"state": engine, "updates": {"policy": 20}}}
    hyper = {"spec": spec, "updates": 20, "eval_interval": 10, "hidden": [4], "batch_size": 8}
    torch.save({"state_dict": state, "hyper_parameters": hyper, "lightning_pbrl": saved}, path)


def _write_old_checkpoint(path: Path) -> None:
    _write_checkpoint(path, schema=1)


def _read_checkpoint(path: Path) -> Any:
    from lightning_pbrl.methods.loading import load_method

    return dict(load_method(path).state_dict())


def _weights(path: Path) -> Arrays:
    return flat(_read_checkpoint(path))


def _odd_checkpoint(path: Path, rng: random.Random) -> int:
    content: Any = torch.load(path, weights_only=True)
    odd: tuple[Any, ...] = (None, 5, "text", [], {}, {"a": 1}, [None], torch.zeros(2), -1, 10**30)
    place, depth = content, rng.randrange(4)
    key = rng.choice(list(place))
    for _ in range(depth):
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        place, key = inner, rng.choice(list(inner if isinstance(inner, dict) else range(len(inner))))
    place[key] = rng.choice(odd)
    torch.save(content, path)
    return 10  # a setting may be another


def _read_results(path: Path) -> Any:
    from lightning_pbrl.reports.metrics import read_results

    return read_results(path.parent)


def _read_sweep(path: Path) -> Any:
    from lightning_pbrl.study.file import read_study

    return len(read_study(path).axes)


def _read_experiment(path: Path) -> Any:
    from lightning_pbrl.study.file import read_study

    (base,) = read_study(path).bases.values()
    return len(base.stages)


RESULTS = '{"metrics": {"test/return_mean": 1.5, "test/success_rate": 0.5}, "episodes": 2, "seed": 0}\n'
SWEEP = '{"base": "model/iql.yaml", "seed": [0, 1], "model.init_args.lr": [1e-4, 1e-3], "paired_keys": [], "name": "x"}\n'
EXPERIMENT = "name: demo\nstages:\n  reward: {config: [a.yaml], with: {lr: 1e-3}}\n  learned: {config: [b.yaml]}\n"


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


D4RL_KEYS = list(data.columns())
_D4RL_NEEDS = [key for key in D4RL_KEYS if key not in ("timeouts", "next_observations")]
_d4rl: Any = {
    "read": read_d4rl,
    "stored": data.hdf5_arrays(lambda file: [key for key in D4RL_KEYS if key in file]),
    "structure": kinds.hdf5(lambda file: _D4RL_NEEDS),
}
FORMATS = [
    Format("D4RL", "d.hdf5", data.write_d4rl, share=110, **_d4rl),
    Format("D4RL, compressed", "c.hdf5", lambda path: data.write_d4rl(path, compression="gzip", chunks=True), share=90, **_d4rl),
    Format(
        "robomimic",
        "low_dim.hdf5",
        data.write_robomimic,
        lambda path: read_robomimic(path, "train", data.OBS_KEYS),
        data.hdf5_arrays(data.robomimic_keys),
        kinds.hdf5(data.robomimic_keys, "mask/train", ("data", "env_args")),
        160,
    ),
    Format(
        "Minari",
        "mutations/tiny-v0/data/main_data.hdf5",
        data.write_minari,
        data.read_tiny,
        data.hdf5_arrays(data.minari_keys),
        kinds.hdf5(data.minari_keys),
        40,
        "minari",
    ),
    Format(
        "Minari, metadata",
        "mutations/tiny-v0/data/metadata.json",
        data.write_minari,
        data.read_tiny,
        None,
        [kinds.odd_json, kinds.odd_file],
        20,
        "minari",
    ),
    Format(
        "LiRE npz", "saved_replay_buffer_48_seed0.npz", data.write_lire, data.read_walker, data.npz_arrays, [kinds.odd_npz], 70
    ),
    Format(
        "LiRE pickle", "saved_replay_buffer_48_seed0.pkl", data.write_lire, data.read_walker, data.pickled, [kinds.odd_pickle], 80
    ),
    Format("LiRE people's data", "dataset.pkl", data.write_human, read_human_data, data.pickled, [kinds.odd_pickle], 60),
    Format(
        "LiRE answers",
        "a.txt",
        _write_answers,
        read_answers,
        _numbers,
        [kinds.odd_digits, kinds.odd_file],
        20,
        lines=True,
    ),
    Format("LiRE lists", "l.txt", _write_list, read_list, _numbers, [kinds.odd_digits, kinds.odd_file], 20, lines=True),
    Format("preference npz", "p.npz", data.write_pairs, read_preference_npz, data.npz_arrays, [kinds.odd_npz], 70),
    Format("archive", "a.safetensors", lambda path: archive.save(data.table(), path), archive.load, load_file, [], 70),
    Format("examples", "e.safetensors", data.write_examples, load_examples, load_file, [], 20),
    Format("label store", "labels.sqlite", _make_store, _read_store, _store_cells, [*2 * [kinds.odd_cell], kinds.odd_table], 90),
    Format(
        "labels as JSON lines",
        "labels.jsonl",
        lambda path: _make_store(path.with_suffix(".db")).export_jsonl(path),
        lambda path: jsonl.read(path, "data-a"),
        lambda path: flat(_records(jsonl.read(path, "data-a"))),
        [kinds.odd_json, kinds.odd_file],
        60,
        lines=True,
    ),
    Format("checkpoint", "last.ckpt", _write_checkpoint, _read_checkpoint, _weights, [_odd_checkpoint], 40),
    Format("checkpoint, schema 1", "old.ckpt", _write_old_checkpoint, _read_checkpoint, _weights, [_odd_checkpoint], 20),
    Format("results.json", "results.json", _text(RESULTS), _read_results, None, [kinds.odd_json, kinds.odd_file], 10),
    Format("sweep", "sweep.json", _text(SWEEP), _read_sweep, None, [kinds.odd_json, kinds.odd_file], 10),
    Format("sweep, YAML", "sweep.yaml", _text(SWEEP), _read_sweep, None, [kinds.odd_file], 10),
    Format("experiment", "experiment.yaml", _text(EXPERIMENT), _read_experiment, None, [kinds.odd_file], 10),
    Format("OGBench", "o.npz", others.write_ogbench, read_ogbench, others.ogbench_arrays, [kinds.odd_npz], 70),
    Format("d3rlpy", "d.h5", others.write_d3rlpy, read_d3rlpy, others.d3rlpy_arrays, kinds.hdf5(others.d3rlpy_matrices), 70),
    Format(
        "imitation trajectories",
        "set/data-00000-of-00001.arrow",
        others.write_trajectories,
        others.read_trajectories,
        others.trajectories_arrays,
        [],
        40,
        "pyarrow",
    ),
    Format(
        "imitation preference set",
        "preferences.pkl",
        others.write_preferences,
        read_imitation_preferences,
        others.preferences_arrays,
        [],
        60,
    ),
    Format(
        "Uni-RLHF labels",
        f"set/{others.UNI_LABEL}",
        others.write_labels,
        others.read_labels,
        others.label_array,
        [others.odd_label],
        30,
    ),
    Format(
        "LeRobot rows",
        "toy/data/chunk-000/file-000.parquet",
        others.write_rows,
        others.read_rows,
        others.parquet_arrays,
        [],
        40,
        "pyarrow",
    ),
    Format(
        "LeRobot metadata",
        "toy/meta/info.json",
        others.write_rows,
        others.read_rows,
        None,
        [others.odd_info, kinds.odd_file],
        30,
        "pyarrow",
    ),
]
