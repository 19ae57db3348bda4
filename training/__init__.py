"""Trains a BERT on danmaku: from recordings to a model directory that the service and bert-as-service load.

Each folder is a stage, in the order of use: `corpus` (recordings to text), `examples` (text to TFRecords), `bert`
(pre-training), `alignment` (contrastive training), `evaluation`, `pictures`, and `tpu` (a check that needs no TPU).
`commands` has one module per command of `danmaku-train`; `config` has the settings of a run. To understand
pre-training, read corpus/clean.py, examples/sentence_pairs.py, examples/masking.py, bert/model.py, bert/losses.py,
bert/step.py and bert/train.py, in this order. README.md shows how to use it.

The result is a directory, `models/<name>/`; `service` never imports this package.
"""
