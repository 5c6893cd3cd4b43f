"""Softmax attention with an additive bias: which implementation computes it where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend"]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """Return `softmax(scale * q kᵀ + bias) v`.

    Shape: q `(n, heads, queries, d)`, k and v `(n, heads, keys, d)`, bias `(1, heads, queries, keys)` in q's dtype.
    """
    # On the CPU a bias that wants a gradient sends PyTorch's fused attention to its slowest path: written out, the
    # same operations are fewer.
    if q.device.type == "cpu" and bias.requires_grad:
        weights = torch.softmax((q * scale) @ k.transpose(-2, -1) + bias, dim=-1)
        return F.dropout(weights, dropout) @ v if dropout else weights @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
