"""NMR: the recurrent reward model that Preference Transformer is compared with.

Sources: Early et al. 2022 (arXiv 2205.15367) for the idea; sizes from the released code of Preference Transformer (Kim et
al., ICLR 2023, arXiv 2303.00957).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from lightning_pbrl.nn.lstm_reward import LSTMReward
from lightning_pbrl.rewards.history import HistoryReward


class NMR(HistoryReward):
    """Non-Markovian reward: an LSTM gives each step a reward in its history (Early et al. 2022).

    Args:
        width: units of the first hidden layer; the memory has half of it.
        dropout: dropout after hidden layers in training.
        train_type: score of a segment: sum (released code) or mean of the rewards of its steps, or the last one.
        **fit: arguments of ``HistoryReward``.
    """

    def __init__(
        self,
        width: int = 256,
        dropout: float = 0.1,
        train_type: Literal["mean", "sum", "last"] = "sum",
        **fit: Any,
    ) -> None:
        super().__init__(train_type=train_type, **fit)

    def member(self) -> nn.Module:
        return LSTMReward(self.spec["obs_dim"], self.spec["action_dim"], self.hparams.width, self.hparams.dropout)
