"""Writes the metrics of a run for TensorBoard: `tensorboard --logdir WORKDIR`.

An event file is a TFRecord file of `Event` messages (tensorflow/core/util/event.proto), which TensorFlow alone can
write; `tf.summary.scalar` would require TensorBoard on the training machine.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf


class Summaries:
    """An event file in `directory`, created when the first numbers are added."""

    def __init__(self, directory: Path, step: int) -> None:
        self._directory, self._step = directory, step
        self._writer: tf.io.TFRecordWriter | None = None

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        if self._writer is None:
            name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
            self._writer = tf.io.TFRecordWriter(str(self._directory / name))
            self._write(file_version="brain.Event:2")
            # For a resumed run: makes TensorBoard discard what earlier files have after the checkpoint.
            start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
            self._write(step=self._step + 1, session_log=start)
        values = [tf.compat.v1.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._write(step=step, summary=tf.compat.v1.Summary(value=values))
        self._writer.flush()

    def _write(self, **fields: object) -> None:
        assert self._writer is not None
        self._writer.write(tf.compat.v1.Event(wall_time=time.time(), **fields).SerializeToString())
