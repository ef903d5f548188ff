"""Whole training steps in PyTorch, on copies of our weights: what `gpt-step` and `classifier-step` are compared with.

Written as a PyTorch user would: fused attention, its own optimizer, autograd. Weights are taken by our names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minilm.backend import to_numpy


def _leaves(torch: Any, model: Any) -> dict[str, Any]:
    return {name: torch.tensor(to_numpy(array)).requires_grad_() for name, array in model.parameters().items()}


def _training_step(torch: Any, leaves: dict[str, Any], loss_of: Callable[[], Any]) -> Callable[[], Any]:
    optimizer = torch.optim.AdamW(leaves.values(), lr=0.0, weight_decay=0.0)

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss

    return step


def gpt_step(torch: Any, model: Any, batch: Any, heads: int) -> Callable[[], Any]:
    """One AdamW step of the preset `gpt` (learned positions, pre-norm, tied head, no biases)."""
    F, leaves = torch.nn.functional, _leaves(torch, model)
    ids, targets = torch.tensor(batch.ids), torch.tensor(batch.targets)
    (B, T), C = ids.shape, leaves["backbone.embedding.weight"].shape[1]
    layers = len(model.backbone.blocks.children)

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (C,), leaves[f"backbone.{name}.weight"])

    def loss_of() -> Any:
        x = F.embedding(ids, leaves["backbone.embedding.weight"]) + leaves["backbone.positions.weight"][:T]  # (B, T, C)
        for number in range(layers):
            block = f"backbone.blocks.{number}"
            qkv = F.linear(norm(x, f"blocks.{number}.norm1"), leaves[f"{block}.self_attn.in_proj.weight"])
            q, k, v = (part.view(B, T, heads, C // heads).transpose(1, 2) for part in qkv.split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
            x = x + F.linear(y, leaves[f"{block}.self_attn.out_proj.weight"])
            h = F.linear(norm(x, f"blocks.{number}.norm2"), leaves[f"{block}.linear1.weight"])
            x = x + F.linear(F.gelu(h, approximate="tanh"), leaves[f"{block}.linear2.weight"])
        logits = F.linear(norm(x, "norm"), leaves["backbone.embedding.weight"])  # (B, T, V)
        return F.cross_entropy(logits.view(B * T, -1), targets.reshape(-1))

    return _training_step(torch, leaves, loss_of)


def classifier_step(torch: Any, model: Any, batch: Any) -> Callable[[], Any]:
    """One AdamW step of the preset `conv-lstm-classifier` on texts of equal length."""
    F, leaves = torch.nn.functional, _leaves(torch, model)
    ids, labels = torch.tensor(batch.ids), torch.tensor(batch.labels)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [leaves[f"backbone.rnn.{name}"] for name in names]
    H = weights[1].shape[1]
    zeros = torch.zeros(1, len(ids), H)

    def loss_of() -> Any:
        x = F.embedding(ids, leaves["backbone.embedding.weight"]).transpose(1, 2)  # (B, E, T)
        x = F.conv1d(x, leaves["backbone.conv.weight"], leaves["backbone.conv.bias"], padding="same").transpose(1, 2)
        _, h, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, True)  # h (1, B, H)
        logits = F.linear(h[0], leaves["head.weight"], leaves["head.bias"])[:, 0]
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    return _training_step(torch, leaves, loss_of)
