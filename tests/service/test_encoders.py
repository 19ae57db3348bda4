"""The ONNX encoder returns the vectors of the trained model, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.checkpoint import read_checkpoint
from service.encoders.builder import GraphBuilder
from service.encoders.exactness import encode_sample, min_cosine
from service.encoders.int8 import int8_product
from service.encoders.model import Prepared
from service.encoders.onnx import OnnxEncoder
from service.encoders.open import EncoderSettings, open_encoder
from service.encoders.options import POOLING_STRATEGIES, EncoderOptions
from service.errors import ConfigurationError, ModelError
from service.metrics import Metrics
from service.model_directory import open_model_directory

TEXTS = ["草", "awsl", "哈哈哈哈", "阿夸aqua", "我死了!", "晚安 晚安", "喵喵 草", "清楚清楚", "2333", "你好可爱"]
BUNDLED = Path(__file__).parents[2] / "models" / "danmaku-bert-mini"
PAIRS = ["你好 ||| 晚安", "草", "阿夸aqua ||| 可爱 可爱", "awsl ||| awsl"]

Open = Callable[..., OnnxEncoder]


@pytest.fixture(scope="session")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without zeros and ones, so that a misplaced bias shows."""
    from training.bert import checkpoint

    directory = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "rough"))
    random = np.random.default_rng(5)
    weights = read_checkpoint(tiny_model / "model.ckpt-1")
    rough = {name: values + random.normal(0, 0.2, values.shape).astype(np.float32) for name, values in weights.items()}
    checkpoint.write(directory / "model.ckpt-1", rough)
    return directory


@pytest.fixture
def open_tiny(model: Path) -> Iterator[Open]:
    """Opens the tiny model, or another one, with options."""
    opened: list[OnnxEncoder] = []

    def open_it(*, path: Path = model, **changes: object) -> OnnxEncoder:
        resources = {
            name: changes.pop(name)
            for name in ("threads", "concurrency", "tuned_model_dir", "ckpt_name", "config_name")
            if name in changes
        }
        encoder = OnnxEncoder.open(path, EncoderOptions(**changes), **{"threads": 1, **resources})
        opened.append(encoder)
        return encoder

    yield open_it
    for encoder in opened:
        encoder.close()


async def encode(encoder: OnnxEncoder, texts: list[str]) -> np.ndarray:
    """One model call."""
    return await encoder.encode(encoder.inputs.prepare_texts(texts))


def trained_vectors(model: Path, rows: list[Prepared], options: EncoderOptions) -> list[np.ndarray]:
    """Returns the vectors of the training code, with padding, pooled as bert-serving-server 1.10 does
    (server/graph.py).
    """
    import tensorflow as tf

    from service.model_directory import BertConfig
    from training.bert.model import encode as bert

    ids, mask, segments = (np.zeros((len(rows), 16), np.int32) for _ in range(3))
    for row, prepared in enumerate(rows):
        length = prepared.num_tokens
        ids[row, :length], mask[row, :length] = prepared.ids, 1
        if prepared.segment_b:
            segments[row, prepared.segment_b : length] = 1
        if options.mask_cls_sep and length > 2:
            mask[row, [0, length - 1, *([prepared.segment_b - 1] if prepared.segment_b else [])]] = 0
    config = BertConfig.from_json_file(model / "bert_config.json")
    params = read_checkpoint(model / "model.ckpt-1")
    if options.no_position_embeddings:
        params["bert/embeddings/position_embeddings"] = np.zeros((16, 16), np.float32)
    outputs = bert(params, config, tf.constant(ids), tf.constant(mask), tf.constant(segments))
    hidden = np.concatenate([outputs[layer].numpy() for layer in options.pooling_layer], axis=-1)  # [b, t, h]
    pools = {
        "NONE": lambda h, m: (h * m[:, None])[: m.nonzero()[0][-1] + 1 + options.mask_cls_sep],
        "REDUCE_MEAN": lambda h, m: h[m == 1].mean(0),
        "REDUCE_MAX": lambda h, m: h[m == 1].max(0),
        "REDUCE_MEAN_MAX": lambda h, m: np.concatenate([h[m == 1].mean(0), h[m == 1].max(0)]),
        "CLS_TOKEN": lambda h, m: h[0],
        "SEP_TOKEN": lambda h, m: h[m.sum() - 1],
    }
    if options.strategy == "CLS_POOLED":
        first = outputs[-1].numpy()[:, 0]
        return list(np.tanh(first @ params["bert/pooler/dense/kernel"] + params["bert/pooler/dense/bias"]))
    return [pools[options.strategy](h, m) for h, m in zip(hidden, mask, strict=True)]


