"""Models that only run forward: encoding texts, and generating one."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers import pytorch
from benchmarks.variants import Setting, Workload, call, definition, preset_model, recycling
from minilm.models.transformer_backbone import TransformerBackbone


def bert_encode(setting: Setting, layers: int = 6, width: int = 384, heads: int = 12, T: int = 128, B: int = 8):
    """Hidden vectors of texts of different lengths by a post-norm encoder with exact GELU: MiniLM's sizes.

    [Devlin et al. 2019; the sizes: Wang et al. 2020, "MiniLM"]
    """
    setting.require_long("bert-encode")
    rng = np.random.default_rng(0)
    of_bert = {"activation": "gelu", "norm_first": False, "causal": False}
    backbone = TransformerBackbone(30522, width, layers, heads, context=T, rng=rng, dtype=setting.dtype, **of_bert)
    ids, lengths = setting.integers(30522, B, T), rng.integers(max(1, T // 4), T + 1, B)
    lengths[0] = T  # the batch is as long as its longest text
    key_lengths, peers = setting.share(setting.xp.asarray(lengths)), {}
    if torch := setting.torch():
        texts = [setting.tensor(torch, array) for array in (ids, key_lengths)]
        peers["torch"] = pytorch.bert_encode(torch, backbone, heads, *texts, setting.torch_device)
    backbone.to(setting.xp)

    def encode() -> Any:
        return backbone.forward(ids, lengths=key_lengths, train=False, cache=False)[0]

    variants = {"definition": definition(call(encode)), "tuned where served": recycling(call(encode))}
    weights = sum(array.size for name, array in backbone.parameters().items() if name.startswith("blocks."))
    flops = 2 * weights * B * T + 4 * layers * width * T * int(lengths.sum())
    size = f"{layers} x {heads} x {width}, T{T}, B{B}, {int(lengths.sum())} of {B * T} places filled"
    return Workload("bert-encode", size, variants | peers, 0.0, flops, setting.tolerance, on_host=True)


def generate(
    setting: Setting, layers: int = 12, width: int = 768, T: int = 128, tokens: int = 8, vocabulary: int = 50257
) -> Workload:
    """Tokens at the sizes of GPT-2 small, one text, after a prompt of T: each token reads all weights once.

    All variants continue with the same tokens, drawn before, so that logits can be compared; what draws tokens from
    logits takes no part. [sizes: Radford et al. 2019, table 2]
    """
    setting.require_long("generate")
    heads = max(1, width // 64)
    sizes = {"layers": layers, "heads": heads, "width": width, "context": T + tokens}
    model = preset_model("gpt", vocab_size=vocabulary, bias=True, dtype=setting.dtype, **sizes)
    prompt, following = setting.integers(vocabulary, 1, T), setting.integers(vocabulary, 1, tokens)
    peers = {}  # PyTorch copies the weights, while these are on the host
    if torch := setting.torch():
        texts = [setting.tensor(torch, array) for array in (prompt, following)]
        peers["torch"] = pytorch.generate(torch, model, *texts, setting.torch_device)
    model.to(setting.xp)
    _, start = model.next_logits(prompt)

    def continued() -> list[Any]:
        state, logits = start, []
        for place in range(tokens):
            found, state = model.next_logits(following[:, place : place + 1], state)  # (1, V)
            logits.append(found)
        return logits

    variants = {"definition": definition(call(continued)), "tuned where served": call(continued)}
    item = setting.xp.dtype(setting.dtype).itemsize
    read = sum(array.size for name, array in model.parameters().items() if "positions" not in name)
    past = 2 * layers * width * (T + tokens / 2)
    size = f"{layers} x {heads} x {width}, {tokens} tokens after {T}, vocabulary {vocabulary}"
    bytes_moved, flops = tokens * item * (read + past), 2 * tokens * (read + past)
    return Workload("generate", size, variants | peers, bytes_moved, flops, setting.tolerance, on_host=True)
