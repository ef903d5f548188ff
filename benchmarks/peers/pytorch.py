"""Whole models in PyTorch, on copies of our weights, taken by our names: what our models are compared with.

Written as a PyTorch user would: fused attention, its own optimizers, autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.variants import Variant, call, updating
from minilm.backend import to_numpy


def _weights(torch: Any, model: Any, device: str) -> dict[str, Any]:
    return {name: torch.tensor(to_numpy(array), device=device) for name, array in model.parameters().items()}


def _training_step(torch: Any, leaves: dict[str, Any], loss_of: Callable[[], Any]) -> Variant:
    """Loss, gradients, AdamW with a learning rate of 0. Compared: the loss and the gradients in the leaves' order."""
    for leaf in leaves.values():
        leaf.requires_grad_()
    optimizer = torch.optim.AdamW(leaves.values(), lr=0.0, weight_decay=0.0)

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss

    return call(step, lambda loss: [loss, *(leaf.grad for leaf in leaves.values())])


def _layers(torch: Any, leaves: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The linear layer and the layer norm, of an input and a name; with a bias where there is one."""
    F = torch.nn.functional

    def affine(x: Any, name: str) -> Any:
        return F.linear(x, leaves[f"{name}.weight"], leaves.get(f"{name}.bias"))

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, x.shape[-1:], leaves[f"{name}.weight"], leaves.get(f"{name}.bias"))

    return affine, norm


def gpt_step(torch: Any, model: Any, batch: Any, device: str) -> Variant:
    """One AdamW step of the preset `gpt` (learned positions, pre-norm, tied head, no biases). The batch: tensors."""
    F, leaves = torch.nn.functional, _weights(torch, model.backbone, device)
    affine, norm = _layers(torch, leaves)
    ids, targets = batch.ids, batch.targets
    (B, T), C = ids.shape, leaves["embedding.weight"].shape[1]
    layers = len(model.backbone.blocks.children)
    heads = model.backbone.blocks.children["0"].self_attn.attention.heads

    def loss_of() -> Any:
        x = F.embedding(ids, leaves["embedding.weight"]) + leaves["positions.weight"][:T]  # (B, T, C)
        for number in range(layers):
            block = f"blocks.{number}"
            qkv = affine(norm(x, f"{block}.norm1"), f"{block}.self_attn.in_proj")
            q, k, v = (part.view(B, T, heads, C // heads).transpose(1, 2) for part in qkv.split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
            x = x + affine(y, f"{block}.self_attn.out_proj")
            h = affine(norm(x, f"{block}.norm2"), f"{block}.linear1")
            x = x + affine(F.gelu(h, approximate="tanh"), f"{block}.linear2")
        logits = F.linear(norm(x, "norm"), leaves["embedding.weight"])  # (B, T, V)
        return F.cross_entropy(logits.view(B * T, -1), targets.reshape(-1))

    return _training_step(torch, leaves, loss_of)


def classifier_step(torch: Any, model: Any, batch: Any, device: str) -> Variant:
    """One AdamW step of the preset `conv-lstm-classifier` on texts of equal length. The batch: tensors."""
    F, leaves = torch.nn.functional, _weights(torch, model, device)
    ids, labels = batch.ids, batch.labels
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [leaves[f"backbone.rnn.{name}"] for name in names]
    zeros = torch.zeros(1, len(ids), weights[1].shape[1], device=device, dtype=weights[1].dtype)

    def loss_of() -> Any:
        x = F.embedding(ids, leaves["backbone.embedding.weight"]).transpose(1, 2)  # (B, E, T)
        x = F.conv1d(x, leaves["backbone.conv.weight"], leaves["backbone.conv.bias"], padding="same").transpose(1, 2)
        _, h, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, True)  # h (1, B, H)
        logits = F.linear(h[0], leaves["head.weight"], leaves["head.bias"])[:, 0]
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    return _training_step(torch, leaves, loss_of)


def bert_encode(torch: Any, backbone: Any, heads: int, ids: Any, lengths: Any, device: str) -> Variant:
    """The hidden vectors of a post-norm encoder with exact GELU; keys behind a text's length are masked.

    ids and lengths are tensors.
    """
    F, leaves = torch.nn.functional, _weights(torch, backbone, device)
    affine, norm = _layers(torch, leaves)
    (B, T), C = ids.shape, leaves["embedding.weight"].shape[1]
    layers = len(backbone.blocks.children)

    @torch.inference_mode()
    def encode() -> Any:
        visible = (torch.arange(T, device=device) < lengths[:, None])[:, None, None]  # (B, 1, 1, T)
        x = F.embedding(ids, leaves["embedding.weight"]) + leaves["positions.weight"][:T]  # (B, T, C)
        for number in range(layers):
            block = f"blocks.{number}"
            qkv = affine(x, f"{block}.self_attn.in_proj")
            q, k, v = (part.view(B, T, heads, C // heads).transpose(1, 2) for part in qkv.split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).reshape(B, T, C)
            x = norm(x + affine(y, f"{block}.self_attn.out_proj"), f"{block}.norm1")
            x = norm(x + affine(F.gelu(affine(x, f"{block}.linear1")), f"{block}.linear2"), f"{block}.norm2")
        return x

    return call(encode)


def generate(torch: Any, model: Any, prompt: Any, tokens: Any, device: str) -> Variant:
    """Logits of the next token after each of `tokens`, which follow the prompt: keys and values lie in one buffer.

    For the preset `gpt` with biases, one text. The prompt fills the buffer once; each run goes on from there. prompt
    (1, T) and tokens (1, n) are tensors.
    """
    F, leaves = torch.nn.functional, _weights(torch, model.backbone, device)
    affine, norm = _layers(torch, leaves)
    blocks, like = model.backbone.blocks.children, leaves["embedding.weight"]
    layers, heads = len(blocks), blocks["0"].self_attn.attention.heads
    C, length = like.shape[1], prompt.shape[1]
    past = like.new_zeros(layers, 2, 1, heads, length + tokens.shape[1], C // heads)  # keys and values of each layer

    def forward(ids: Any, start: int) -> Any:
        """The logits (1, V) after ids (1, n), whose first has the place `start`."""
        stop = start + ids.shape[1]
        x = F.embedding(ids, leaves["embedding.weight"]) + leaves["positions.weight"][start:stop]
        for number in range(layers):
            block = f"blocks.{number}"
            qkv = affine(norm(x, f"{block}.norm1"), f"{block}.self_attn.in_proj")
            q, k, v = (part.view(1, -1, heads, C // heads).transpose(1, 2) for part in qkv.split(C, dim=2))
            keys, values = past[number]
            keys[:, :, start:stop], values[:, :, start:stop] = k, v
            y = F.scaled_dot_product_attention(
                q, keys[:, :, :stop], values[:, :, :stop], is_causal=start == 0 and stop > 1
            )
            x = x + affine(y.transpose(1, 2).reshape(1, -1, C), f"{block}.self_attn.out_proj")
            h = affine(norm(x, f"{block}.norm2"), f"{block}.linear1")
            x = x + affine(F.gelu(h, approximate="tanh"), f"{block}.linear2")
        return F.linear(norm(x[:, -1], "norm"), leaves["embedding.weight"])

    with torch.inference_mode():
        forward(prompt, 0)

    @torch.inference_mode()
    def decode() -> Any:
        return [forward(tokens[:, n : n + 1], length + n) for n in range(tokens.shape[1])]

    return call(decode)


def skip_gram(torch: Any, start: list[Any], batches: Callable[[], Any], weight: float, lr: float) -> Variant:
    """Epochs of skip-gram with negatives shared by a batch, from two tables: sparse gradients and plain SGD."""
    F = torch.nn.functional
    tables = [torch.nn.Embedding.from_pretrained(w.clone(), freeze=False, sparse=True) for w in start]
    optimizer = torch.optim.SGD([table.weight for table in tables], lr=lr)

    def epoch() -> None:
        for centres, contexts, negatives in batches():
            h = tables[0](centres)  # (N, D)
            positive = (h * tables[1](contexts)).sum(dim=1)  # (N,)
            negative = h @ tables[1](negatives).T  # (N, S)
            loss = F.softplus(-positive).sum() + weight * F.softplus(negative).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return updating(epoch, [table.weight.detach() for table in tables], start)


def adamw(torch: Any, start: list[Any], gradients: list[Any], **options: Any) -> Variant:
    """Updates by torch.optim.AdamW as it comes; compared are the changes of three."""
    leaves = [value.clone().requires_grad_() for value in start]
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient
    optimizer = torch.optim.AdamW(leaves, **options)

    return updating(optimizer.step, [leaf.detach() for leaf in leaves], start, 3, optimizer.state.clear)
