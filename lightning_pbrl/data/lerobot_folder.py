"""Description of a LeRobotDataset: its features, tasks and episodes, and where the rows of an episode lie.

::

    meta/info.json               version, fps, features (dtype, shape), patterns of the other paths
    meta/stats.json              min, max, mean ... of each feature
    meta/tasks.parquet           task_index and text                                         (v2.1: tasks.jsonl)
    meta/episodes/**/*.parquet   length, tasks, files, from_timestamp of each episode         (v2.1: episodes.jsonl)
    data/**/*.parquet            a row per frame, several episodes in a file                  (v2.1: a file per episode)
    videos/KEY/**/*.mp4          a frame per row, several episodes in a file                  (v2.1: a file per episode)

Source: github.com/huggingface/lerobot (Apache-2.0), ``lerobot.datasets``; codebase versions v3.0 and v2.1. The package itself is
not needed: pyarrow reads the tables (extra ``lerobot``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.guard import declared, listed, parse_json, reading
from lightning_pbrl.errors import UserError

VERSIONS = ("v3.0", "v2.1")
"""Codebase versions that are read."""

ROWS = 4_096
"""Rows of a table that are in memory at a time."""

BUFFER = 2**18
"""Bytes of a column that are read from a Parquet file at a time."""

AGAIN = "download the folder again, or end its recording with LeRobotDataset.finalize()"
"""Cure for a damaged or incomplete folder."""

_DAMAGED = "is damaged or not a Parquet file"


class Episodes(NamedTuple):
    """Episodes of a folder, ascending by number.

    Attributes:
        number: ``episode_index``, (M,), int64.
        length: rows, (M,), int64.
        tasks: texts of the tasks of each.
        file: path of the rows of each, below the folder.
        videos: by camera, the path of the film of each and its first time in it, seconds.
    """

    number: NDArray[np.int64]
    length: NDArray[np.int64]
    tasks: list[list[str]]
    file: list[str]
    videos: dict[str, tuple[list[str], NDArray[np.float64]]]


class Folder(NamedTuple):
    """One data set.

    Attributes:
        path: the folder.
        info: ``meta/info.json``.
        features: description of each column: ``dtype``, ``shape``.
        tasks: text of each ``task_index``.
        episodes: all episodes.
    """

    path: Path
    info: dict[str, Any]
    features: dict[str, dict[str, Any]]
    tasks: dict[int, str]
    episodes: Episodes

    @property
    def cameras(self) -> list[str]:
        """Keys of features that are pictures."""
        return [key for key, feature in self.features.items() if feature["dtype"] in ("video", "image")]

    @property
    def numeric(self) -> list[str]:
        """Keys of features that are numbers."""
        return [key for key, feature in self.features.items() if feature["dtype"] not in ("video", "image", "string", "language")]


def package(name: str) -> Any:
    """Import a package of the extra ``lerobot``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The package {error.name!r} is not installed; install it with pip install 'lightning-pbrl[lerobot]'."
        ) from error


def open_folder(path: str | Path) -> Folder:
    """Read the description of a data set; no rows.

    Raises:
        UserError: if the folder is missing, incomplete, damaged or of another version.
    """
    root = Path(path)
    if not (root / "meta/info.json").is_file():
        raise UserError(
            f"There is no LeRobot data set in {root} (no meta/info.json): check the path, or download the data set there."
        )
    info = _json(root / "meta/info.json")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in VERSIONS:
        raise UserError(
            f"{root} has codebase_version {version!r} and {' and '.join(VERSIONS)} can be read: convert it with LeRobot's own "
            "scripts, or upgrade lightning-pbrl."
        )
    with reading(root / "meta/info.json", "lacks what LeRobot writes", AGAIN):
        features = {str(key): {**feature, "shape": tuple(feature["shape"])} for key, feature in info["features"].items()}
        if not float(info["fps"]) > 0 or not all(isinstance(feature["dtype"], str) for feature in features.values()):
            raise ValueError("fps or a dtype is wrong")
    folder = Folder(root, info, features, {}, Episodes(np.empty(0, np.int64), np.empty(0, np.int64), [], [], {}))
    tasks, episodes = (_tasks, _episodes) if version == "v3.0" else (_tasks_v21, _episodes_v21)
    folder = folder._replace(tasks=tasks(root), episodes=episodes(folder))
    number, length = folder.episodes[:2]
    if not len(number) or (np.diff(number) < 1).any() or (length < 1).any():
        raise UserError(f"{root}: meta/episodes has no episodes, one twice or one without rows: {AGAIN}.")
    return folder


