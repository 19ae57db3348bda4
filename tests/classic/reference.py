"""Runs in the environment of bert-serving-server 1.10: what Google's code in it computes, for tests of ours.

    python reference.py forward DIRECTORY   model.ckpt, bert_config.json, inputs.npz → outputs.npz
    python reference.py tokens DIRECTORY    vocab.txt, texts.json → ids.json
    python reference.py records FILE T P    what its input function would read of a TFRecord file → JSON

`modeling.py` and `tokenization.py` are the package's. The two heads are not in it: they follow their definition in
run_pretraining.py (get_masked_lm_output, get_next_sentence_output).
"""

import json
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf  # the package was written for TensorFlow 1

sys.modules["tensorflow"] = tf


class _Layers:
    """The part of tf.contrib.layers that modeling.py uses."""

    @staticmethod
    def layer_norm(inputs, begin_norm_axis, begin_params_axis, scope):
        with tf.variable_scope(scope, default_name="LayerNorm"):
            size = inputs.shape[-1:]
            beta = tf.get_variable("beta", size, initializer=tf.zeros_initializer())
            gamma = tf.get_variable("gamma", size, initializer=tf.ones_initializer())
            mean, variance = tf.nn.moments(inputs, [begin_norm_axis], keep_dims=True)
            return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, 1e-12)


class _Contrib:
    layers = _Layers


tf.contrib = _Contrib
tf.disable_v2_behavior()

import numpy as np  # noqa: E402
from bert_serving.server.bert import modeling, tokenization  # noqa: E402


def forward(directory: Path) -> None:
    config = modeling.BertConfig.from_json_file(str(directory / "bert_config.json"))
    inputs = dict(np.load(directory / "inputs.npz"))
    model = modeling.BertModel(
        config=config,
        is_training=False,
        input_ids=tf.constant(inputs["input_ids"]),
        input_mask=tf.constant(inputs["input_mask"]),
        token_type_ids=tf.constant(inputs["segment_ids"]),
        use_one_hot_embeddings=False,
    )
    layers = [model.get_embedding_output(), *model.get_all_encoder_layers()]
    outputs = {f"layer_{number}": layer for number, layer in enumerate(layers)}
    outputs["masked_lm_log_probs"] = masked_lm(config, model, tf.constant(inputs["masked_lm_positions"]))
    outputs["next_sentence_log_probs"] = next_sentence(config, model.get_pooled_output())
    with tf.Session() as session:
        tf.train.Saver().restore(session, str(directory / "model.ckpt-1"))
        np.savez(directory / "outputs.npz", **session.run(outputs))


def masked_lm(config, model, positions):
    sequence = model.get_all_encoder_layers()[-1]
    gathered = tf.reshape(tf.batch_gather(sequence, positions), [-1, config.hidden_size])
    with tf.variable_scope("cls/predictions"):
        with tf.variable_scope("transform"):
            x = tf.layers.dense(gathered, config.hidden_size, activation=modeling.get_activation(config.hidden_act))
            x = modeling.layer_norm(x)
        bias = tf.get_variable("output_bias", [config.vocab_size], initializer=tf.zeros_initializer())
        logits = tf.nn.bias_add(tf.matmul(x, model.get_embedding_table(), transpose_b=True), bias)
        return tf.nn.log_softmax(logits, axis=-1)


def next_sentence(config, pooled_output):
    with tf.variable_scope("cls/seq_relationship"):
        weights = tf.get_variable("output_weights", [2, config.hidden_size])
        bias = tf.get_variable("output_bias", [2], initializer=tf.zeros_initializer())
        return tf.nn.log_softmax(tf.nn.bias_add(tf.matmul(pooled_output, weights, transpose_b=True), bias), axis=-1)


def tokens(directory: Path) -> None:
    tokenizer = tokenization.FullTokenizer(str(directory / "vocab.txt"), do_lower_case=True)
    texts = json.loads((directory / "texts.json").read_text(encoding="utf-8"))
    ids = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts]
    (directory / "ids.json").write_text(json.dumps(ids), encoding="utf-8")


def records(path: str, t: int, p: int) -> None:
    """name_to_features and _decode_record of run_pretraining.py's input function."""
    features = {name: tf.FixedLenFeature([t], tf.int64) for name in ("input_ids", "input_mask", "segment_ids")}
    features |= {name: tf.FixedLenFeature([p], tf.int64) for name in ("masked_lm_positions", "masked_lm_ids")}
    features["masked_lm_weights"] = tf.FixedLenFeature([p], tf.float32)
    features["next_sentence_labels"] = tf.FixedLenFeature([1], tf.int64)
    serialized = tf.placeholder(tf.string, [])
    parsed = tf.parse_single_example(serialized, features)
    with tf.Session() as session:
        rows = [
            {name: value.tolist() for name, value in session.run(parsed, {serialized: record}).items()}
            for record in tf.python_io.tf_record_iterator(path)
        ]
    print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1] == "records":
        records(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        {"forward": forward, "tokens": tokens}[sys.argv[1]](Path(sys.argv[2]))
