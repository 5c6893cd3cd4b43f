"""Softmax attention with an additive bias: which implementation computes it where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend", "lowered", "tracing"]


def tracing() -> bool:
    """Whether a graph is being recorded, TorchScript or ONNX, that other sizes will run through."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def lowered(x: Tensor) -> Tensor:
    """`x` in the precision of the products it goes into: autocast's, where that is on; cast once for all of them."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):  # meta tensors have none
        return x
    return x.to(torch.get_autocast_dtype(kind))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """Return `softmax(scale * q kᵀ + bias) v`.

    Shape: q `(n, heads, queries, d)`, k and v `(n, heads, keys, d)`, bias `(1, heads, queries, keys)` in q's dtype; or
    all of them with further dimensions in front.
    """
    # On the CPU a bias that wants a gradient sends PyTorch's fused attention to its slowest path: written out, the
    # same operations are fewer.
    # In a recorded graph they are what every exporter and every runtime knows.
    if (q.device.type == "cpu" and bias.requires_grad) or tracing():
        weights = torch.softmax((q * scale) @ k.transpose(-2, -1) + bias, dim=-1)
        return F.dropout(weights, dropout) @ v if dropout else weights @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
