"""The model computes what BERT computes, according to independent numpy code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service.model_directory import BertConfig
from training.bert import model
from training.bert.losses import losses

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=12,
    initializer_range=0.3,  # far from zero, so that a mistake shows
)


@pytest.fixture(scope="module")
def params() -> dict[str, np.ndarray]:
    """Random values everywhere, including biases and LayerNorm."""
    rng = np.random.default_rng(0)
    values = model.initial_values(CONFIG, 1)
    return {name: value + 0.1 * rng.standard_normal(value.shape, np.float32) for name, value in values.items()}


def inputs(rows: int = 3, length: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    ids = rng.integers(5, 50, (rows, length)).astype(np.int32)
    mask = (np.arange(length) < rng.integers(4, length + 1, (rows, 1))).astype(np.int32)
    return ids, mask, rng.integers(0, 2, (rows, length)).astype(np.int32)


def numpy_bert(params: dict[str, np.ndarray], ids: np.ndarray, segments: np.ndarray) -> list[np.ndarray]:
    """Computes one text without padding in float64, from arXiv 1810.04805 and 1706.03762: [t, h] per layer."""
    p = {name: value.astype(np.float64) for name, value in params.items()}

    def dense(scope: str, x: np.ndarray) -> np.ndarray:
        return np.einsum("ti,io->to", x, p[f"{scope}/kernel"]) + p[f"{scope}/bias"]

    def norm(scope: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * p[f"{scope}/LayerNorm/gamma"] + p[f"{scope}/LayerNorm/beta"]

    x = p["bert/embeddings/word_embeddings"][ids] + p["bert/embeddings/token_type_embeddings"][segments]
    x = norm("bert/embeddings", x + p["bert/embeddings/position_embeddings"][: len(ids)])
    layers = [x]
    for index in range(CONFIG.num_hidden_layers):
        layer, context = f"bert/encoder/layer_{index}", []
        q, k, v = (dense(f"{layer}/attention/self/{name}", x) for name in ("query", "key", "value"))
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            scores = np.exp(q[:, part] @ k[:, part].T / 2.0)
            context.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        attended = dense(f"{layer}/attention/output/dense", np.concatenate(context, axis=-1))
        x = norm(f"{layer}/attention/output", x + attended)
        inner = numpy_gelu(dense(f"{layer}/intermediate/dense", x))
        x = norm(f"{layer}/output", x + dense(f"{layer}/output/dense", inner))
        layers.append(x)
    return layers


def numpy_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_bert_base_has_the_206_variables_of_googles_checkpoint() -> None:
    """bert-as-service looks for these names."""
    shapes = model.variable_shapes(BertConfig(vocab_size=21128))
    assert len(shapes) == 206
    assert shapes["bert/embeddings/word_embeddings"] == (21128, 768)
    assert shapes["bert/embeddings/LayerNorm/gamma"] == (768,)
    assert shapes["bert/encoder/layer_0/attention/self/query/kernel"] == (768, 768)
    assert shapes["bert/encoder/layer_11/intermediate/dense/kernel"] == (768, 3072)
    assert shapes["bert/encoder/layer_11/output/LayerNorm/beta"] == (768,)
    assert shapes["bert/pooler/dense/bias"] == (768,)
    assert shapes["cls/predictions/output_bias"] == (21128,)
    assert shapes["cls/predictions/transform/LayerNorm/beta"] == (768,)
    assert shapes["cls/seq_relationship/output_weights"] == (2, 768)


def test_every_layer_equals_numpys(params: dict[str, np.ndarray]) -> None:
    """One padded batch of texts of different lengths is compared with single texts without padding."""
    ids, mask, segments = inputs()
    outputs = [layer.numpy() for layer in model.encode(params, CONFIG, ids, mask, segments)]
    assert len(outputs) == CONFIG.num_hidden_layers + 1
    assert len(set(mask.sum(axis=1).tolist())) > 1
    for row, length in enumerate(mask.sum(axis=1)):
        expected = numpy_bert(params, ids[row, :length], segments[row, :length])
        for layer, reference in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(layer[row, :length], reference, atol=1e-5)


def test_padding_does_not_change_a_text(params: dict[str, np.ndarray]) -> None:
    """The ids of the padding do not matter."""
    ids, _, segments = inputs(rows=1, length=5)
    alone = model.encode(params, CONFIG, ids, np.ones_like(ids), segments)[-1].numpy()
    padded = np.pad(ids, [(0, 0), (0, 6)], constant_values=17)
    mask = np.pad(np.ones_like(ids), [(0, 0), (0, 6)])
    wide = model.encode(params, CONFIG, padded, mask, np.pad(segments, [(0, 0), (0, 6)]))[-1].numpy()
    np.testing.assert_allclose(wide[:, :5], alone, atol=1e-6)


def test_the_heads_equal_numpys(params: dict[str, np.ndarray]) -> None:
    """The masked-LM head multiplies by the embeddings; the next-sentence head uses [CLS] alone."""
    ids, _, segments = inputs(rows=2)
    positions = np.array([[3, 7], [1, 0]], np.int32)
    hidden = model.encode(params, CONFIG, ids, np.ones_like(ids), segments)[-1]
    lm = model.masked_lm_logits(params, hidden, positions).numpy()
    following = model.next_sentence_logits(params, hidden).numpy()
    for row in range(2):
        x = numpy_bert(params, ids[row], segments[row])[-1]
        picked = x[positions[row]] @ params["cls/predictions/transform/dense/kernel"]
        picked = numpy_gelu(picked + params["cls/predictions/transform/dense/bias"])
        picked = (picked - picked.mean(-1, keepdims=True)) / np.sqrt(picked.var(-1, keepdims=True) + 1e-12)
        picked = picked * params["cls/predictions/transform/LayerNorm/gamma"]
        picked = picked + params["cls/predictions/transform/LayerNorm/beta"]
        scores = picked @ params["bert/embeddings/word_embeddings"].T + params["cls/predictions/output_bias"]
        np.testing.assert_allclose(lm[row], scores, atol=1e-4)
        pooled = np.tanh(x[0] @ params["bert/pooler/dense/kernel"] + params["bert/pooler/dense/bias"])
        labels = pooled @ params["cls/seq_relationship/output_weights"].T
        np.testing.assert_allclose(following[row], labels + params["cls/seq_relationship/output_bias"], atol=1e-5)


def test_losses_count_masked_tokens_by_their_weight(params: dict[str, np.ndarray]) -> None:
    """Padding among the predictions has no weight, whatever its id."""
    ids, mask, segments = inputs(rows=2)
    features = {
        "input_ids": ids,
        "input_mask": mask,
        "segment_ids": segments,
        "masked_lm_positions": np.array([[1, 2, 0], [3, 0, 0]], np.int32),
        "masked_lm_ids": np.array([[9, 8, 0], [7, 0, 0]], np.int32),
        "masked_lm_weights": np.array([[1, 1, 0], [1, 0, 0]], np.float32),
        "next_sentence_labels": np.array([[1], [0]], np.int32),
    }
    hidden = model.encode(params, CONFIG, ids, mask, segments)[-1]
    scores = model.masked_lm_logits(params, hidden, features["masked_lm_positions"]).numpy().astype(np.float64)
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    expected = -(logs[0, 0, 9] + logs[0, 1, 8] + logs[1, 0, 7]) / 3
    found = losses(params, CONFIG, features)
    assert float(found["masked_lm_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(found["predictions"]) == 3
    features["masked_lm_ids"] = np.array([[9, 8, 42], [7, 41, 40]], np.int32)
    assert float(losses(params, CONFIG, features)["masked_lm_loss"]) == float(found["masked_lm_loss"])


def test_gelu_is_exact() -> None:
    """Its approximation by tanh differs by up to 5e-4, so vectors would not match bert-serving-server's."""
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(model.gelu(tf.constant(x)).numpy(), numpy_gelu(x), atol=1e-12)


