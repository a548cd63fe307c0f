"""Clips to ask a teacher about."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Clips, Query
from lightning_pbrl.rng import question_keys


def questions(count: int = 4, clips: int = 2, frames: bool = False, length: int = 5) -> tuple[Query, Clips, Tensor]:
    """Questions whose segment c of question i has observations i + 10 c, and frames of that grey."""
    level = torch.arange(count)[:, None] + 10.0 * torch.arange(clips)
    obs = level[:, :, None, None].expand(count, clips, length, 3).contiguous()
    pictures = level[:, :, None, None, None, None].expand(count, clips, length, 8, 8, 3).to(torch.uint8).contiguous()
    shown = Clips(obs, torch.zeros(count, clips, length, 2), torch.zeros(count, clips, length), pictures if frames else None)
    query = Query("pair" if clips == 2 else "rating", (100 * level).long(), length)
    return query, shown, question_keys(0, 0, count)
