"""Small LeRobotDatasets, written with pyarrow and PyAV as LeRobot lays them out."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FPS = 10
CAMERA = "observation.images.top"
LENGTHS = (4, 3, 5, 2)
TASKS = ("push", "lift", "push", "push")


def episodes(lengths: Sequence[int] = LENGTHS) -> list[dict[str, np.ndarray]]:
    """Episode i at time t: the state is (100 i + t, -t), the reward t + 1; odd episodes end in a success, and all are done."""
    found = []
    for number, steps in enumerate(lengths):
        time = np.arange(steps, dtype=np.float32)
        last = time == steps - 1
        found.append(
            {
                "observation.state": np.stack([100 * number + time, -time], axis=1),
                "action": np.tile(np.float32([-0.5, 0.0, 0.25]), (steps, 1)),
                "next.reward": time + 1,
                "next.success": last & (number % 2 == 1),
                "next.done": last,
            }
        )
    return found


def picture(number: int, time: int, side: tuple[int, int] = (16, 16)) -> np.ndarray:
    """One plain colour per frame, so that what a codec loses is small."""
    return np.full((*side, 3), [40 + 30 * number, 20 + 35 * time, 128], dtype=np.uint8)


def write_lerobot(
    root: Path,
    recorded: list[dict[str, np.ndarray]],
    tasks: Sequence[str] = TASKS,
    per_file: int = 2,
    camera: str | None = None,
    side: tuple[int, int] = (16, 16),
    codec: str = "libx264",
    without: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    version: str = "v3.0",
) -> Path:
    """Write a data set.

    Args:
        root: the folder to make.
        recorded: columns by key, one dictionary per episode.
        tasks: text of each episode's task.
        per_file: episodes in a file of rows, and of films.
        camera: ``video``, ``image`` or None.
        side: height and width of the pictures.
        codec: of the films.
        without: columns that are described but not written.
        changes: entries of ``meta/info.json`` that differ.
        version: v3.0 or v2.1.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    old = version == "v2.1"
    per_file = 1 if old else per_file
    features: dict[str, Any] = {
        key: {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": None}
        for key, values in recorded[0].items()
    }
    features |= {
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            key: {"dtype": "int64", "shape": [1], "names": None}
            for key in ("frame_index", "episode_index", "index", "task_index")
        },
    }
    if camera is not None:
        features[CAMERA] = {"dtype": camera, "shape": [*side, 3], "names": ["height", "width", "channels"]}
    texts = list(dict.fromkeys(tasks))
    info = {"codebase_version": version, "robot_type": "toy", "fps": FPS, "features": features, "chunks_size": 1000}
    if old:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    else:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    info |= dict(changes or {})
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    action = np.concatenate([each["action"] for each in recorded])
    stats = {"action": {"min": action.min(axis=0).tolist(), "max": action.max(axis=0).tolist()}}
    (root / "meta/stats.json").write_text(json.dumps(stats))

    described, first = [], 0
    for start in range(0, len(recorded), per_file):
        place = {"chunk_index": 0, "file_index": start // per_file}
        names = place if not old else {"episode_chunk": 0, "episode_index": start}
        file = root / info["data_path"].format(**names)
        file.parent.mkdir(parents=True, exist_ok=True)
        writer, films, seen = None, [], 0
        for number in range(start, min(start + per_file, len(recorded))):
            columns, steps = dict(recorded[number]), len(recorded[number]["action"])
            index = np.arange(steps)
            columns["timestamp"] = (index / FPS).astype(np.float32)
            columns |= {"frame_index": index, "episode_index": np.full(steps, number), "index": first + index}
            columns["task_index"] = np.full(steps, texts.index(tasks[number]))
            arrays = {
                key: pa.array(values)
                if values.ndim == 1
                else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values[0].size)
                for key, values in columns.items()
                if key not in without
            }
            shown = [picture(number, time, side) for time in range(steps)]
            if camera == "image":
                arrays[CAMERA] = pa.array([{"bytes": _png(each), "path": None} for each in shown])
            table = pa.table(arrays)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
            row = {"episode_index": number, "length": steps, "tasks": [tasks[number]]}
            if not old:
                row |= {f"data/{name}": value for name, value in place.items()}
                row |= {"dataset_from_index": first, "dataset_to_index": first + steps, "stats/action/max": action[0].tolist()}
            if camera == "video" and not old:
                row |= {f"videos/{CAMERA}/{name}": value for name, value in place.items()}
                row |= {f"videos/{CAMERA}/from_timestamp": seen / FPS, f"videos/{CAMERA}/to_timestamp": (seen + steps) / FPS}
            described.append(row)
            films += shown
            first, seen = first + steps, seen + steps
        writer.close()
        if camera == "video":
            film = root / info["video_path"].format(video_key=CAMERA, **names)
            film.parent.mkdir(parents=True, exist_ok=True)
            write_film(film, films, codec)
    if old:
        (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, described)))
        lines = [json.dumps({"task_index": number, "task": text}) for number, text in enumerate(texts)]
        (root / "meta/tasks.jsonl").write_text("\n".join(lines))
    else:
        pq.write_table(pa.Table.from_pylist(described), root / "meta/episodes/chunk-000/file-000.parquet")
        named = pa.table({"task_index": np.arange(len(texts)), "__index_level_0__": texts})  # as pandas writes an index
        pq.write_table(named, root / "meta/tasks.parquet")
    return root


def write_film(file: Path, pictures: list[np.ndarray], codec: str = "libx264") -> None:
    """Write a film with a key frame at every second frame, as LeRobot does."""
    import av

    height, width = pictures[0].shape[:2]
    with usual_priority(), av.open(str(file), "w") as container:
        stream = container.add_stream(codec, FPS, options={"g": "2", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for each in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def usual_priority() -> Iterator[None]:
    """Give this thread its priority back: SVT-AV1 raises it as root (``findings/svtav1_realtime_priority.sh``)."""
    linux = hasattr(os, "sched_getscheduler")
    before = (os.sched_getscheduler(0), os.sched_getparam(0)) if linux else None
    yield
    if before is not None:
        os.sched_setscheduler(0, *before)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
