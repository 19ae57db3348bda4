"""Vectors and tokens by bert-serving-server 1.10's own code, without its processes and sockets.

    PYTHON-OF-THE-EXTRA-classic tests/classic/genuine_vectors.py CASES.json OUTPUT.npz

CASES.json: {"flags": [each case's, as bert-serving-start takes them], "inputs": [each case's texts or token lists]}.
OUTPUT.npz: `vectors_0`, … and `tokens`, JSON, in the order of the cases.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.classic import present_tensorflow_1


def main(cases: Path, output: Path) -> None:
    present_tensorflow_1()
    from bert_serving.server.helper import get_args_parser

    asked = json.loads(cases.read_text(encoding="utf-8"))
    arrays, tokens, graphs = {}, [], {}
    for number, (flags, inputs) in enumerate(zip(asked["flags"], asked["inputs"], strict=True)):
        args = get_args_parser().parse_args([*flags, "-graph_tmp_dir", str(output.parent)])
        key = (*args.pooling_layer, args.pooling_strategy, args.no_position_embeddings)  # what a graph depends on
        if key not in graphs:
            graphs[key] = graph_of(args)
        session, config = graphs[key]
        rows = features(args, config, inputs)
        arrays[f"vectors_{number}"] = session.run(
            "final_encodes:0",
            {
                "input_ids:0": [row.input_ids for row in rows],
                "input_mask:0": [row.input_mask for row in rows],
                "input_type_ids:0": [row.input_type_ids for row in rows],
            },
        )
        tokens.append([row.tokens for row in rows])
    np.savez(output, tokens=np.array(json.dumps(tokens)), **arrays)


def graph_of(args: Any) -> tuple[Any, Any]:
    """Returns a session on the graph that the server builds and freezes, and the model's configuration."""
    import tensorflow as tf
    from bert_serving.server.graph import optimize_graph

    with tf.Graph().as_default():
        path, config = optimize_graph(args)
    definition = tf.GraphDef()
    definition.ParseFromString(Path(path).read_bytes())
    os.remove(path)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
    return tf.Session(graph=graph), config


def features(args: Any, config: Any, inputs: list[Any]) -> list[Any]:
    """Returns features as the server's worker makes them (server/__init__.py, BertWorker.input_fn_builder)."""
    from bert_serving.server.bert.extract_features import convert_lst_to_features
    from bert_serving.server.bert.tokenization import FullTokenizer

    tokenizer = FullTokenizer(os.path.join(args.model_dir, "vocab.txt"), do_lower_case=args.do_lower_case)
    return list(
        convert_lst_to_features(
            inputs,
            args.max_seq_len,
            config.max_position_embeddings,
            tokenizer,
            logging.getLogger("features"),
            all(isinstance(one, list) for one in inputs),
            args.mask_cls_sep,
            args.no_special_token,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
