"""The flags of `danmaku worker`: bert-serving-start's, with the same names and defaults, and a few of ours.

Flags for TensorFlow, and for a GPU that is not used, are accepted with a warning, so existing start scripts still work.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from service.cores import count_cores
from service.encoders.device import DEVICES, PRECISIONS, Device
from service.encoders.options import OTHER_NAMES, POOLING_STRATEGIES, EncoderOptions
from service.wire import SERVER_VERSION, STRATEGIES

EXAMPLE = """example:
  danmaku worker -model_dir models/danmaku-bert-mini -num_worker 2 -port 5555 -port_out 5556

All flags of bert-serving-start 1.10 are accepted; `danmaku worker --classic …` runs that server itself (make classic).
"""
DEFAULT_CKPT_NAME = "bert_model.ckpt"
INEFFECTIVE_FLAGS: dict[str, Any] = {"graph_tmp_dir": None, "xla": False, "prefetch_size": 10}
GPU_FLAGS: dict[str, Any] = {"fp16": False, "gpu_memory_fraction": 0.5, "device_map": []}


def add_flags(parser: argparse.ArgumentParser) -> None:
    cores = count_cores()

    paths = parser.add_argument_group("model")
    paths.add_argument(
        "-model_dir", type=Path, required=True, help="directory with the vocabulary, config and checkpoint"
    )
    paths.add_argument("-tuned_model_dir", type=Path, help="directory of the checkpoint, if not -model_dir")
    paths.add_argument(
        "-ckpt_name",
        help=f"prefix of the checkpoint's files [{DEFAULT_CKPT_NAME}, or the directory's own]",
    )
    paths.add_argument("-config_name", default="bert_config.json", help="name of the config file [%(default)s]")

    bert = parser.add_argument_group("vectors")
    bert.add_argument(
        "-max_seq_len", type=_max_seq_len, default=25, help="maximum tokens per text, or NONE [%(default)s]"
    )
    bert.add_argument("-cased_tokenization", dest="do_lower_case", action="store_false", help="keep case and accents")
    bert.add_argument("-pooling_layer", type=int, nargs="+", help="layers to pool, concatenated [-2, or the model's]")
    bert.add_argument(
        "-pooling_strategy",
        choices=(*POOLING_STRATEGIES, *OTHER_NAMES),
        help="how to combine token vectors [REDUCE_MEAN, or the model's]",
        metavar="|".join(POOLING_STRATEGIES),
    )
    bert.add_argument("-mask_cls_sep", action="store_true", help="hide [CLS] and [SEP] from attention and pooling")
    bert.add_argument(
        "-no_special_token", action="store_true", help="do not add [CLS] and [SEP] to texts sent as tokens"
    )
    bert.add_argument("-show_tokens_to_client", action="store_true", help="return the tokens with the vectors")
    bert.add_argument("-no_position_embeddings", action="store_true", help="do not add position embeddings")
    bert.add_argument("-sentence_pairs", action="store_true", help="read `a ||| b` as a pair of texts")
    bert.add_argument("-precision", choices=PRECISIONS, default="float32", help="numeric precision [%(default)s]")
    bert.add_argument("-allow_inexact", action="store_true", help="start even if vectors differ from float32")

    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "-bind", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; * for all [%(default)s]"
    )
    serving.add_argument(
        "-port", "-port_in", "-port_data", type=int, default=5555, help="port for requests [%(default)s]"
    )
    serving.add_argument("-port_out", "-port_result", type=int, default=5556, help="port for responses [%(default)s]")
    serving.add_argument("-http_port", type=int, help="port for /encode and /status/server over HTTP")
    serving.add_argument(
        "-http_max_connect", type=int, default=10, help="maximum concurrent HTTP requests [%(default)s]"
    )
    serving.add_argument("-metrics_port", type=int, help="port for Prometheus' /metrics; monitoring/ expects 9101")
    serving.add_argument(
        "-key_file",
        type=Path,
        help="worker.key_secret; accept only clients that have worker.key (danmaku key --worker)",
    )
    serving.add_argument("-cors", default="", help="Access-Control-Allow-Origin of HTTP responses [none]")
    serving.add_argument(
        "-num_worker",
        type=int,
        default=1,
        help="concurrent model calls: 1 gives the lowest latency for single texts, one per thread the highest "
        "throughput [%(default)s]",
    )
    serving.add_argument(
        "-threads", type=int, default=cores, help="threads for all model calls [%(default)s, the cores]"
    )
    serving.add_argument("-max_batch_size", type=int, default=256, help="maximum texts per model call [%(default)s]")
    serving.add_argument(
        "-priority_batch_size",
        type=int,
        default=16,
        help="requests with at most this many texts take priority [%(default)s]",
    )
    serving.add_argument(
        "-fixed_embed_length",
        action="store_true",
        help="pad to the model's number of positions if pooling_strategy and max_seq_len are NONE",
    )
    serving.add_argument("-allow_terminate", action="store_true", help="let clients stop the worker with TERMINATION")

    devices = parser.add_argument_group("device")
    devices.add_argument(
        "-device", choices=DEVICES, default="cpu", help="device that runs the model; see docs/gpu.md [%(default)s]"
    )
    devices.add_argument("-cpu", action="store_true", help="the default")
    devices.add_argument("-fp16", action="store_true", help="with -device cuda: same as -precision float16")
    devices.add_argument(
        "-gpu_memory_fraction",
        type=float,
        default=GPU_FLAGS["gpu_memory_fraction"],
        help="with -device cuda: fraction of each GPU's memory to use [%(default)s]",
    )
    devices.add_argument(
        "-device_map",
        type=int,
        nargs="+",
        default=GPU_FLAGS["device_map"],
        help="with -device cuda: indexes of the GPUs; model calls are spread over them [0]",
    )

    ineffective = parser.add_argument_group("accepted for compatibility, but ignored")
    for name, default in INEFFECTIVE_FLAGS.items():
        if default is False:
            ineffective.add_argument(f"-{name}", action="store_true")
        else:
            ineffective.add_argument(f"-{name}", default=default)
    parser.add_argument("-verbose", action="store_true", help="log every request")
    parser.add_argument("-version", action="version", version=f"%(prog)s, as bert-serving-server {SERVER_VERSION}")


def encoder_options(flags: argparse.Namespace) -> EncoderOptions:
    return EncoderOptions(
        pooling_layer=None if flags.pooling_layer is None else tuple(flags.pooling_layer),
        pooling_strategy=flags.pooling_strategy,
        mask_cls_sep=flags.mask_cls_sep,
        max_seq_len=flags.max_seq_len,
        cased_tokenization=not flags.do_lower_case,
        no_special_token=flags.no_special_token,
        no_position_embeddings=flags.no_position_embeddings,
        sentence_pairs=flags.sentence_pairs,
        precision="float16" if flags.fp16 and flags.device == "cuda" else flags.precision,
        allow_inexact=flags.allow_inexact,
    )


def choose_device(flags: argparse.Namespace) -> Device:
    return Device(flags.device, tuple(flags.device_map) or (0,), flags.gpu_memory_fraction)


def ineffective_flags(flags: argparse.Namespace) -> list[str]:
    """Returns the names of the given flags that have no effect."""
    defaults = INEFFECTIVE_FLAGS if flags.device == "cuda" else INEFFECTIVE_FLAGS | GPU_FLAGS
    return [f"-{name}" for name, default in defaults.items() if getattr(flags, name) != default]


def find_faults(flags: argparse.Namespace) -> list[str]:
    """Returns a sentence for each invalid value."""
    faults = [
        f"invalid -{name}: {value}; expected at least 1"
        for name in ("num_worker", "threads", "max_batch_size", "http_max_connect")
        if (value := getattr(flags, name)) < 1
    ]
    if flags.port == flags.port_out != 0:
        faults.append(f"invalid -port_out: {flags.port} is also -port; expected two different ports")
    if flags.device == "cuda":
        if flags.cpu:
            faults.append("invalid -cpu: true with -device cuda; expected one of them")
        if not 0 < flags.gpu_memory_fraction <= 1:
            faults.append(f"invalid -gpu_memory_fraction: {flags.gpu_memory_fraction}; expected above 0 and at most 1")
        if any(gpu < 0 for gpu in flags.device_map):
            faults.append(f"invalid -device_map: {flags.device_map}; expected indexes of GPUs, from 0")
    return faults


def describe_flags(flags: argparse.Namespace, options: EncoderOptions) -> dict[str, Any]:
    """Returns the flags for SHOW_CONFIG, under bert-serving-start's names and with the number of the strategy.

    `options` are the encoder's, completed by the model's own.
    """
    values = {name: str(value) if isinstance(value, Path) else value for name, value in sorted(vars(flags).items())}
    values.pop("command", None)  # belongs to our command line
    values["ckpt_name"] = flags.ckpt_name or DEFAULT_CKPT_NAME
    values["pooling_layer"], values["pooling_strategy"] = options.pooling_layer, STRATEGIES.index(options.strategy)
    values["do_lower_case"] = not options.cased_tokenization
    return values


def _max_seq_len(value: str) -> int | None:
    if value.lower() == "none":
        return None
    if not value.isdecimal() or int(value) <= 3:
        raise argparse.ArgumentTypeError(f"invalid length: {value!r}; expected a number above 3, or NONE for no limit")
    return int(value)
