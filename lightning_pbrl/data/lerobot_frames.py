"""Pictures of a LeRobotDataset: a camera's films, or pictures in the rows, decoded once into a file that is mapped into memory.

A film holds several episodes, one after the other. Each is decoded from its ``from_timestamp`` on, in one pass, and a row gets
the frame that is nearest in time. PyAV (extra ``lerobot``) decodes AV1, LeRobot's default, and H.264 and HEVC. No more than a few
frames are in memory. The file is a safetensors file with one tensor; it has its name when it is whole.

An episode of T rows has T frames and no picture of what followed its last action: the last frame is repeated.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import listed, reading
from lightning_pbrl.data.lerobot_folder import AGAIN, Folder, numbers, package, scan
from lightning_pbrl.errors import UserError

SEEK = 2.0
"""Seconds of film that are rather decoded than jumped over."""

SMALL = 256 * 256
"""Pixels of a film up to which one thread decodes it."""

_ROOM = 1_024  # of the header, with its length; a multiple of 8
_READER = 1  # version of the decoder, raised whenever it gives other pictures; they are then decoded anew
_BLOCK = 64  # pictures that are written at a time

Picture = NDArray[np.uint8]
"""One picture, (S, S, 3)."""


def read_frames(
    folder: Folder, chosen: NDArray[np.int64], camera: str, size: int | None, cache_dir: str | Path | None
) -> tuple[Tensor, str]:
    """Return the pictures of chosen episodes, decoded at the first time.

    Args:
        folder: the data set.
        chosen: places in ``folder.episodes``, ascending.
        camera: key of the pictures.
        size: side S to which a whole picture is resized, pixels; None for its own, if it is square.
        cache_dir: folder of the decoded copy; None decodes into memory.

    Returns:
        Pictures, (N + M, S, S, 3), uint8, laid out as those of :class:`~lightning_pbrl.data.transitions.Transitions`; their hash.

    Raises:
        UserError: if there is no such camera, it measures depth or is not square, a film is missing, damaged or lacks frames.
    """
    side = _side(folder, camera, size)
    lengths = folder.episodes.length[chosen]
    shape = [int(lengths.sum()) + len(lengths), side, side, 3]
    if cache_dir is None:
        frames = np.empty(shape, dtype=np.uint8)

        def keep(first: int, pictures: NDArray[np.uint8]) -> None:
            frames[first : first + len(pictures)] = pictures

        return torch.from_numpy(frames), _decode(folder, chosen, camera, side, keep)
    sources = {folder.path / file for place in chosen.tolist() for file in _sources(folder, camera)[place : place + 1]}
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(sources) if file.is_file()]
    wanted = json.dumps([_READER, str(folder.path.resolve()), states, camera, side, chosen.tolist()])
    name = f"{folder.path.resolve().name}-{hashlib.blake2b(wanted.encode(), digest_size=8).hexdigest()}"
    copy = Path(cache_dir) / f"{name}.frames.safetensors"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(copy.with_name(f"{copy.name}.lock")):
            if not copy.exists():  # another process may have made it meanwhile
                for part in copy.parent.glob(f".{copy.name}.*.part"):  # of a process that was killed
                    part.unlink()
                with replacing(copy) as temporary, temporary.open("wb+") as raw:
                    _write(raw, shape, lambda keep: _decode(folder, chosen, camera, side, keep))
    with reading(copy, "is truncated or no file of pictures", "delete it, and it is made anew"):
        with safe_open(copy, framework="pt", device="cpu") as file:
            found, digest = file.get_tensor("frames"), str(file.metadata()["digest"])
        if list(found.shape) != shape or found.dtype != torch.uint8:
            raise ValueError(f"it has the shape {list(found.shape)}")
    return found, digest


def _write(raw: Any, shape: Sequence[int], decode: Callable[[Callable[[int, NDArray[np.uint8]], None]], str]) -> None:
    """Write a safetensors file of pictures in whatever order they come."""
    bytes_each, total = int(np.prod(shape[1:])), int(np.prod(shape))
    raw.truncate(_ROOM + total)

    def keep(first: int, pictures: NDArray[np.uint8]) -> None:
        raw.seek(_ROOM + first * bytes_each)
        raw.write(np.ascontiguousarray(pictures).data)

    entry = {"dtype": "U8", "shape": shape, "data_offsets": [0, total]}
    header = json.dumps({"__metadata__": {"digest": decode(keep)}, "frames": entry}).encode().ljust(_ROOM - 8)
    raw.seek(0)
    raw.write(len(header).to_bytes(8, "little") + header)


def _side(folder: Folder, camera: str, size: int | None) -> int:
    """Return the side of the pictures, after checks of the camera."""
    if camera not in folder.cameras:
        raise UserError(f"{folder.path} has no camera {camera!r} (it has {listed(folder.cameras)}): correct camera.")
    feature = folder.features[camera]
    described = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    if described.get("is_depth_map") or described.get("video.is_depth_map"):
        raise UserError(f"{folder.path}: {camera!r} measures depth, and pictures here are RGB: choose another camera.")
    if size is not None:
        if size < 8:
            raise UserError(f"The size of pictures is {size}; give at least 8 pixels.")
        return size
    height, width = [side for side in feature["shape"] if side not in (1, 3)][:2] or (0, 1)
    if height != width:
        raise UserError(f"{folder.path}: {camera!r} shows {height} x {width} pixels, no square: set size, for instance 64.")
    return int(height)


def _sources(folder: Folder, camera: str) -> list[str]:
    """Return the file that holds the pictures of each episode."""
    known = folder.episodes
    return known.videos[camera][0] if folder.features[camera]["dtype"] == "video" else known.file


def _decode(
    folder: Folder, chosen: NDArray[np.int64], camera: str, side: int, keep: Callable[[int, NDArray[np.uint8]], None]
) -> str:
    """Decode the pictures of chosen episodes, hand them to ``keep`` with the id of the first, and return their hash."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    lengths = folder.episodes.length[chosen]
    first = np.concatenate([[0], (lengths + 1).cumsum()])
    digests: dict[int, bytes] = {}
    columns = (TextColumn(f"decoding {camera}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("decode", total=int(lengths.sum()))
        for place, pictures in _episodes(folder, chosen, camera, side):
            digest, at, last = hashlib.blake2b(digest_size=16), int(first[place]), int(first[place + 1]) - 1
            for block in _blocks(pictures, side):
                keep(at, block)
                digest.update(block.data)
                at += len(block)
                bar.advance(task, len(block))
            if at != last:
                raise UserError(f"{folder.path}: {camera!r} shows {at - first[place]} of {last - first[place]} rows: {AGAIN}.")
            keep(at, block[-1:])
            digests[place] = digest.digest()
    return hashlib.blake2b(b"".join(digests[place] for place in range(len(chosen))), digest_size=16).hexdigest()


def _blocks(pictures: Iterator[Picture], side: int) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures together, (n, S, S, 3), in memory that is used again."""
    block, at = np.empty((_BLOCK, side, side, 3), dtype=np.uint8), 0
    for picture in pictures:
        block[at] = picture
        at += 1
        if at == len(block):
            yield block
            at = 0
    if at:
        yield block[:at]


def _episodes(folder: Folder, chosen: NDArray, camera: str, side: int) -> Iterator[tuple[int, Iterator[Picture]]]:
    """Yield the place in ``chosen`` and the pictures of each episode, to be taken in this order."""
    lengths = folder.episodes.length[chosen].tolist()
    if folder.features[camera]["dtype"] == "image":
        pictures = _stored(folder, chosen, camera, side)
        for place, length in enumerate(lengths):
            yield place, (next(pictures) for _ in range(length))
        return
    name, places = f"{folder.path}: key 'timestamp'", range(len(chosen))
    times = np.concatenate([numbers(batch, "timestamp", name) for batch in scan(folder, chosen, ["timestamp"])]).astype(
        np.float64
    )
    each = np.split(times, np.cumsum(lengths)[:-1])
    films, starts = folder.episodes.videos[camera]
    by_film: dict[str, list[int]] = {}
    for place in sorted(places, key=lambda place: starts[chosen[place]]):
        by_film.setdefault(films[chosen[place]], []).append(place)
    for film, inside in by_film.items():
        wanted = np.concatenate([starts[chosen[place]] + each[place] for place in inside])
        if not (np.diff(wanted) >= 0).all():
            raise UserError(f"{folder.path / film} shows episodes that overlap, by meta/episodes or 'timestamp': {AGAIN}.")
        pictures = _shown(folder.path / film, wanted, side, 0.5 / float(folder.info["fps"]))
        for place in inside:
            yield place, (next(pictures) for _ in range(lengths[place]))


def _shown(film: Path, wanted: NDArray[np.float64], side: int, tolerance: float) -> Iterator[Picture]:
    """Yield the picture of a film that is nearest to each of these times, ascending, seconds.

    Raises:
        UserError: if the film is missing or damaged, or none is within ``tolerance``.
    """
    av = package("av")
    with reading(film, _DAMAGED, AGAIN):
        container = av.open(str(film))
    with container:
        with reading(film, _DAMAGED, AGAIN):
            stream = container.streams.video[0]
            if stream.width * stream.height > SMALL:
                stream.thread_type = "AUTO"
            else:  # threads cost more than they bring
                stream.codec_context.thread_count = 1
            frames = container.decode(stream)
        convert, before = av.video.reformatter.VideoReformatter(), None
        at, sought = 0, -1
        while at < len(wanted):
            if at > sought and wanted[at] - (0.0 if before is None else before.time) > SEEK:
                with reading(film, _DAMAGED, AGAIN):
                    container.seek(int((wanted[at] - SEEK / 4) / stream.time_base), stream=stream)
                    frames, before = container.decode(stream), None
                sought = at
            with reading(film, _DAMAGED, AGAIN):
                after = next((frame for frame in frames if frame.pts is not None), None)
            while at < len(wanted) and (after is None or after.time >= wanted[at]):
                near = [frame for frame in (before, after) if frame is not None]
                shown = min(near, key=lambda frame: abs(frame.time - wanted[at]), default=None)
                if shown is None or abs(shown.time - wanted[at]) > tolerance:
                    raise UserError(f"{film} has no frame at {wanted[at]:.3f} s: {AGAIN}.")
                with reading(film, _DAMAGED, AGAIN):
                    picture = _resized(shown, side, convert)
                yield picture
                at += 1
            before = after


def _stored(folder: Folder, chosen: NDArray, camera: str, side: int) -> Iterator[Picture]:
    """Yield pictures that are stored in the rows, as PNG or JPEG."""
    from PIL import Image

    av, where = package("av"), f"{folder.path}: key {camera!r}"
    convert = av.video.reformatter.VideoReformatter()
    for batch in scan(folder, chosen, [camera]):
        with reading(where, "holds no pictures", AGAIN):
            files = batch.column(camera).field("bytes")
        for file in files:
            with reading(where, "holds a damaged picture", AGAIN):
                picture = np.asarray(Image.open(BytesIO(file.as_py())).convert("RGB"))
                if picture.shape[:2] != (side, side):
                    picture = _resized(av.VideoFrame.from_ndarray(picture, format="rgb24"), side, convert)
            yield picture


def _resized(frame: Any, side: int, convert: Any) -> Picture:
    """Return a frame as RGB; one of another size is averaged over areas, or interpolated where it grows.

    ``convert`` keeps its tables from frame to frame. ``frame.to_ndarray`` makes them anew each time, most of its work.
    """
    smaller = min(frame.width, frame.height) >= side
    shown = convert.reformat(frame, side, side, "rgb24", interpolation="AREA" if smaller else "BILINEAR", threads=1)
    return shown.to_ndarray()


_DAMAGED = "is damaged or no film that PyAV decodes"
