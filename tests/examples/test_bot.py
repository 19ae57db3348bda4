"""The bot beside a real gateway: every line is dealt with, whatever becomes of the gateway meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import pytest
from danmaku_client import AsyncClient, GatewayError
from processes import ROOT, free_ports, serving

from examples.bot.__main__ import main, read_script
from examples.bot.bot import Bot, Settings
from examples.bot.report import Counts, Report
from examples.bot.script import Reply
from examples.bot.sources import Said, SourceError


class Recording:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.replies: list[tuple[float, Reply]] = []
        self.has_begun, self.in_trouble = asyncio.Event(), asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
    def end(self, counts: Counts) -> None: ...

    def progress(self, at_s: float, counts: Counts) -> None:
        if counts.embedded > 100:
            self.has_begun.set()

    def report(self, report: Report) -> None:
        self.reports.append(report)

    def reply(self, at_s: float, reply: Reply) -> None:
        self.replies.append((at_s, reply))

    def trouble(self, reason: str) -> None:
        self.in_trouble.set()


async def stream(*lines: tuple[float, str]) -> AsyncIterator[Said]:
    for at_s, text in lines:
        yield Said(text, at_s, time.monotonic())


@pytest.fixture(scope="module")
def gateway(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    collections = f"sqlite://{tmp_path_factory.mktemp('collections')}"
    with serving("--collections", collections, model=f"onnx://{tiny_model}") as (http, _):
        yield str(http.base_url)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    heads = ROOT / "models/danmaku-bert-mini/heads/question"
    with serving("--collections", f"sqlite://{tmp_path_factory.mktemp('collections')}", "--heads", str(heads)) as (
        http,
        _,
    ):
        yield str(http.base_url)


async def test_a_chat_is_followed(gateway: str) -> None:
    """Told every minute of the stream and at its end; a minute in which nobody says anything is passed over."""
    view = Recording()
    settings = Settings(collection="followed", script=[("晚安", "下次见")], watch="草")
    lines = [(10.0, "好"), (11, "草"), (12, "草"), (15, " "), (20, "晚安"), (75, "草"), (400, "晚安")]
    async with AsyncClient(gateway) as client:
        bot = Bot(client, settings, view)
        await bot.run(stream(*lines))
        kept = await client.search("followed", "草", top_k=9, min_score=-1)

    assert (bot.counts.read, bot.counts.embedded, bot.counts.without_vector, bot.counts.waiting) == (7, 6, 1, 0)
    assert len(bot.counts.delays_s) == 7 and bot.counts.delay_ms(99) > 0
    assert [(report.at_s, report.lines) for report in view.reports] == [(60, 4), (120, 2), (390, 1)]
    assert [(topic.text, topic.count) for topic in view.reports[0].topics] == [("草", 2)]
    assert [(copy.text, copy.count) for copy in view.reports[-1].copies] == [("草", 3)]
    assert [(at_s, reply.line, reply.says) for at_s, reply in view.replies] == [
        (10, "晚安", "下次见"),
        (390, "晚安", "下次见"),
    ]
    assert {match.text: match.count for match in kept.matches[0]} == {"草": 3, "好": 1, "晚安": 2}


@pytest.mark.parametrize("model", ["bundled", "tiny"])
async def test_what_means_the_opposite_is_not_answered(bundled: str, gateway: str, model: str) -> None:
    """By the script as it is shipped: the bundled model's vectors of opposites are near, the tiny one's all are."""
    view, script = Recording(), read_script(ROOT / "examples/script.tsv")
    lines = stream((1, "声音太大了"), (2, "早上好"), (3, "不要再来一首了"), (40, "声音太小了！"), (41, "再来一首"))
    async with AsyncClient(bundled if model == "bundled" else gateway) as client:
        await Bot(client, Settings(collection="opposites", script=script), view).run(lines)

    assert [(reply.line, reply.says) for _, reply in view.replies] == [
        ("声音太小了！", "收到，麦克风这就调大"),
        ("再来一首", "好，那就再唱一首"),
    ]


async def test_only_questions_are_answered(bundled: str) -> None:
    """By the bundled head, which tells them without their marks; or all lines but questions."""
    script, said = [("这首歌叫什么", "小幸运"), ("太好听了", "谢谢")], ((1, "这首歌叫什么"), (2, "太好听了"))
    question = frozenset({("question", "question")})
    replies = []
    async with AsyncClient(bundled) as client:
        for settings in (Settings(only=question, script=script), Settings(skip=question, script=script)):
            view = Recording()
            await Bot(client, settings, view).run(stream(*said))
            replies.append([reply.says for _, reply in view.replies])
        with pytest.raises(GatewayError, match="no head 'spam'"):
            await Bot(client, Settings(skip=frozenset({("spam", "spam")})), Recording()).run(stream((1, "草")))

    assert replies == [["小幸运"], ["谢谢"]]


async def test_lines_leave_the_collection_after_a_while(gateway: str) -> None:
    async with AsyncClient(gateway) as client:
        await Bot(client, Settings(collection="brief", ttl_s=0.01), Recording()).run(stream((0, "草"), (1, "好")))
        for _ in range(3000):
            if not (await client.search("brief", "草", min_score=-1)).matches[0]:
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("the lines stay")


async def test_what_ends_a_source_is_raised_when_all_lines_are_dealt_with(gateway: str) -> None:
    async def breaking() -> AsyncIterator[Said]:
        async for said in stream((0, "草"), (1, "好")):
            yield said
        raise SourceError("the room is closed")

    async with AsyncClient(gateway) as client:
        bot = Bot(client, Settings(collection="broken"), view := Recording())
        with pytest.raises(SourceError, match="the room is closed"):
            await bot.run(breaking())

    assert (bot.counts.embedded, view.reports[-1].lines) == (2, 2)


async def test_no_line_is_lost_when_the_gateway_goes_and_another_model_comes(tiny_model: Path, tmp_path: Path) -> None:
    """It is killed in the middle of a stream. The lines wait, longer than the client tries; then a gateway with vectors
    of another kind takes over, and both the last minute and the collection begin anew.
    """
    model, (port,) = f"onnx://{tiny_model}", free_ports(1)
    flags = ("--collections", f"sqlite://{tmp_path}/c")
    view, is_killed = Recording(), asyncio.Event()

    async def lines() -> AsyncIterator[Said]:
        for number in range(600):
            yield Said("草" if number % 2 else "晚安", float(number), time.monotonic())
            await asyncio.sleep(0)
            if number == 300:
                await is_killed.wait()

    async with AsyncClient(f"http://127.0.0.1:{port}", timeout_s=0.5) as client:
        bot = Bot(client, Settings(watch="草"), view)
        with serving(*flags, model=model, port=port) as (_, process):
            running = asyncio.create_task(bot.run(lines()))
            await view.has_begun.wait()
            process.kill()
            is_killed.set()
            await view.in_trouble.wait()
        with serving(*flags, "--pooling-strategy", "CLS_TOKEN", model=model, port=port):
            await running
            (found,) = [each for each in await client.collections() if each.name == "chat"]
            fingerprint = (await client.info()).fingerprint

    assert (bot.counts.read, bot.counts.embedded, bot.counts.waiting) == (600, 600, 0)
    assert (found.fingerprint, found.count) == (fingerprint, 2)
    assert (view.reports[-1].lines, view.reports[-1].copies[0].count < 300) == (60, True)


def test_the_command_reads_a_pipe(gateway: str) -> None:
    """And says what it made of it when the pipe is closed."""
    command = [sys.executable, "-m", "examples.bot", "-", "--url", gateway, "--collection", "piped"]
    given = subprocess.run(command, input="草\n草\n好", cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (given.returncode, given.stderr) == (0, "")
    assert "3 lines in a minute" in given.stdout and "「草」" in given.stdout
    assert "3 lines read, 3 embedded, 0 without a vector, 0 lost" in given.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "code", "why"),
    [
        (["room:1", "--speed", "60"], 2, "invalid --speed: standard input"),
        (["-", "--script", "{}/script.tsv"], 1, "pair 1 has 1 parts"),
        (["{}/none", "--speed", "1"], 1, "cannot be read"),
        (["{}/none"], 1, "does not exist"),
        (["{}/chat.ndjson", "--url", "http://127.0.0.1:9"], 1, "`make serve` starts one"),
        (["{}/chat.ndjson", "--speed", "0"], 2, "invalid --speed: 0; expected a number above 0"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, why: str
) -> None:
    (tmp_path / "script.tsv").write_text("heard and said\n", encoding="utf-8")
    (tmp_path / "chat.ndjson").write_text('{"text": "草", "time": 1}\n', encoding="utf-8")

    assert main([flag.format(tmp_path) for flag in flags]) == code
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_a_screen_shows_topics_and_replies() -> None:
    """With rich, as on a terminal."""
    program = """
from danmaku_client import SimilarMatch, Topic

from examples.bot.report import Counts, Report
from examples.bot.script import Reply
from examples.bot.views import Screen

with Screen() as view:
    view.reply(61, Reply("晚上好", "晚上好呀 [b]"))
    topic = Topic(1, "[草]", 3, 1.0, 0.0, [3], [("[草]", 2), ("生草", 1)])
    view.report(Report(60, 5, [topic], "草", [SimilarMatch("1", "草", 1.0, {}, 4)]))
    view.progress(62, Counts(read=5, embedded=4))
    view.end(Counts(read=5, embedded=5))
"""
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert shown.returncode == 0, shown.stderr
    for part in ("[草]", "生草", "4 copies of 草", "0:01:01  晚上好  →  晚上好呀 [b]", "5 lines read, 5 embedded"):
        assert part in shown.stdout
