"""Transformer layers, presets and whole training runs against PyTorch's, with the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.layers.attention import MultiHeadAttention
from minilm.layers.transformer import TransformerDecoderBlock, TransformerEncoderBlock
from minilm.optim.adam import AdamW
from minilm.presets import build
from minilm.text.batching import ClassificationBatch, LanguageBatch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def renamed(name):
    """Our name of a parameter as PyTorch's: its attention keeps the input map as bare arrays."""
    return name.replace("in_proj.", "in_proj_")


def copy_to(module, layer, rename=renamed):
    """Give the PyTorch module the weights of our layer: every one, and nothing else."""
    state = {rename(name): torch.from_numpy(np.array(array)) for name, array in layer.parameters().items()}
    module.load_state_dict(state, strict=True)
    return module


def assert_same_gradients(module, grads, rename=renamed):
    theirs = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    assert {rename(name) for name in grads} == theirs.keys()
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, theirs[rename(name)], rtol=1e-8, atol=1e-11, err_msg=name)


def randomised(layer, rng):
    """Gains and biases start at one and zero, which would hide a mistake."""
    for _, part in layer.walk():
        for array in part.params.values():
            array += 0.3 * rng.normal(size=array.shape)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masks", ["none", "causal", "padded"])
def test_multi_head_attention(bias, masks, rng):
    layer = randomised(MultiHeadAttention(12, 3, bias=bias, rng=rng, dtype="float64"), rng)
    module = copy_to(torch.nn.MultiheadAttention(12, 3, bias=bias, batch_first=True, dtype=torch.float64), layer)
    x, dy = rng.normal(size=(2, 2, 5, 12))
    lengths = np.array([5, 3])
    ours = {"none": {}, "causal": {"causal": True}, "padded": {"key_lengths": lengths}}[masks]
    theirs = {
        "none": {},
        "causal": {"attn_mask": torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)},
        "padded": {"key_padding_mask": torch.from_numpy(np.arange(5) >= lengths[:, None])},
    }[masks]
    y, cache = layer.forward(x, **ours)
    dx, grads = layer.backward(dy, cache)
    tx = torch.from_numpy(x).requires_grad_()
    ty, weights = module(tx, tx, tx, average_attn_weights=False, **theirs)
    ty.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.weights(x, **ours), weights.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-9, atol=1e-12)
    assert_same_gradients(module, grads)


SETTINGS = [
    {"norm_first": False, "activation": "relu"},
    {"norm_first": True, "activation": "gelu", "bias": False},
    {"norm_first": True, "activation": "relu"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_encoder_block(settings, rng):
    layer = randomised(TransformerEncoderBlock(12, 3, 20, rng=rng, dtype="float64", **settings), rng)
    module = torch.nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True, dtype=torch.float64, **settings)
    copy_to(module, layer)
    x, dy = rng.normal(size=(2, 2, 5, 12))
    lengths = np.array([5, 3])
    y, cache = layer.forward(x, key_lengths=lengths)
    dx, grads = layer.backward(dy, cache)
    tx = torch.from_numpy(x).requires_grad_()
    ty = module(tx, src_key_padding_mask=torch.from_numpy(np.arange(5) >= lengths[:, None]))
    ty.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-9, atol=1e-12)
    assert_same_gradients(module, grads)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_decoder_block(settings, rng):
    layer = randomised(TransformerDecoderBlock(12, 3, 20, rng=rng, dtype="float64", **settings), rng)
    module = torch.nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, batch_first=True, dtype=torch.float64, **settings)

    def split(state):
        """Our attention to a memory maps the queries apart; PyTorch's input map has the rows q, k, v in one array."""
        for kind in ("weight", "bias"):
            parts = [state.pop(f"multihead_attn.{part}_proj.{kind}", None) for part in ("q", "kv")]
            if parts[0] is not None:
                state[f"multihead_attn.in_proj.{kind}"] = np.concatenate(parts)
        return state

    state = split(layer.parameters())
    module.load_state_dict({renamed(name): torch.from_numpy(np.array(a)) for name, a in state.items()})
    x, dy = rng.normal(size=(2, 2, 4, 12))
    memory, lengths = rng.normal(size=(2, 6, 12)), np.array([6, 2])
    y, cache = layer.forward(x, memory, memory_lengths=lengths)
    (dx, dmemory), grads = layer.backward(dy, cache)
    tx, tmemory = torch.from_numpy(x).requires_grad_(), torch.from_numpy(memory).requires_grad_()
    ty = module(
        tx, tmemory, tgt_mask=torch.triu(torch.ones(4, 4, dtype=torch.bool), 1),
        memory_key_padding_mask=torch.from_numpy(np.arange(6) >= lengths[:, None]),
    )  # fmt: skip
    ty.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dmemory, tmemory.grad.numpy(), rtol=1e-9, atol=1e-12)
    assert_same_gradients(module, split(grads))


