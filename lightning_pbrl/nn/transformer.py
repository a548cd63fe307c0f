"""Minimal causal transformer in the style of GPT-2.

Source: GPT-2 (Radford et al. 2019) as trimmed by the decision transformer (arXiv 2106.01345). Blocks are pre-LayerNorm with ReLU
in place of GELU. There is no positional table: callers add embeddings of the time step to the tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.linear import linear

PADDED = -1e4
"""Value added to the attention score of a padded key.

It is finite so that a padded token, whose keys are all padded, has finite outputs.
"""


class Dense(nn.Linear):
    """``torch.nn.Linear`` on the fastest available matrix product: (..., in) -> (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], -1)


def lecun(module: nn.Module) -> None:
    """Initialise all linear layers of ``module`` with weights N(0, 1 / inputs) and biases 0 (Flax's initialisation).

    Differences: Flax draws the same variance from a normal distribution that is truncated at two standard deviations.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)


def causal_mask(valid: Tensor) -> Tensor:
    """Return the additive attention mask: -inf for later keys, -1e4 for padded keys, else 0.

    Args:
        valid: 1 for real tokens, 0 for padding, (B, T).

    Returns:
        The mask, (B, 1, T queries, T keys).
    """
    length = valid.shape[1]
    future = torch.full((length, length), float("-inf"), device=valid.device).triu(1)
    return future + PADDED * (1.0 - valid.float())[:, None, None, :]


class SelfAttention(nn.Module):
    """Multi-head causal attention with scores q k / sqrt(width / heads).

    Args:
        width: size of a token.
        heads: attention heads.
        dropout: dropout rate on attention weights and on the result.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = Dense(width, 3 * width), Dense(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend: (B, T, W) -> (B, T, W); without a mask every token sees all tokens up to itself."""
        B, T, W = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, is_causal=mask is None)
        return F.dropout(self.out(y.transpose(1, 2).reshape(B, T, W)), self.dropout, self.training)

    def last(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``forward(x, mask)[:, -1:]`` without dropout, (B, T, W) -> (B, 1, W), in a fraction of the time.

        A single query needs neither keys nor values of individual tokens: q (W_k x_t) = (W_k^T q) x_t. The weighted mean of the
        values is W_v times that of the tokens. The biases of the keys add the same number for all t, so the softmax ignores them.
        """
        w_q, w_k, w_v = self.qkv.weight.view(3, self.heads, -1, x.shape[-1]).unbind(0)  # (heads, W / heads, W)
        b_q, _, b_v = self.qkv.bias.view(3, self.heads, -1).unbind(0)
        q = torch.einsum("bw,hdw->bhd", x[:, -1], w_q) + b_q
        score = torch.einsum("bhd,hdw->bhw", q, w_k) @ x.transpose(1, 2) / q.shape[-1] ** 0.5  # (B, heads, T)
        weight = torch.softmax(score if mask is None else score + mask[:, :, -1], dim=-1)
        y = torch.einsum("bhw,hdw->bhd", weight @ x, w_v) + b_v
        return self.out(y.flatten(1)).unsqueeze(1)


class Block(nn.Module):
    """Transformer block: x + attention(LN(x)), then x + MLP(LN(x)) with a hidden layer of 4 x width.

    Args:
        width: size of a token.
        heads: attention heads.
        dropout: dropout rate on attention weights and on both residual branches.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(Dense(width, 4 * width), nn.ReLU(), Dense(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor | None, last: bool = False) -> Tensor:
        """Apply the block: (B, T, W) -> (B, T, W), or only its last token, (B, 1, W)."""
        seen = self.norm_attention(x)
        x = x[:, -1:] + self.attention.last(seen, mask) if last else x + self.attention(seen, mask)
        return x + self.mlp(self.norm_mlp(x))


class CausalTransformer(nn.Module):
    """Causal transformer: token dropout, ``layers`` blocks and a final LayerNorm; token t depends on tokens 0 .. t.

    Args:
        width: size of a token.
        layers: number of blocks.
        heads: attention heads per block; they share the width.
        dropout: dropout rate wherever GPT-2 has it: tokens, attention, residual branches.

    Raises:
        UserError: if ``heads`` does not divide ``width``.

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
            last: return only the last token (in evaluation); the last block then skips the work for all others.

        Returns:
            Transformed tokens, (B, T, W), or (B, 1, W) of the last token.
        """
        mask = None if valid is None else causal_mask(valid)
        x = self.drop(tokens)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, last and number == len(self.blocks))
        return self.norm(x)