def test_random_weights_are_those_that_bert_starts_from() -> None:
    """They are a normal distribution cut at two deviations, zeros and ones; the same for the same seed."""
    config = BertConfig(vocab_size=2000, hidden_size=24, num_hidden_layers=1)
    values = model.initial_values(config, 5)
    words = values["bert/embeddings/word_embeddings"]
    assert np.abs(words).max() <= 2 * config.initializer_range
    # The deviation of a unit normal cut at 2 is 0.8796.
    assert words.std() == pytest.approx(0.8796 * config.initializer_range, rel=0.02)
    assert (values["bert/encoder/layer_0/output/LayerNorm/gamma"] == 1).all()
    assert (values["bert/encoder/layer_0/output/dense/bias"] == 0).all()
    assert np.array_equal(words, model.initial_values(config, 5)["bert/embeddings/word_embeddings"])
    assert not np.array_equal(words, model.initial_values(config, 6)["bert/embeddings/word_embeddings"])


def test_dropout_is_a_function_of_its_seed(params: dict[str, np.ndarray]) -> None:
    """The same seed drops the same values; another step drops others."""
    arguments = (params, CONFIG, *inputs())
    one, same, other = (model.encode(*arguments, dropout_seed=tf.constant([1, step]))[-1].numpy() for step in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_no_two_dropouts_of_a_run_share_a_mask() -> None:
    """This includes the second of a step and the first of the next."""
    x = tf.ones([1000])
    masks = []
    for step in range(3):
        dropout = model._Dropout(tf.constant([1, step]))
        masks += [dropout(x, 0.5).numpy() > 0 for _ in range(3)]
    for first in range(len(masks)):
        for second in range(first):
            assert 0.4 < (masks[first] == masks[second]).mean() < 0.6


def test_bfloat16_touches_kernels_only_and_stays_close(params: dict[str, np.ndarray]) -> None:
    """Sums, LayerNorm and outputs stay float32."""
    tensors = {name: tf.constant(value) for name, value in params.items()}
    cast = model.with_kernels_as(tensors, tf.bfloat16)
    assert {name for name in cast if cast[name].dtype == tf.bfloat16} == {n for n in cast if n.endswith("kernel")}
    exact, near = (model.encode(p, CONFIG, *inputs())[-1].numpy() for p in (tensors, cast))
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 0.2


def test_more_tokens_than_positions_are_refused(params: dict[str, np.ndarray]) -> None:
    """TensorFlow would otherwise broadcast or fail far from the cause."""
    with pytest.raises(ValueError, match="13 tokens; expected at most 12"):
        model.encode(params, CONFIG, *inputs(length=13))


def test_a_config_survives_its_file_and_ignores_fields_bert_does_not_use(tmp_path: Path) -> None:
    """Google's files carry pooler_* fields."""
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps({**json.loads(CONFIG.to_json()), "pooler_fc_size": 768}), encoding="utf-8")
    assert BertConfig.from_json_file(path) == CONFIG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "bert_config.json is not .*vocab_size"),
        ("[]", "bert_config.json: expected a JSON object"),
        ("{", "bert_config.json: not JSON"),
        ('{"vocab_size": 9, "hidden_size": 10, "num_attention_heads": 3}', "10; expected a multiple of .* 3"),
        ('{"vocab_size": 9, "hidden_act": "swish"}', "invalid hidden_act: 'swish'; expected one of gelu"),
    ],
)
def test_an_invalid_config_is_explained(tmp_path: Path, text: str, message: str) -> None:
    """The error is one sentence that names the file."""
    path = tmp_path / "bert_config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        BertConfig.from_json_file(path)