class TorchGPT(torch.nn.Module):
    """The preset `gpt` out of PyTorch's modules, with our names."""

    def __init__(self, V, width, layers, heads, context, bias):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, width)
        self.positions = torch.nn.Embedding(context, width)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
                batch_first=True, norm_first=True, bias=bias,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm = torch.nn.LayerNorm(width, bias=bias)

    def forward(self, ids):
        T = ids.shape[1]
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
        x = self.embedding(ids) + self.positions(torch.arange(T))
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return self.norm(x) @ self.embedding.weight.T


class TorchLSTM(torch.nn.Module):
    """The preset `lstm-lm`."""

    def __init__(self, V, embedding, width, layers):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, embedding)
        self.rnn = torch.nn.LSTM(embedding, width, layers, batch_first=True)
        self.head = torch.nn.Linear(width, V)

    def forward(self, ids):
        return self.head(self.rnn(self.embedding(ids))[0])


RUNS = {
    "gpt": (
        {"layers": 2, "heads": 4, "width": 32, "context": 16, "bias": False},
        lambda V: TorchGPT(V, 32, 2, 4, 16, False),
    ),
    "lstm-lm": ({"embedding_size": 24, "width": 32, "layers": 2}, lambda V: TorchLSTM(V, 24, 32, 2)),
}


@pytest.mark.parametrize("preset", RUNS)
def test_hundred_steps_follow_pytorch(preset):
    """The same weights, batches and AdamW in float32: the loss stays within 1e-3 at each of 100 steps."""
    V, B, T = 20, 8, 16
    options, make = RUNS[preset]
    model = build(preset, vocab_size=V, **options)
    module = copy_to(make(V), model, lambda name: renamed(name.removeprefix("backbone.")))
    settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    ours = AdamW(model, **settings, no_decay=lambda name, array: array.ndim < 2)
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    vectors = {"params": [p for p in module.parameters() if p.ndim < 2], "weight_decay": 0.0}
    theirs = torch.optim.AdamW([{"params": matrices}, vectors], **settings)
    rng = np.random.default_rng(0)
    text = np.cumsum(rng.integers(0, 3, 4000)) % V  # a text with something to learn: steps of 0, 1 or 2
    losses = []
    for _ in range(100):
        starts = rng.integers(0, len(text) - T - 1, B)
        windows = text[starts[:, None] + np.arange(T + 1)]
        batch = LanguageBatch(windows[:, :-1], windows[:, 1:])
        loss, cache = model.loss(batch)
        ours.accumulate(model.loss_backward(1.0, cache))
        ours.step()
        theirs.zero_grad()
        logits = module(torch.from_numpy(batch.ids))
        other = torch.nn.functional.cross_entropy(logits.reshape(-1, V), torch.from_numpy(batch.targets).reshape(-1))
        other.backward()
        theirs.step()
        losses.append((float(loss), other.item()))
    losses = np.array(losses)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=0, atol=1e-3)
    assert losses[-1, 0] < 0.6 * losses[0, 0]  # and they did learn


class TorchClassifier(torch.nn.Module):
    """The classifier presets, with packed sequences for the lengths."""

    def __init__(self, V, embedding, width, bidirectional, kernel):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, embedding)
        self.conv = torch.nn.Conv1d(embedding, embedding, kernel, padding="same") if kernel else None
        self.rnn = torch.nn.LSTM(embedding, width, batch_first=True, bidirectional=bidirectional)
        self.head = torch.nn.Linear(width * (1 + bidirectional), 1)

    def forward(self, ids, lengths):
        x = self.embedding(ids)
        if self.conv is not None:
            x = x * (torch.arange(ids.shape[1]) < lengths[:, None])[..., None]
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.rnn(packed)
        return self.head(torch.cat(tuple(h), dim=-1))[:, 0]


@pytest.mark.parametrize(
    ("preset", "bidirectional", "kernel"),
    [("lstm-classifier", False, None), ("bilstm-classifier", True, None), ("conv-lstm-classifier", False, 3)],
)
def test_classifiers(preset, bidirectional, kernel, rng):
    """The last state of each direction, at each text's own end: the loss and every gradient."""
    V = 30
    model = build(preset, vocab_size=V, embedding_size=6, width=5, dropout=0.0, dtype="float64")
    module = TorchClassifier(V, 6, 5, bidirectional, kernel).double()

    def rename(name):
        return name.removeprefix("backbone.")

    copy_to(module, model, rename)
    lengths, labels = np.array([7, 1, 4, 6]), np.array([0, 1, 1, 0])
    ids = rng.integers(0, V, (4, 7))
    loss, cache = model.loss(ClassificationBatch(ids, lengths, labels))
    logits = module(torch.from_numpy(ids), torch.from_numpy(lengths))
    other = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).double())
    other.backward()
    np.testing.assert_allclose(float(loss), other.item(), rtol=1e-12)
    assert_same_gradients(module, model.loss_backward(1.0, cache), rename)
