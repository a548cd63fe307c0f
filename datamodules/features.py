"""Features of a frozen network in place of the images of other data, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_pbrl.data.frozen import with_features
from lightning_pbrl.data.guard import listed, reading, reason
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, opened
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import COUNT, POSITIVE, SHARE
from lightning_pbrl.teachers.function import load


class FeaturesDataModule(FeedbackDataModule, ranges={"size": COUNT, "mean": SHARE, "std": POSITIVE}):
    """Features of a frozen network as observations of logged data with images.

    Each image is encoded once, into a file in ``cache_dir`` whose name holds a hash of data, network and weights. Rows and
    answers are those of the data: a label store of the one serves the other, and people see the images. Policies cannot act on
    features: with ``see: data`` they learn from the data themselves, and ``relabel.reward`` reads the features.

    Args:
        data: data module that provides images and answers, or a data file of this library; the module's own evaluation settings
            are not used.
        network: function that builds the network, as "module:function", such as "timm:create_model". It is imported and called.
            The network maps images, (n, 3, S, S), float32 in [0, 1], to features, (n, F).
        arguments: arguments of that function, by name.
        weights: safetensors file of the network's parameters and buffers, by name; further tensors in it are not used. None for
            those that the function gives; random ones are always the same.
        mean: mean of each colour that is subtracted, in [0, 1]; None for 0.
        std: standard deviation of each colour that is divided by; None for 1.
        size: side that images are resized to (bilinear), pixels; None for their own.
        see: what methods see: the features, or the data with the features for rewards alone.
        cache_dir: folder of the encoded data.
        **offline: arguments of :class:`FeedbackDataModule`, without ``simulator``, which is that of the data.

    Raises:
        UserError: for a network that cannot be built or fails, weights that do not fit or are no safetensors file, and data
            without images or that a learner makes itself.
    """

    features: Transitions
    """The encoded data, which rewards read."""

    def __init__(
        self,
        data: FeedbackDataModule | str,
        network: str,
        arguments: Mapping[str, Any] | None = None,
        weights: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: int | None = None,
        see: Literal["features", "data"] = "features",
        cache_dir: str = "data",
        **offline: Any,
    ) -> None:
        super().__init__(None if isinstance(data, str) or see == "features" else data.simulator, **offline)
        for name, colours in (("mean", mean), ("std", std)):
            if colours is not None and len(colours) != 3:
                raise UserError(f"data.init_args.{name} is {list(colours)}: give one number for each of red, green and blue.")
        self.data, self.network, self.given, self.weights = data, network, dict(arguments or {}), weights
        self.mean, self.std, self.size, self.see, self.cache_dir = mean, std, size, see, cache_dir

    @property
    def drawn(self) -> Any:
        """Data module whose segments people see."""
        return self.data if isinstance(self.data, FeedbackDataModule) else self

    def files(self) -> list[Path]:
        named = [path for path in (self.weights, self.data) if isinstance(path, str)]
        return [*super().files(), *(Path(path) for path in named if Path(path).is_file())]

    def prepare_data(self) -> None:
        if isinstance(self.data, FeedbackDataModule):
            self.data.prepare_data()

    def load(self) -> Transitions:
        images = opened(self.data)
        if isinstance(self.data, FeedbackDataModule):
            self.labels, self.held_out_labels = self.data.labels, self.data.held_out_labels
            self.segment_length = self.segment_length if self.labels is None else self.labels.length
        if images.forgets:
            raise UserError(f"{type(self.data).__name__} has no logged data: give FeaturesDataModule a module that has.")
        encode, digest = self._network()
        wanted = json.dumps([images.fingerprint, digest, self.mean, self.std, self.size])
        name = f"features-{self.network.split(':')[-1]}-{hashlib.blake2b(wanted.encode(), digest_size=8).hexdigest()}.safetensors"
        path = Path(self.cache_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            self.features = with_features(images, encode, path)
        return self.features if self.see == "features" else images

    def _network(self) -> tuple[Callable[[Tensor], Tensor], str]:
        """Return the network with what is done before it, and a hash of how it is built and of its parameters."""
        cure = "correct data.init_args.network and its arguments"
        with torch.random.fork_rng(devices=[]), reading(f"data.init_args.network {self.network}", "cannot be built", cure):
            torch.manual_seed(0)
            network: Any = load(self.network)(**self.given)
        state: dict[str, Tensor] = {}
        if isinstance(network, nn.Module):
            network.eval()
            if self.weights is not None:
                self._fill(network, self.weights)
            state = network.state_dict()
        elif self.weights is not None or not callable(network):
            raise UserError(f"{self.network} returns a {type(network).__name__}: weights need a function that returns a module.")
        digest = hashlib.blake2b(json.dumps([self.network, self.given], sort_keys=True, default=str).encode(), digest_size=16)
        for name, tensor in sorted(state.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return lambda images: self._encoded(network, images), digest.hexdigest()

    def _fill(self, network: nn.Module, weights: str) -> None:
        """Give a network the parameters of a file, all that it has."""
        if Path(weights).suffix != ".safetensors":
            raise UserError(
                f"data.init_args.weights is {weights}: give a .safetensors file; pickles and TorchScript can run code or "
                "write files (safetensors.torch.save_file writes what torch.load(..., weights_only=True) has read)."
            )
        with reading(weights, "is no safetensors file of weights", "download it again, or give another"):
            found = load_file(weights)
        wanted = network.state_dict()
        odd = [name for name, each in wanted.items() if name not in found or found[name].shape != each.shape]
        if odd:
            raise UserError(
                f"{weights} has no {listed(odd, 3)} of the shape that {self.network} has: give the weights of this network, or "
                "other arguments."
            )
        network.load_state_dict({name: found[name] for name in wanted})

    def _encoded(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the features of images, (n, 3, S, S) in [0, 1] -> (n, F), after resizing and normalisation."""
        if self.size is not None and self.size != images.shape[-1]:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(each or [other] * 3).view(3, 1, 1) for each, other in ((self.mean, 0.0), (self.std, 1.0)))
        try:
            return network((images - mean) / std)
        except RuntimeError as error:
            raise UserError(
                f"{self.network} fails on images of shape {tuple(images.shape)} ({reason(error)}): set data.init_args.size to "
                "the side that it takes."
            ) from error