@pytest.mark.parametrize("strategy", POOLING_STRATEGIES)
@pytest.mark.parametrize(
    "options",
    [
        {"pooling_layer": (-1,)},
        {"pooling_layer": (-2,)},
        {"pooling_layer": (-4,)},
        {"pooling_layer": (-1, -3)},
        {"mask_cls_sep": True},
        {"sentence_pairs": True},
        {"sentence_pairs": True, "mask_cls_sep": True},
        {"no_position_embeddings": True},
        {"no_position_embeddings": True, "sentence_pairs": True},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
async def test_served_vectors_are_those_of_the_trained_model(
    open_tiny: Open, model: Path, options: dict[str, object], strategy: str
) -> None:
    """This holds for every option, up to rounding."""
    encoder = open_tiny(pooling_strategy=strategy, **options)
    rows = encoder.inputs.prepare_texts(TEXTS + PAIRS if encoder.options.sentence_pairs else TEXTS)
    vectors = await encoder.encode(rows)
    expected = trained_vectors(model, rows, encoder.options)

    assert vectors.shape[-1] == encoder.model.dim
    for vector, wanted in zip(vectors, expected, strict=True):
        if strategy == "NONE":
            assert not vector[len(wanted) :].any()
            vector = vector[: len(wanted)]
        assert vector.shape == wanted.shape
        assert np.abs(vector - wanted).max() < 1e-5


@pytest.mark.parametrize("mask_cls_sep", [False, True])
@pytest.mark.parametrize("strategy", POOLING_STRATEGIES)
async def test_other_texts_of_a_call_do_not_change_a_vector(open_tiny: Open, strategy: str, mask_cls_sep: bool) -> None:
    """This holds up to rounding, even for a blank text, of which mask_cls_sep leaves nothing."""
    encoder = open_tiny(pooling_strategy=strategy, mask_cls_sep=mask_cls_sep)
    texts = [*TEXTS, ""]
    together = await encode(encoder, texts)
    for text, vector in zip(texts, together, strict=True):
        (alone,) = await encode(encoder, [text])
        if strategy == "NONE":
            vector = vector[: len(alone)]
        assert np.abs(vector - alone).max() < 1e-5
        assert np.isfinite(alone).all() and np.abs(alone).max() < 1e3
    assert np.abs(together[0] - together[1]).max() > 0.01


async def test_layers_may_be_counted_from_the_first(open_tiny: Open) -> None:
    from_the_end, from_the_first = open_tiny(pooling_layer=(-2,)), open_tiny(pooling_layer=(1,))

    assert np.array_equal(await encode(from_the_end, TEXTS), await encode(from_the_first, TEXTS))
    assert from_the_end.model.fingerprint == from_the_first.model.fingerprint


def test_no_memory_is_kept_for_each_shape_of_a_call(open_tiny: Open) -> None:
    """A process would grow with every new combination of lengths."""
    assert not open_tiny()._session.runtime.get_session_options().enable_mem_pattern  # type: ignore[attr-defined]  # ONNX Runtime's


async def test_concurrent_calls_and_threads_give_the_same_vectors(open_tiny: Open) -> None:
    expected = await encode(open_tiny(), TEXTS)
    for threads, concurrency in ((2, 1), (2, 2), (3, 2), (1, 5)):
        encoder = open_tiny(threads=threads, concurrency=concurrency)
        for vectors in await asyncio.gather(*(encode(encoder, TEXTS) for _ in range(4))):
            assert np.abs(vectors - expected).max() < 1e-5
        assert encoder.concurrency == min(threads, concurrency)


def test_what_changes_vectors_changes_the_fingerprint(open_tiny: Open) -> None:
    """Other options, such as the number of threads, do not."""
    different = (
        {},
        {"pooling_layer": (-1,)},
        {"pooling_strategy": "REDUCE_MAX"},
        {"pooling_strategy": "CLS_POOLED"},
        {"max_seq_len": 8},
        {"mask_cls_sep": True},
        {"cased_tokenization": True},
        {"no_special_token": True},
        {"no_position_embeddings": True},
        {"sentence_pairs": True},
        {"precision": "int8", "allow_inexact": True},
        {"precision": "float16"},
    )
    fingerprints = [open_tiny(**changes).model.fingerprint for changes in different]

    assert len(set(fingerprints)) == len(different)
    assert open_tiny(threads=2, concurrency=2, max_seq_len=16).model.fingerprint == fingerprints[0]


def test_the_pooler_is_part_of_the_fingerprint_if_it_is_used(open_tiny: Open, model: Path, tmp_path: Path) -> None:
    from training.bert import checkpoint

    other = Path(shutil.copytree(model, tmp_path / "other"))
    weights = dict(read_checkpoint(model / "model.ckpt-1"))
    weights["bert/pooler/dense/bias"] = weights["bert/pooler/dense/bias"] + 1
    checkpoint.write(other / "model.ckpt-1", weights)
    pooled = {"pooling_strategy": "CLS_POOLED"}

    assert open_tiny(path=other).model.fingerprint == open_tiny().model.fingerprint
    assert open_tiny(path=other, **pooled).model.fingerprint != open_tiny(**pooled).model.fingerprint


def test_the_number_of_heads_is_part_of_the_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    """No weight's shape shows it, and every vector depends on it."""
    other = Path(shutil.copytree(tiny_model, tmp_path / "tiny"))
    config = json.loads((other / "bert_config.json").read_text(encoding="utf-8"))
    (other / "bert_config.json").write_text(json.dumps(config | {"num_attention_heads": 2}), encoding="utf-8")

    assert open_model_directory(other).digest != open_model_directory(tiny_model).digest


def test_long_texts_are_truncated_and_marked(open_tiny: Open) -> None:
    """Up to max_seq_len tokens fit, [CLS] and [SEP] included."""
    model = open_tiny(max_seq_len=6).model
    normal = [model.reader.normalize(text) for text in ("哈哈哈哈", "哈哈哈哈草", "awsl" * 3)]
    fits, too_long = model.reader.prepare_normalized(normal[:2])

    assert (fits.num_tokens, fits.is_truncated, too_long.num_tokens, too_long.is_truncated) == (6, False, 6, True)
    assert fits.ids == too_long.ids
    assert [model.truncates(text) for text in normal] == [False, True, False]


def test_a_text_of_unknown_characters_is_unspellable(open_tiny: Open) -> None:
    reader = open_tiny().model.reader
    prepared = reader.prepare_normalized([reader.normalize(text) for text in ("喵喵😂", "喵草")])

    assert [text.is_spelled for text in prepared] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_layer": (-5,)}, r"invalid pooling_layer: \[-5\]"),
        ({"pooling_layer": (3,)}, r"invalid pooling_layer: \[3\]; .* 2 to 0, and the embeddings at −4"),
        ({"pooling_layer": ()}, r"invalid pooling_layer: \[\]"),
        ({"pooling_strategy": "MEAN"}, "expected one of NONE, REDUCE_MEAN"),
        ({"max_seq_len": 17}, "invalid max_seq_len: 17; expected 3 to 16"),
        ({"max_seq_len": 2}, "invalid max_seq_len: 2"),
        ({"max_seq_len": 2, "no_position_embeddings": True}, "expected 3 or more"),
        ({"precision": "float64"}, "expected one of float32, bfloat16, float16, int8"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    open_tiny: Open, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_tiny(**changes)


@pytest.mark.parametrize("strategy", POOLING_STRATEGIES)
async def test_int8_vectors_are_close_and_do_not_depend_on_other_texts(open_tiny: Open, strategy: str) -> None:
    """Every row has a scale of its own."""
    options = {"pooling_strategy": strategy, "mask_cls_sep": True}
    encoder = open_tiny(precision="int8", allow_inexact=True, **options)
    together = await encode(encoder, TEXTS)

    assert 0.95 < min_cosine(encode_sample(encoder), encode_sample(open_tiny(**options))) < 0.999999
    for text, vector in zip(TEXTS, together, strict=True):
        (alone,) = await encode(encoder, [text])
        assert np.abs((vector[: len(alone)] if strategy == "NONE" else vector) - alone).max() < 1e-5


@pytest.mark.parametrize("strategy", POOLING_STRATEGIES)
def test_float16_vectors_are_close_to_those_in_float32(open_tiny: Open, strategy: str) -> None:
    """The graph is that for a GPU; this processor runs it, too."""
    options = {"pooling_strategy": strategy, "mask_cls_sep": True, "sentence_pairs": True}
    vectors = encode_sample(open_tiny(precision="float16", **options))

    assert 0.9999 < min_cosine(vectors, encode_sample(open_tiny(**options))) < 0.99999999


def test_float16_vectors_of_the_bundled_model_are_nearly_those_in_float32(open_tiny: Open) -> None:
    exact, half = (encode_sample(open_tiny(path=BUNDLED, precision=name)) for name in ("float32", "float16"))

    assert min_cosine(half, exact) > 0.99999


def test_int8_sums_do_not_overflow_on_any_processor() -> None:
    """Two products of the largest integers do not fit into 16 bits, in which some processors would add them."""
    kernel = np.ones((64, 32), np.float32)
    graph = GraphBuilder({"kernel": kernel})
    graph.constant("rows", rows := np.ones((2, 64), np.float32))
    graph.constant("input_ids", np.zeros(2, np.int32))  # whose length is the number of rows
    graph.add("Identity", [int8_product(graph, "rows", "kernel")], output="embedding")
    session = onnxruntime.InferenceSession(graph.finish(["n"], 32).SerializeToString())

    np.testing.assert_allclose(session.run(None, {})[0], rows @ kernel, rtol=1e-6)


def test_int8_that_is_far_from_float32_is_refused_unless_allowed(open_tiny: Open, model: Path, tmp_path: Path) -> None:
    """Here, one outlier per column leaves nothing of the other weights."""
    from training.bert import checkpoint

    other = Path(shutil.copytree(model, tmp_path / "other"))
    weights = dict(read_checkpoint(model / "model.ckpt-1"))
    for name in [name for name in weights if name.endswith("/output/dense/kernel")]:
        weights[name] = weights[name].copy()
        weights[name][0] += 60
    checkpoint.write(other / "model.ckpt-1", weights)

    with pytest.raises(ConfigurationError, match=r"cosine of 0\.\d+ to those in float32; expected at least 0\.999"):
        open_tiny(path=other, precision="int8")
    open_tiny(path=other, precision="int8", allow_inexact=True)
    open_tiny(path=BUNDLED, precision="int8")


def test_a_missing_pooler_is_named(open_tiny: Open, model: Path, tmp_path: Path) -> None:
    """Only CLS_POOLED needs one: fine-tuned models may lack it."""
    from training.bert import checkpoint

    other = Path(shutil.copytree(model, tmp_path / "other"))
    weights = read_checkpoint(model / "model.ckpt-1")
    checkpoint.write(other / "model.ckpt-1", {n: v for n, v in weights.items() if not n.startswith("bert/pooler")})
    open_tiny(path=other)

    with pytest.raises(ModelError, match="has no variable bert/pooler/dense/kernel"):
        open_tiny(path=other, pooling_strategy="CLS_POOLED")


def test_a_tuned_checkpoint_may_lie_elsewhere_under_another_name(open_tiny: Open, model: Path, tmp_path: Path) -> None:
    """Vocabulary and configuration come from the model directory."""
    (tmp_path / "tuned").mkdir()
    for file in model.glob("model.ckpt-1.*"):
        shutil.copy(file, tmp_path / "tuned" / file.name.replace("model.ckpt-1", "mine"))
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(model / "vocab.txt", base)
    shutil.copy(model / "bert_config.json", base / "config.json")
    encoder = open_tiny(path=base, tuned_model_dir=tmp_path / "tuned", ckpt_name="mine", config_name="config.json")

    assert encoder.model.fingerprint == open_tiny().model.fingerprint
    with pytest.raises(ModelError, match=r"tuned/bert_model\.ckpt\.index does not exist; .*tuned: mine$"):
        open_tiny(path=base, tuned_model_dir=tmp_path / "tuned", ckpt_name="bert_model.ckpt", config_name="config.json")
    with pytest.raises(ModelError, match=r"base/bert_model\.ckpt\.index does not exist; .*: none$"):
        open_tiny(path=base, ckpt_name="bert_model.ckpt", config_name="config.json")


async def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected onnx://DIRECTORY"):
        await open_encoder("http://x", EncoderSettings(), Metrics())


async def test_a_url_opens_an_encoder(model: Path) -> None:
    encoder = await open_encoder(f"onnx://{model}", EncoderSettings((-1,), "REDUCE_MAX", threads=2), Metrics())
    vectors = await encoder.encode(encoder.model.reader.prepare_normalized(["草"]))
    await encoder.aclose()

    assert (vectors.shape, encoder.concurrency, encoder.model.max_seq_len) == ((1, 16), 2, 16)
