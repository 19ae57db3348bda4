"""Checks that vectors are close enough to those in float32 to be served, by the smallest cosine for a few danmaku."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from service.encoders.inputs import Inputs
from service.encoders.model import Model, Prepared
from service.encoders.options import EncoderOptions
from service.errors import ConfigurationError

MIN_COSINE = 0.999
# Invented samples of the usual kinds: laughter, praise, questions, names, Japanese, faces, digits, long and short.
SAMPLE = """
草 / 草草草 / 哈哈哈哈哈哈哈哈 / 笑死我了 / 23333333333 / awsl / AWSL!!! / 啊我死了 / 好可爱啊 / 太可爱了吧
你好 / 晚上好 / 晚安 晚安 明天见 / 大家早上好 / 来了来了 / 前排 / 第一次这么早 / 这是谁啊 / 这首歌叫什么名字
好听! / 单曲循环中 / 耳朵怀孕了 / 前方高能 / 高能预警 / 名场面 / 经典复习 / 泪目 / 破防了 / 有内味了 / 真实
确实 / 不愧是你 / 这就是爱情吗 / 我 也 想 要 / 学到了 / 下次一定 / kksk / 阿夸 / aqua夸哥 / 狐狸叫 / おはよう
かわいい / 助かる / 草生える / 初見です / (´・ω・`) / ヾ(≧▽≦*)o / orz / QAQ / ??? / 。。。。。。 / 😂😂😂
66666 / b站首页 / p2在哪里 / one more time / 空降成功感谢指路 / 注意看他的表情 / 第 一
这个视频我看了三遍了每次都能看到新的东西 / 主播今天状态不错啊 / 弹幕护体弹幕护体 / thank you very much!
"""


class LocalEncoder(Protocol):
    """Encodes prepared texts in the caller's thread."""

    @property
    def model(self) -> Model: ...

    inputs: Inputs
    options: EncoderOptions

    def encode_now(self, batch: Sequence[Prepared]) -> np.ndarray: ...


def encode_sample(encoder: LocalEncoder) -> np.ndarray:
    """Returns the vectors of the sample, or of its tokens with the strategy NONE: [n, dim]."""
    rows = encoder.inputs.prepare_texts(SAMPLE.strip().replace("\n", " / ").split(" / "))
    return encoder.encode_now(rows).reshape(-1, encoder.model.dim)


def check_exactness(encoder: LocalEncoder, exact: np.ndarray) -> None:
    """Raises ConfigurationError if a vector of the sample is too far from the exact one."""
    cosine = min_cosine(encode_sample(encoder), exact)
    if not cosine >= MIN_COSINE:
        raise ConfigurationError(
            f"invalid precision: {encoder.model.name} in {encoder.options.precision} has vectors with a cosine of "
            f"{cosine:.5f} to those in float32; expected at least {MIN_COSINE}. Use float32, or allow inexact vectors"
        )


def min_cosine(vectors: np.ndarray, exact: np.ndarray) -> float:
    """Returns the smallest cosine between rows of two matrices [n, dim]."""
    is_token = exact.any(axis=1)  # padding is zero
    ours, theirs = vectors[is_token].astype(np.float64), exact[is_token].astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(np.min(np.sum(ours * theirs, axis=1) / lengths))
