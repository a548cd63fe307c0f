"""Encoding of clips for browsers: WebM (VP9) and mp4 (H.264) in one pass.

Chromium builds without licensed codecs play no H.264, and older Safari plays no VP9, so a page offers both. Frames go to the
ffmpeg that ``imageio[ffmpeg]`` brings, which also makes the library's other videos.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_pbrl.clips.base import Frames
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError

Codec = Literal["webm", "mp4"]
CODECS: tuple[Codec, ...] = ("webm", "mp4")
"""Codecs by the suffix of their files."""

_SETTINGS: dict[Codec, tuple[str, ...]] = {
    "webm": ("-c:v", "libvpx-vp9", "-crf", "32", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "6", "-f", "webm"),
    "mp4": ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-movflags", "+faststart", "-f", "mp4"),
}
"""Arguments of ffmpeg: on two slow cores 50 frames of 256 x 256 take .5 s in both codecs together."""
SECONDS = 120.0
"""Longest time that an encoding may take, seconds."""


def write_clip(path: str | Path, frames: Frames, fps: int = 30) -> dict[Codec, Path]:
    """Write frames as ``path`` with the suffixes .webm and .mp4; each file appears only when complete.

    Args:
        path: the files' path without a suffix; its folder is created if missing.
        frames: the frames, (T, H, W, 3), uint8, H and W even.
        fps: frames per second.

    Returns:
        The files by codec.

    Raises:
        UserError: for frames of another shape, a folder that cannot be written, or if ffmpeg fails.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0 or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise UserError(f"The frames of {path} have shape {frames.shape}: give (T, H, W, 3), with an even number of pixels.")
    if fps < 1:
        raise UserError(f"The clips' frames per second are {fps}; give at least 1.")
    import imageio_ffmpeg

    files: dict[Codec, Path] = {codec: Path(path).parent / f"{Path(path).name}.{codec}" for codec in CODECS}
    with replacing(files["webm"]) as webm, replacing(files["mp4"]) as mp4:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo"]
        command += ["-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
        for codec, part in zip(CODECS, (webm, mp4), strict=True):
            command += [*_SETTINGS[codec], "-an", "-pix_fmt", "yuv420p", "-threads", "1", "-g", "25", "-bitexact", str(part)]
        done = subprocess.run(command, input=np.ascontiguousarray(frames).data, capture_output=True, timeout=SECONDS)
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split()[-40:])
            raise UserError(
                f"{path} cannot be encoded ({said or f'ffmpeg ended with {done.returncode}'}): make room on its disk."
            )
    return files
