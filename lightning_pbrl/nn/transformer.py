"""A causal transformer in the style of GPT-2, as small as it can be read.

Source: GPT-2 (Radford et al. 2019) as the decision transformer (arXiv 2106.01345) trims it: pre-LayerNorm blocks, ReLU
in place of GELU, no table of positions (its callers add embeddings of the time step to the tokens).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.linear import linear

PADDED = -1e4
"""Added to the attention score of a padded key; finite, so that a padded token, whose keys are all padded, has numbers."""


class Dense(nn.Linear):
    """``torch.nn.Linear`` on the product that is fastest here: (..., in) -> (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], -1)


def lecun(module: nn.Module) -> None:
    """Start all linear layers of ``module`` with weights N(0, 1 / inputs) and biases 0 (Flax's initialisation)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)


def causal_mask(valid: Tensor) -> Tensor:
    """What is added to attention scores: -inf for keys that come later, -1e4 for padded keys, else 0.

    Args:
        valid: 1 for real tokens, 0 for padding, (B, T).

    Returns:
        (B, 1, T queries, T keys).
    """
    length = valid.shape[1]
    future = torch.full((length, length), float("-inf"), device=valid.device).triu(1)
    return future + PADDED * (1.0 - valid.float())[:, None, None, :]


class SelfAttention(nn.Module):
    """Multi-head causal attention with scores q k / sqrt(width / heads).

    Args:
        width: size of a token.
        heads: attention heads.
        dropout: on attention weights and on the result.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = Dense(width, 3 * width), Dense(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, W) -> (B, T, W); without a mask every earlier token is seen."""
        B, T, W = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, is_causal=mask is None)
        return F.dropout(self.out(y.transpose(1, 2).reshape(B, T, W)), self.dropout, self.training)

    def last(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``forward(x, mask)[:, -1:]`` without dropout, (B, T, W) -> (B, 1, W), in a fraction of the time.

        A single query needs no key and no value of any token: q (W_k x_t) = (W_k^T q) x_t, and the weighted mean of the
        values is W_v times that of the tokens. (What the biases of the keys add is the same for all t.)
        """
        w_q, w_k, w_v = self.qkv.weight.view(3, self.heads, -1, x.shape[-1]).unbind(0)  # (heads, W / heads, W)
        b_q, _, b_v = self.qkv.bias.view(3, self.heads, -1).unbind(0)
        q = torch.einsum("bw,hdw->bhd", x[:, -1], w_q) + b_q
        score = torch.einsum("bhd,hdw->bhw", q, w_k) @ x.transpose(1, 2) / q.shape[-1] ** 0.5  # (B, heads, T)
        weight = torch.softmax(score if mask is None else score + mask[:, :, -1], dim=-1)
        y = torch.einsum("bhw,hdw->bhd", weight @ x, w_v) + b_v
        return self.out(y.flatten(1)).unsqueeze(1)


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)) with a hidden layer of 4 x width.

    Args:
        width: size of a token.
        heads: attention heads.
        dropout: on attention weights and on both residual branches.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(Dense(width, 4 * width), nn.ReLU(), Dense(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor | None, last: bool = False) -> Tensor:
        """(B, T, W) -> (B, T, W), or only the last token, (B, 1, W)."""
        seen = self.norm_attention(x)
        x = x[:, -1:] + self.attention.last(seen, mask) if last else x + self.attention(seen, mask)
        return x + self.mlp(self.norm_mlp(x))


class CausalTransformer(nn.Module):
    """Dropout on the tokens, ``layers`` blocks, a last LayerNorm; token t depends on tokens 0 .. t.

    Args:
        width: size of a token.
        layers: blocks.
        heads: attention heads per block; they share the width.
        dropout: everywhere GPT-2 has it: tokens, attention, residual branches.

    Raises:
        UserError: when ``heads`` does not divide ``width``.

    Initialisation: weights N(0, 0.02), biases 0 (GPT-2).
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"A transformer of width {width} cannot have {heads} heads: choose a width that heads divides.")
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, valid: Tensor | None = None, last: bool = False) -> Tensor:
        """Transform tokens.

        Args:
            tokens: (B, T, W).
            valid: 1 for real tokens, 0 for padding, (B, T); None when all are real.
            last: only the last token is wanted, in evaluation: the last block then leaves out the work for all others.

        Returns:
            (B, T, W), or (B, 1, W) of the last token.
        """
        mask = None if valid is None else causal_mask(valid)
        x = self.drop(tokens)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, last and number == len(self.blocks))
        return self.norm(x)
