"""The table of workloads: each one as variants on the same inputs.

    WORKLOADS[name](Setting(numpy, "float32", ("torch",)), *sizes) -> Workload

The types are in `benchmarks.variants`; `single_ops` has one op at a time, `steps` whole training steps, `inference`
models that only run forward, `updates` the optimizer and the embeddings of words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.variants import Workload
from benchmarks.workloads import inference, single_ops, steps, updates

WORKLOADS: dict[str, Callable[..., Workload]] = {
    "softmax": single_ops.softmax,
    "layer_norm": single_ops.layer_norm,
    "gelu": single_ops.gelu,
    "gelu-tanh": partial(single_ops.gelu, approximate="tanh"),
    "cross_entropy": single_ops.cross_entropy,
    "embedding": single_ops.embedding,
    "attention": single_ops.attention,
    "attention-full": partial(single_ops.attention, causal=False),
    "decode": single_ops.decode,
    "conv1d": single_ops.conv1d,
    "rnn": single_ops.recurrent,
    "lstm": partial(single_ops.recurrent, op="lstm"),
    "gru": partial(single_ops.recurrent, op="gru"),
    "gpt-step": steps.gpt_step,
    "classifier-step": steps.classifier_step,
    "gpt-step-large": steps.gpt_step_large,
    "bert-encode": inference.bert_encode,
    "generate": inference.generate,
    "word2vec": updates.word2vec,
    "adamw": updates.adamw,
}
