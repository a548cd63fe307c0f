"""Both codecs: size, rate, number of frames, content."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest

from lightning_pbrl.clips.encode import CODECS, write_clip
from lightning_pbrl.errors import UserError


def test_both_files_have_the_size_the_rate_and_the_frames(tmp_path):
    frames = np.zeros((25, 48, 64, 3), np.uint8)
    for step in range(25):
        frames[step, :, : 2 * step + 2] = (200, 60, 20)
    files = write_clip(tmp_path / "new" / "12-25", frames, fps=20)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["12-25.mp4", "12-25.webm"]
    for codec, name in zip(CODECS, ("vp9", "h264"), strict=True):
        about = imageio.immeta(files[codec], plugin="FFMPEG")
        assert (about["codec"], about["fps"], about["size"]) == (name, 20.0, (64, 48))
        assert about["duration"] == pytest.approx(25 / 20, abs=0.02)
        assert about["pix_fmt"].startswith("yuv420p")
        found = imageio.imread(files[codec])
        assert found.shape == frames.shape
        for step in (0, 12, 24):
            assert np.abs(found[step].astype(int) - frames[step]).mean() < 6.0


def test_the_same_frames_make_the_same_files(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    one, other = write_clip(tmp_path / "a", frames), write_clip(tmp_path / "b", frames)
    assert all(one[codec].read_bytes() == other[codec].read_bytes() for codec in CODECS)


@pytest.mark.parametrize("shape", [(5, 33, 32, 3), (5, 32, 32), (0, 32, 32, 3), (5, 32, 32, 4)])
def test_frames_of_another_shape(tmp_path, shape):
    with pytest.raises(UserError, match=r"frames of .*give \(T, H, W, 3\), with an even number of pixels"):
        write_clip(tmp_path / "clip", np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="frames per second are 0"):
        write_clip(tmp_path / "clip", np.zeros((5, 32, 32, 3), np.uint8), 0)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_clip(tmp_path / "file" / "clip", np.zeros((2, 32, 32, 3), np.uint8))
