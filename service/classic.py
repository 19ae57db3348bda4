"""Runs the genuine bert-serving-server 1.10 of 2019 on current versions of TensorFlow and Python.

    danmaku worker --classic -model_dir DIR -num_worker 1 …      every flag is bert-serving-start's

Our worker is compared with it. It imports `tensorflow` and expects version 1: TensorFlow 2.15 still has that as
`tensorflow.compat.v1`, without three parts that are supplied here. It needs the extra `classic` in a separate
environment (`make classic`). The service does not import this file, and this file does not import the service.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import tempfile
import types
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM, Ctrl-C or a TERMINATION message. Raises ModuleNotFoundError without the extra."""
    if not importlib.util.find_spec("bert_serving.server"):
        raise ModuleNotFoundError("bert-serving-server is not installed", name="bert-serving-server")
    present_tensorflow_1()
    from bert_serving.server import BertServer
    from bert_serving.server.helper import get_args_parser

    parsed = get_args_parser().parse_args(list(arguments))
    with tempfile.TemporaryDirectory(prefix="bert-serving-") as sockets:
        # The server never removes its sockets and its frozen graph.
        os.environ.setdefault("ZEROMQ_SOCK_TMP_DIR", sockets)
        parsed.graph_tmp_dir = parsed.graph_tmp_dir or sockets
        server = BertServer(parsed)
        server.start()  # not as a context manager, whose exit would wait forever for a server that has ended
        server.is_ready.wait()
        # Set only now: its processes are forks of this one and need the default handler of SIGTERM.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server._send_close_signal())
        server.join()
        for child in multiprocessing.active_children():  # with -http_port it fails to end its proxy
            child.terminate()
    return 0


def present_tensorflow_1() -> None:
    """Makes `import tensorflow` return version 1's interface, in this process and its forks."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow.compat.v1 as tf

    tf.disable_v2_behavior()
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.contrib = types.SimpleNamespace(layers=types.SimpleNamespace(layer_norm=_layer_norm))
    for name in ("estimator", "run_config", "model_fn"):
        module = importlib.import_module(f"tensorflow_estimator.python.estimator.{name}")
        sys.modules[f"tensorflow.python.estimator.{name}"] = module
    sys.modules["tensorflow"] = tf


def _layer_norm(inputs: Any, begin_norm_axis: int, begin_params_axis: int, scope: str | None) -> Any:
    """Replaces `tf.contrib.layers.layer_norm`: over the last axis, with epsilon 1e-12."""

    import tensorflow as tf

    with tf.variable_scope(scope, default_name="LayerNorm"):
        size = inputs.shape[-1:]
        beta = tf.get_variable("beta", size, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", size, initializer=tf.ones_initializer())
        mean, variance = tf.nn.moments(inputs, [begin_norm_axis], keepdims=True)
        return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, variance_epsilon=1e-12)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
