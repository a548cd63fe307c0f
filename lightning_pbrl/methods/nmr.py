"""NMR: the recurrent reward model that Preference Transformer is compared with.

Sources: Early et al. 2022 (arXiv 2205.15367) for the idea; sizes from the released code of Preference Transformer (Kim et
al., ICLR 2023, arXiv 2303.00957).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.history_reward import HistoryReward
from lightning_pbrl.nn.lstm_reward import LSTMReward


class NMR(HistoryReward):
    """Non-Markovian reward: an LSTM gives each step a reward in its history (Early et al. 2022).

    Args:
        spec: sizes, linked from the data module.
        width: units of the first hidden layer; the memory has half of it.
        dropout: dropout after hidden layers in training.
        train_type: score of a segment: sum (released code) or mean of the rewards of its steps, or the last one.
        **fit: arguments of ``HistoryReward`` and ``Method``.
    """

    def __init__(
        self,
        spec: Spec,
        width: int = 256,
        dropout: float = 0.1,
        train_type: Literal["mean", "sum", "last"] = "sum",
        **fit: Any,
    ) -> None:
        super().__init__(spec, train_type=train_type, **fit)

    def member(self) -> nn.Module:
        return LSTMReward(self.spec["obs_dim"], self.spec["action_dim"], self.hparams.width, self.hparams.dropout)