def choose(folder: Folder, tasks: Sequence[str] | None, episodes: Sequence[int] | None) -> NDArray[np.int64]:
    """Return places in ``folder.episodes`` of those that have one of these tasks and one of these numbers, ascending.

    Raises:
        UserError: for a task or number that the data set does not have, and if none is left.
    """
    known, chosen = folder.episodes, np.ones(len(folder.episodes.number), dtype=bool)
    if tasks is not None:
        texts = sorted({text for each in known.tasks for text in each})
        if unknown := [task for task in tasks if task not in texts]:
            raise UserError(f"{folder.path} has no task {unknown[0]!r} (it has {listed(map(repr, texts))}): correct tasks.")
        chosen &= [not set(tasks).isdisjoint(each) for each in known.tasks]
    if episodes is not None:
        if len(unknown_numbers := np.setdiff1d(episodes, known.number)):
            raise UserError(
                f"{folder.path} has no episode {unknown_numbers[0]} ({len(known.number)} from {known.number[0]} to "
                f"{known.number[-1]}): correct episodes."
            )
        chosen &= np.isin(known.number, episodes)
    if not chosen.any():
        raise UserError(f"{folder.path} has no episode that is among both tasks and episodes: choose again.")
    return chosen.nonzero()[0]


def scan(folder: Folder, chosen: NDArray[np.int64], keys: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of chosen episodes in their order, as record batches of at most :data:`ROWS` rows.

    Args:
        folder: the data set.
        chosen: places in ``folder.episodes``, ascending.
        keys: columns to read.

    Raises:
        UserError: if a file is missing or damaged, lacks a column, or holds other rows than the description says.
    """
    known = folder.episodes
    wanted = np.zeros(len(known.number), dtype=bool)
    wanted[chosen] = True
    by_file: dict[str, list[int]] = {}
    for place, file in enumerate(known.file):
        by_file.setdefault(file, []).append(place)
    for file, places in by_file.items():
        if wanted[places].any():
            yield from _rows(folder.path / file, known.number[places], known.length[places], wanted[places], keys)


def _rows(file: Path, number: NDArray, length: NDArray, wanted: NDArray, keys: Sequence[str]) -> Iterator[Any]:
    """Yield the wanted rows of one file; the arguments describe all of its episodes."""
    pa, of_row, keep = package("pyarrow"), np.repeat(number, length), np.repeat(wanted, length)
    with _parquet(file) as table:
        names, metadata = table.schema_arrow.names, table.metadata
        if missing := [key for key in ("episode_index", *keys) if key not in names]:
            raise UserError(f"{file} has no column {missing[0]!r} (it has {listed(names)}): {AGAIN}.")
        groups = [metadata.row_group(each) for each in range(metadata.num_row_groups)]
        _plausible(file, groups)
        ends = np.cumsum([0, *(group.num_rows for group in groups)])
        if ends[-1] != len(of_row):
            raise UserError(f"{file} has {ends[-1]} rows and meta/episodes say {len(of_row)}: {AGAIN}.")
        needed = [each for each in range(len(groups)) if keep[ends[each] : ends[each + 1]].any()]
        rows = np.concatenate([np.arange(ends[each], ends[each + 1]) for each in needed])
        columns, at = list(dict.fromkeys(("episode_index", *keys))), 0
        batches = table.iter_batches(batch_size=ROWS, row_groups=needed, columns=columns, use_threads=False)
        while at < len(rows):
            with reading(file, _DAMAGED, AGAIN):
                batch = next(batches)
            here = rows[at : at + len(batch)]
            at += len(batch)
            if not np.array_equal(numbers(batch, "episode_index", f"{file}: column 'episode_index'"), of_row[here]):
                raise UserError(f"{file} has rows of other episodes than meta/episodes say: {AGAIN}.")
            if keep[here].any():
                yield batch if keep[here].all() else batch.filter(pa.array(keep[here]))


def _parquet(file: Path) -> Any:
    """Open a Parquet file, to be closed by ``with``; it is read piece by piece, so that memory does not grow with it."""
    with reading(file, _DAMAGED, AGAIN):
        return package("pyarrow.parquet").ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)


def _plausible(file: Path, groups: Sequence[Any]) -> None:
    """Refuse a file whose size in memory cannot come from its size on disk.

    The sizes of single columns are not asked for: pyarrow 26.0.1 ends the process where their statistics are damaged.
    """
    declared(sum(group.total_byte_size for group in groups), file.stat().st_size, str(file), AGAIN)


def numbers(batch: Any, key: str, where: str, size: int | None = None) -> NDArray[Any]:
    """Return a column of a record batch as an array, (n, size) or (n,) where ``size`` is None; lists of lists are laid flat.

    Raises:
        UserError: if cells are empty, are no numbers, or their sizes differ.
    """
    pa, count = package("pyarrow"), len(batch)
    column = batch.column(key)
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    whole = column.null_count == 0
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while whole and any(check(column.type) for check in lists):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        whole = bool((lengths == lengths[:1]).all())
        column = column.flatten()
        whole &= column.null_count == 0
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise UserError(f"{where} holds {column.type} instead of numbers: choose a key of numbers.")
    if not whole or len(column) != count * (size or 1):
        raise UserError(f"{where} has empty cells, or cells of another size than meta/info.json says: {AGAIN}.")
    values = column.to_numpy(zero_copy_only=False)
    return values if size is None else values.reshape(count, size)


def _json(file: Path) -> Any:
    with reading(file, "is damaged or no JSON", AGAIN):
        return parse_json(file.read_bytes())


def _tasks(root: Path) -> dict[int, str]:
    """Read ``meta/tasks.parquet``: the column beside ``task_index`` is the text, whatever pandas called it."""
    file = root / "meta/tasks.parquet"
    with _parquet(file) as opened, reading(file, "is damaged or no table of tasks", AGAIN):
        table = opened.read(use_threads=False)
        texts = table.column(next(name for name in table.column_names if name != "task_index")).to_pylist()
        return dict(zip(map(int, table.column("task_index").to_pylist()), map(str, texts), strict=True))


def _episodes(folder: Folder) -> Episodes:
    """Read ``meta/episodes``, without the statistics of each episode."""
    info = folder.info
    cameras = [key for key in folder.cameras if folder.features[key]["dtype"] == "video"]
    films = {key: [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")] for key in cameras}
    keys = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
    found: dict[str, list[Any]] = {key: [] for key in [*keys, *(name for names in films.values() for name in names)]}
    for file in sorted((folder.path / "meta/episodes").glob("*/*.parquet")):
        with _parquet(file) as opened, reading(file, "is damaged or no table of episodes", AGAIN):
            table = opened.read(columns=list(found), use_threads=False)
            for key, values in found.items():
                values += table.column(key).to_pylist()
    with reading(folder.path / "meta/episodes", "contradicts meta/info.json", AGAIN):
        order = np.argsort(np.asarray(found["episode_index"], dtype=np.int64), kind="stable")
        column = {key: [values[place] for place in order] for key, values in found.items()}

        def paths(pattern: str, chunk: str, file: str, **rest: str) -> list[str]:
            pairs = zip(column[chunk], column[file], strict=True)
            return [_below(pattern.format(chunk_index=int(c), file_index=int(f), **rest)) for c, f in pairs]

        return Episodes(
            np.asarray(column["episode_index"], dtype=np.int64),
            np.asarray(column["length"], dtype=np.int64),
            [list(map(str, texts)) for texts in column["tasks"]],
            paths(info["data_path"], "data/chunk_index", "data/file_index"),
            {
                key: (paths(info["video_path"], chunk, file, video_key=key), np.asarray(column[start], dtype=np.float64))
                for key, (chunk, file, start) in films.items()
            },
        )


def _tasks_v21(root: Path) -> dict[int, str]:
    return {int(line["task_index"]): str(line["task"]) for line in _lines(root / "meta/tasks.jsonl", ("task_index", "task"))}


def _episodes_v21(folder: Folder) -> Episodes:
    """Read ``meta/episodes.jsonl``: each episode has files of its own."""
    file, info = folder.path / "meta/episodes.jsonl", folder.info
    lines = sorted(_lines(file, ("episode_index", "length", "tasks")), key=lambda line: int(line["episode_index"]))
    with reading(folder.path / "meta/info.json", "contradicts meta/episodes.jsonl", AGAIN):
        number = np.asarray([line["episode_index"] for line in lines], dtype=np.int64)

        def paths(pattern: str, **rest: str) -> list[str]:
            size = int(info["chunks_size"])
            return [_below(pattern.format(episode_chunk=each // size, episode_index=each, **rest)) for each in number.tolist()]

        return Episodes(
            number,
            np.asarray([line["length"] for line in lines], dtype=np.int64),
            [list(map(str, line["tasks"])) for line in lines],
            paths(info["data_path"]),
            {
                key: (paths(info["video_path"], video_key=key), np.zeros(len(number)))
                for key in folder.cameras
                if folder.features[key]["dtype"] == "video"
            },
        )


def _lines(file: Path, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    with reading(file, "is damaged or no lines of JSON", AGAIN):
        found = [parse_json(line) for line in file.read_text().splitlines() if line.strip()]
        if not all(isinstance(line, dict) and all(key in line for key in keys) for line in found):
            raise ValueError(f"a line lacks one of {', '.join(keys)}")
    return found


def _below(path: str) -> str:
    """Return a path of the description, if it stays below the folder."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{path} leaves the folder")
    return path
