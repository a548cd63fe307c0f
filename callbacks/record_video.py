"""Videos of a learned policy."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytorch_lightning as pl

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.envs.render import record_video
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.ranges import COUNT_OR_NONE
from lightning_pbrl.rng import derive
from lightning_pbrl.settings import Checked


class RecordVideo(Checked, pl.Callback, ranges={"every": COUNT_OR_NONE}):
    """Record one episode of the policy's mean action as ``video.mp4`` in the run folder at the end of a fit or test.

    With ``every`` above 0 also ``videos/round_0000.mp4`` and so on during the fit. Rank 0 records. Methods without a policy and
    data without a simulator are skipped. If videos cannot be made (no OpenGL, a full disk), there is one warning with the cure,
    and the run continues.

    Args:
        every: record every this many rounds; 0 only at the end, null never.
        seed: reset seed of the episode; None for one that no evaluation uses, the same for all runs compared.
        size: height and width, even, pixels.
        fps: frames per second of the video; one frame per environment step.
    """

    def __init__(self, every: int | None = 0, seed: int | None = None, size: int = 256, fps: int = 30) -> None:
        if size % 2:
            raise UserError(f"video.size is {size}: give an even number of pixels.")
        self.every, self.seed, self.size, self.fps = every, seed, size, fps
        self._broken = False
        self._newest: tuple[int, Path] | None = None  # updates of the weights last recorded, and the video

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self.every and (trainer.current_epoch + 1) % self.every == 0:
            self._film(trainer, pl_module, Path("videos") / f"round_{trainer.current_epoch:04d}.mp4")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        self._film(trainer, pl_module, Path("video.mp4"))

    def on_test_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        self._film(trainer, pl_module, Path("video.mp4"))

    def _film(self, trainer: pl.Trainer, method: Method, name: Path) -> None:
        simulator = getattr(trainer.datamodule, "simulator", None)  # type: ignore[attr-defined]
        has_policy = type(method).act is not Method.act
        if self.every is None or self._broken or simulator is None or not has_policy or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / name
        try:
            if self._newest is not None and self._newest[0] == trainer.global_step:
                if self._newest[1] != path:  # the weights have not changed since
                    with replacing(path) as part:
                        shutil.copyfile(self._newest[1], part)
                return
            self._act_out(trainer, method, path)
            self._newest = (trainer.global_step, path)
        except (UserError, OSError, RuntimeError) as error:
            self._broken = True
            warnings.warn(f"No video was made: {error}", stacklevel=2)

    def _act_out(self, trainer: pl.Trainer, method: Method, path: Path) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        seed = self.seed if self.seed is not None else derive(data.evaluation_seed, "video") % 2**31
        training = method.training
        method.use_replica(0)
        method.eval()
        try:
            record_video(method.act, data.simulator, seed, path, self.size, self.fps, str(method.device))
        finally:
            method.train(training)
