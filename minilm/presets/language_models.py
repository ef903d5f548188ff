"""Language models, which predict each token from those before it.

Why `attention-lstm-lm` attends causally: without the mask, or with a recurrence in both directions, token t+1 would be
among the inputs that predict token t+1. Training would teach the model to copy it, at a loss near zero, and when it
writes there is nothing to copy. So an unmasked or bidirectional model can't be a left-to-right language model, and
`LanguageModel` refuses such a backbone.
"""

from minilm.presets.preset import Preset

_RECURRENT = {"context": 64, "tied": False}
_TRAINING = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 10,
}

PRESETS = (
    Preset(
        "gpt",
        "language-modelling",
        "transformer",
        "Transformer decoder with learned positions, pre-norm blocks and a tied head",
        "GPT-2 [Radford et al. 2019] at the sizes of nanoGPT's configuration for a CPU",
        {"layers": 4, "heads": 4, "width": 128, "context": 64, "bias": False, "tied": True},
        {
            "optimizer": "adamw",
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "betas": (0.9, 0.99),
            "schedule": "cosine",
            "warmup": 100,
            "min_lr_ratio": 0.0,
            "clip": 1.0,
            "batch_size": 12,
            "steps": 2000,
        },
        "char",
    ),
    Preset(
        "lstm-lm",
        "language-modelling",
        "recurrent",
        "two LSTM layers over word embeddings",
        "LSTM language model with embedding 256, hidden 512, two layers, Adam 1e-3, ten epochs of batches of 32",
        _RECURRENT | {"embedding_size": 256, "width": 512, "layers": 2},
        _TRAINING,
        "word",
        {"min_frequency": 2},
    ),
    Preset(
        "attention-lstm-lm",
        "language-modelling",
        "recurrent",
        "causal 8-head attention with sinusoidal positions under two LSTM layers",
        "Embedding 512 -> Dropout 0.1 -> 8-head attention -> Dropout -> LSTM 512 x 2 -> Dropout -> vocabulary",
        _RECURRENT
        | {"embedding_size": 512, "width": 512, "layers": 2, "heads": 8, "positions": "sinusoidal", "dropout": 0.1},
        _TRAINING,
        "word",
        {"min_frequency": 2},
    ),
)
