"""Presets: the sizes of their sources, options, configuration, and what they refuse."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from minilm.models import describe, num_parameters
from minilm.presets import PRESETS, ModelConfig, build, find_preset
from minilm.train import TrainingOptions
from tests.models.tiny import MODELS, V, batch, configure, make


def lstm(inputs, hidden, layers=1, directions=1):
    """The number of parameters of an LSTM, counted from its definition."""
    return sum(
        directions * 4 * hidden * ((inputs if layer == 0 else directions * hidden) + hidden + 2)
        for layer in range(layers)
    )


SIZES = {
    "bag-of-words": 65 + 1,
    "gpt": 65 * 128 + 64 * 128 + 4 * (3 * 128 * 128 + 128 * 128 + 2 * 512 * 128 + 2 * 128) + 128,
    "lstm-lm": 65 * 256 + lstm(256, 512, 2) + 513 * 65,
    "attention-lstm-lm": 65 * 512 + 4 * 512 * 513 + lstm(512, 512, 2) + 513 * 65,
    "lstm-classifier": 65 * 64 + lstm(64, 64) + 65,
    "bilstm-classifier": 65 * 64 + lstm(64, 64, directions=2) + 129,
    "conv-lstm-classifier": 65 * 64 + 64 * 64 * 3 + 64 + lstm(64, 64) + 65,
}


def test_sizes_are_those_of_the_sources():
    assert SIZES.keys() == PRESETS.keys()
    assert {name: num_parameters(build(name, vocab_size=65)) for name in PRESETS} == SIZES


@pytest.mark.parametrize("name", PRESETS)
def test_every_option_is_documented(name):
    preset = PRESETS[name]
    options = {option: default for option, default, meaning in preset.options() if meaning}
    assert options.keys() == {option for option, _, _ in preset.options()}
    assert options.items() >= preset.model.items()


@pytest.mark.parametrize("name", MODELS)
def test_config_rebuilds_the_model(name):
    config = configure(name, seed=3)
    again = ModelConfig.from_json(json.loads(json.dumps(asdict(config))))
    assert again == config
    want, state = config.build().state(), again.build().state()
    assert state.keys() == want.keys()
    for key, array in state.items():
        assert array.dtype == "float64"
        np.testing.assert_array_equal(array, want[key])


def test_bag_of_words():
    model = build("bag-of-words", vocab_size=V, classes=3, weighting="count")
    assert model.weighting == "count" and model.weight.shape == (V, 3)


def test_seeds_differ():
    one, other = make("gpt", seed=1), make("gpt", seed=2)
    assert (one.backbone.embedding.weight != other.backbone.embedding.weight).any()


@pytest.mark.parametrize("name", ["lstm-classifier", "bilstm-classifier"])
def test_initialization_of_the_classifiers(name):
    """Embeddings in ±0.05, orthogonal recurrent weights, open forget gates; N(0, 1) embeddings learn worse."""
    backbone = build(name, vocab_size=500).backbone
    assert 0.0499 < np.abs(backbone.embedding.weight).max() <= 0.05
    for gate in np.split(backbone.rnn.weight_hh_l0.astype(float), 4):
        np.testing.assert_allclose(gate @ gate.T, np.eye(64), atol=1e-5)
    np.testing.assert_array_equal(backbone.rnn.bias_ih_l0 + backbone.rnn.bias_hh_l0, np.repeat([0, 1, 0, 0], 64))


def test_training_options_name_how_long():
    for preset in PRESETS.values():
        assert ("steps" in preset.training) != ("epochs" in preset.training)
        assert preset.training["optimizer"] in ("adam", "adamw") and preset.training["batch_size"] > 0
        json.dumps(preset._asdict())
        TrainingOptions(**preset.training)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gtp", {}, "did you mean gpt.*bilstm-classifier"),
        ("zzz", {}, "unknown; choose .*conv-lstm-classifier"),
        ("gpt", {"layer": 3}, "did you mean layers.*activation"),
        ("gpt", {"bidirectional": True}, "option of gpt 'bidirectional' is unknown"),
        ("lstm-lm", {"bidirectional": True}, "sees later tokens"),
        ("gpt", {"causal": False}, "sees later tokens"),
        ("gpt", {"width": -128}, "width is -128"),
        ("gpt", {"layers": 0}, "layers is 0"),
        ("gpt", {"layers": 2.0}, "layers is 2.0"),
        ("gpt", {"width": True}, "width is True"),
        ("gpt", {"width": None}, "width is None"),
        ("gpt", {"heads": 0}, "heads is 0"),
        ("gpt", {"heads": 3}, "width 128 must be a multiple of the number of heads, 3"),
        ("gpt", {"kv_heads": 3}, "4 heads can't share 3"),
        ("gpt", {"context": -1}, "context is -1"),
        ("gpt", {"dropout": 1.0}, "dropout is 1.0"),
        ("gpt", {"dropout": "no"}, "dropout is 'no'"),
        ("gpt", {"bias": "yes"}, "bias is 'yes', expected true or false"),
        ("gpt", {"norm": 3}, "norm 3 is unknown; choose layer, rms"),
        ("gpt", {"norm": "batch"}, "rms"),
        ("gpt", {"activation": "swish"}, "silu"),
        ("gpt", {"positions": "relative"}, "alibi"),
        ("gpt", {"positions": "rotary", "width": 12}, "head size 3 must be even"),
        ("lstm-lm", {"cell": "elman"}, "gru"),
        ("lstm-lm", {"heads": -1}, "heads is -1"),
        ("bag-of-words", {"pooling": "max"}, "no hidden vectors for max pooling"),
        ("lstm-classifier", {"labels": ("good", "good")}, "2 different labels, got good, good"),
        ("lstm-lm", {"positions": "alibi"}, "set heads"),
        ("lstm-lm", {"tied": True}, "tied=False"),
        ("attention-lstm-lm", {"heads": 7}, "multiple of the number of heads, 7"),
        ("lstm-classifier", {"pooling": "first"}, "mean"),
        ("bag-of-words", {"weighting": "tf"}, "binary"),
        ("bag-of-words", {"width": 3}, "option of bag-of-words 'width' is unknown"),
        ("lstm-classifier", {"initialization": "zeros"}, "orthogonal"),
        ("lstm-classifier", {"embedding_bound": -1}, "embedding_bound is -1"),
        ("lstm-classifier", {"positions": "learned"}, "context"),
        ("gpt", {"vocab_size": 0}, "vocab_size is 0"),
        ("lstm-classifier", {"classes": 1}, "at least 2 different labels, got 0"),
        ("gpt", {"seed": -1}, "seed is -1"),
        ("gpt", {"dtype": "float16"}, "float32"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **({"vocab_size": 50} | options))


def test_find_preset():
    assert find_preset("gpt") is PRESETS["gpt"]


def test_summary():
    model = make("lstm-classifier")
    count = sum(array.size for array in model.parameters().values())
    assert num_parameters(model) == num_parameters(model, trainable=True) == count
    model.freeze("backbone.*")
    table = describe(model)
    assert num_parameters(model, trainable=True) == 6
    assert len(table.splitlines()) == len(model.parameters()) + 2
    assert f"{count}" in table and "6 trained" in table and table.count("frozen") == 5
    assert "backbone.embedding.weight" in table and "11 x 6" in table


def test_batch_helper_has_padding():
    """The tests of padding rest on rows of different lengths and on ignored targets."""
    data = batch()
    assert len(set(data.lengths.tolist())) == 3 and (data.targets == -100).any() and data.ids.max() < V
