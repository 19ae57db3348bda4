"""Wrote tests/data/danmaku/: twelve invented videos in the published layout. Nobody posted these lines.

    python tests/data/make_danmaku.py

Besides plain danmaku the files hold what real ones do: commas in the text, rows in no order, an emoji, full
width, blank texts, characters that are too rare to be learned, and rows that are no danmaku at all.
"""

from __future__ import annotations

import random
from pathlib import Path

TOPICS = {
    "1001": [
        "唱得真好",
        "再唱一首",
        "这首歌好听",
        "声音好听",
        "唱歌唱歌",
        "好听好听好听",
        "啊啊啊啊啊",
        "耳朵怀孕了",
    ],
    "1002": ["打得漂亮", "小心后面", "又输了又输了", "这关好难", "加油加油", "还有一条命", "gg", "nice nice"],
    "1003": [
        "今天吃什么",
        "看着好香",
        "我饿了",
        "多放点辣椒",
        "好吃好吃",
        "深夜放毒",
        "给我留一口",
        "这菜好看",
    ],
}
COMMON = [
    "草",
    "哈哈哈哈",
    "来了来了",
    "晚上好",
    "awsl",
    "2333",
    "晚安",
    "好耶",
    "下次一定",
    "可爱可爱",
    "第一",
    "打卡",
]
ODD = ["好听,真的,好听", "Ｎｉｃｅ！", "可爱😀", "  ", "晚安, 明天见", "𝕏", "第一,第二"]
MALFORMED = ["<script>nothing</script>", "没有时间,,2019-02-30", "草,12.5"]
LINES_PER_VIDEO = 70


def main() -> None:
    rng = random.Random(1)
    root = Path(__file__).with_name("danmaku")
    for topic, (uploader, lines) in enumerate(TOPICS.items()):
        for video in range(4):
            rows = []
            for number in range(LINES_PER_VIDEO):
                text = rng.choice(lines if rng.random() < 0.6 else COMMON)
                seconds = rng.uniform(0, 600)
                month, day = rng.randint(1, 5), rng.randint(10, 19)
                rows.append(f"{text},{seconds:.3f},2019-0{month}-{day} 20:{number % 60:02}:00")
            rows += [f"{text},{rng.uniform(0, 600):.1f},2019-03-08 12:00:00" for text in rng.sample(ODD, 4)]
            rows += rng.sample(MALFORMED, 1)
            rng.shuffle(rows)
            path = root / uploader / f"{5000 + 10 * topic + video}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
