"""`danmaku embed` as users run it: row n is line n, and a killed run resumes with the same result."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet
import pytest
from commands import danmaku
from processes import ROOT, serving

LINES = ["草", "awsl", "", "晚安", "哈哈哈" * 20, "☃", "好来了", "  ", "AWSL", "我死"]
DIM = 16


def many_lines(count: int) -> list[str]:
    characters = "草哈阿夸晚安好来了我死"
    return ["".join(characters[number // 11**place % 11] for place in range(4)) for number in range(count)]


@pytest.fixture(scope="module")
def gateway(tiny_model: Path) -> Iterator[httpx.Client]:
    with serving("--max-request-texts", "300", model=f"onnx://{tiny_model}") as (http, _):
        yield http


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "service", "embed", *map(str, arguments)]


def done(*arguments: str | Path, text: str = "") -> str:
    ended = danmaku("embed", *arguments, text=text)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def refused(*arguments: str | Path, status: int = 1, **settings: str) -> str:
    """Returns the command's error, which is one line."""
    ended = danmaku("embed", *arguments, **settings)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def vectors_of(path: Path) -> np.ndarray:
    """Returns [lines, dim] from any kind of output, with NaN for lines without a vector."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".ndjson":
        rows = [json.loads(line)["embedding"] for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        rows = pyarrow.parquet.read_table(path)["embedding"].to_pylist()
    return np.array([[np.nan] * DIM if row is None else row for row in rows], np.float32)


@pytest.fixture
def input_file(tmp_path: Path) -> Path:
    path = tmp_path / "danmaku.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".ndjson", ".parquet"])
def test_every_line_has_its_row(input_file: Path, tiny_model: Path, gateway: httpx.Client, suffix: str) -> None:
    """The vectors equal those of the gateway; a line without a vector keeps its row and is counted."""
    output = input_file.with_name("out" + suffix)
    told = done(input_file, "--output", output, "--encoder", f"onnx://{tiny_model}")
    answer = gateway.post("/embed", json=LINES).json()
    expected = np.array([row or [np.nan] * DIM for row in answer["embeddings"]], np.float32)

    np.testing.assert_allclose(vectors_of(output), expected, atol=1e-5)
    assert "10 lines, 3 without a vector (2 empty_text, 1 unspellable), 1 truncated" in told
    assert answer["fingerprint"] in told
    assert sorted(path.name for path in output.parent.iterdir()) == ["danmaku.txt", "out" + suffix]


@pytest.mark.parametrize("suffix", [".npy", ".ndjson", ".parquet"])
@pytest.mark.parametrize("flags", [[], ["--normalize"]])
def test_with_a_gateway_the_vectors_are_the_gateways(
    tmp_path: Path, gateway: httpx.Client, suffix: str, flags: list[str]
) -> None:
    """They are equal to the last bit; blocks are longer than the gateway accepts in one request."""
    lines = [*LINES, *many_lines(1200)]
    output = tmp_path / f"out{suffix}"
    done("-", "--output", output, "--url", str(gateway.base_url), *flags, text="\n".join(lines))
    bodies = [{"texts": lines[start : start + 300], "normalize": bool(flags)} for start in range(0, len(lines), 300)]
    answers = [row for body in bodies for row in gateway.post("/embed", json=body).json()["embeddings"]]
    expected = np.array([row or [np.nan] * DIM for row in answers], np.float32)

    assert vectors_of(output).tobytes() == expected.tobytes()


def test_tables_have_texts_and_reasons(input_file: Path, gateway: httpx.Client) -> None:
    """NDJSON and Parquet contain the same."""
    for suffix in (".ndjson", ".parquet"):
        done(input_file, "--output", input_file.with_suffix(suffix), "--url", str(gateway.base_url))
    rows = [json.loads(line) for line in input_file.with_suffix(".ndjson").read_text(encoding="utf-8").splitlines()]
    table = pyarrow.parquet.read_table(input_file.with_suffix(".parquet"))

    nothing = {"truncated": False, "error": None, "error_type": None}
    assert [nothing | row | {"embedding": 0} for row in rows] == [row | {"embedding": 0} for row in table.to_pylist()]
    assert [row["text"] for row in rows] == LINES
    assert [row["index"] for row in rows if row.get("truncated")] == [4]
    assert {row["index"]: row["error_type"] for row in rows if "error" in row} == {
        **{2: "empty_text", 5: "unspellable", 7: "empty_text"}
    }
    fingerprint = gateway.get("/info").json()["fingerprint"]
    assert table.schema.metadata[b"danmaku.fingerprint"].decode() == fingerprint


def test_a_line_ends_at_its_newline_and_nowhere_else(tmp_path: Path, gateway: httpx.Client) -> None:
    """Danmaku contain other separators; a line that is not UTF-8 is reported as such, not as blank."""
    (tmp_path / "in.txt").write_bytes(
        "草\u2028好\r\n\x0b\x85\x1c晚安\n".encode() + b"\xff\xfe\n" + "草\n".encode() * 100 + "没有换行".encode()
    )
    done(tmp_path / "in.txt", "--output", tmp_path / "out.ndjson", "--url", str(gateway.base_url))
    rows = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text(encoding="utf-8").split("\n")[:-1]]

    rows = rows[:3] + rows[-1:]
    assert [row["text"] for row in rows] == ["草\u2028好", "\x0b\x85\x1c晚安", "", "没有换行"]
    assert [row.get("error_type") for row in rows] == [None, None, "not_utf8", "unspellable"]


@pytest.mark.parametrize("suffix", [".npy", ".ndjson", ".parquet"])
def test_an_input_without_danmaku_is_refused(tmp_path: Path, tiny_model: Path, suffix: str) -> None:
    ended = danmaku("embed", "-", "--output", tmp_path / f"out{suffix}", "--encoder", f"onnx://{tiny_model}")

    assert ended.returncode == 1
    assert "expected" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def kill_in_the_middle(output: Path, lines: list[str], *flags: str | Path) -> int:
    """Runs on a pipe, kills the run with SIGKILL once it has noted some lines, and returns how many."""
    process = subprocess.Popen(command("-", "--output", output, *flags), cwd=ROOT, stdin=subprocess.PIPE)
    note = output.with_name(output.name + ".part.json")
    assert process.stdin
    try:
        for start in range(0, len(lines) // 2, 1000):
            process.stdin.write(("\n".join(lines[start : start + 1000]) + "\n").encode())
            process.stdin.flush()
            wait_for(note.exists)
            time.sleep(0.3)  # what is done is noted every second
        wait_for(lambda: json.loads(note.read_bytes())["lines"] > 0)
        return int(json.loads(note.read_bytes())["lines"])
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


@pytest.mark.parametrize("suffix", [".npy", ".ndjson", ".parquet"])
def test_a_killed_run_resumes(tmp_path: Path, gateway: httpx.Client, suffix: str) -> None:
    """It is killed with half a block written; the final result is equal to the last bit."""
    lines = many_lines(12_000)
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["--url", str(gateway.base_url)]
    output = tmp_path / f"out{suffix}"
    known = kill_in_the_middle(output, lines, *flags)
    with (tmp_path / f"out{suffix}.part").open("ab") as part:
        part.write(b"half a block")
    assert not output.exists()
    ended = danmaku("embed", tmp_path / "in.txt", "--output", output, *flags)
    done(tmp_path / "in.txt", "--output", tmp_path / f"at_once{suffix}", *flags)

    assert ended.returncode == 0
    assert ended.stderr == f"danmaku embed: resuming after {known:,} lines\n"
    assert "12,000 lines" in ended.stdout
    assert output.read_bytes() == (tmp_path / f"at_once{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_resumes_only_with_the_same_input_and_settings(
    tmp_path: Path, gateway: httpx.Client, tiny_model: Path
) -> None:
    """Another input, model or kind of vector, or a truncated file, is reported, and no file changes."""
    lines = many_lines(12_000)
    good, other, output = tmp_path / "in.txt", tmp_path / "other.txt", tmp_path / "out.npy"
    part, note = tmp_path / "out.npy.part", tmp_path / "out.npy.part.json"
    good.write_text("\n".join(lines), encoding="utf-8")
    other.write_text("\n".join(["又", *lines[1:]]), encoding="utf-8")
    flags = ["--output", output, "--url", str(gateway.base_url)]
    kill_in_the_middle(output, lines, *flags[2:])
    size, said = part.stat().st_size, note.read_bytes()

    assert "another input" in refused(other, *flags)
    other.write_text("草", encoding="utf-8")
    assert "another input" in refused(other, *flags)
    assert "without --normalize" in refused(good, *flags, "--normalize")
    this = [good, "--output", output, "--encoder", f"onnx://{tiny_model}", "--max-seq-len", "5"]
    assert "use the same model" in refused(*this)
    assert (part.stat().st_size, note.read_bytes()) == (size, said)
    os.truncate(part, 1000)
    assert "is truncated: 1000 bytes" in refused(good, *flags)
    note.write_bytes(b"{")
    assert "is damaged" in refused(good, *flags)
    note.unlink()
    assert "remove or rename" in refused(good, *flags)
    part.unlink()
    assert "12,000 lines" in done(good, *flags)


def test_two_runs_cannot_write_one_file(tmp_path: Path, gateway: httpx.Client, input_file: Path) -> None:
    output = tmp_path / "out.npy"
    flags = ["--output", output, "--url", str(gateway.base_url)]
    first = subprocess.Popen(command("-", *flags), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        first.stdin.write("草\n".encode())
        first.stdin.flush()
        while not (tmp_path / "out.npy.part.json").exists():
            time.sleep(0.05)
        assert "another process is writing it" in refused(input_file, *flags)
    finally:
        first.communicate(timeout=60)

    assert len(np.load(output)) == 1


def test_ctrl_c_keeps_finished_lines(tmp_path: Path, gateway: httpx.Client) -> None:
    flags = ["--output", tmp_path / "out.npy", "--url", str(gateway.base_url)]
    process = subprocess.Popen(
        command("-", *flags), cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin
    process.stdin.write(("\n".join(many_lines(6000)) + "\n").encode())
    process.stdin.flush()
    note, part = tmp_path / "out.npy.part.json", tmp_path / "out.npy.part"
    wait_for(lambda: note.exists() and part.stat().st_size > 1.5 * 1024 * DIM * 4)
    time.sleep(0.5)  # then it has written the second block of lines, and waits for more of them
    before = note.stat().st_ino
    process.send_signal(signal.SIGINT)
    wait_for(lambda: note.stat().st_ino != before)  # only now is its input at its end
    _, told = process.communicate(timeout=60)

    assert process.returncode == 130
    assert b"run the same command to resume" in told and b"Traceback" not in told
    assert json.loads(note.read_bytes())["lines"] >= 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{input}", "--output", "x.csv"],
            "invalid --output: x.csv; expected a name that ends in",
        ),
        (["nothing.txt", "--output", "{dir}/x.npy"], "No such file or directory: 'nothing.txt'"),
        (["{dir}", "--output", "{dir}/x.npy"], "Is a directory"),
        (["{input}", "--output", "{dir}/none/x.npy"], "No such file or directory"),
        (["{input}", "--output", "{dir}/there.npy"], "there.npy already exists"),
        (["{input}", "--output", "{dir}/x.npy", "--encoder", "onnx://nowhere"], "nowhere"),
        (
            ["{input}", "--output", "{dir}/x.npy", "--url", "http://127.0.0.1:1", "--threads", "1"],
            "invalid --threads: the gateway at --url has its own settings",
        ),
        (
            ["{dir}/long.txt", "--output", "{dir}/x.npy", "--encoder", "{model}"],
            "line 2: longer than 1048576",
        ),
    ],
)
def test_invalid_arguments_are_explained(
    input_file: Path, tiny_model: Path, arguments: list[str], message: str
) -> None:
    """A failed command leaves no file unless lines were finished."""
    places = {"input": str(input_file), "dir": str(input_file.parent), "model": f"onnx://{tiny_model}"}
    input_file.with_name("there.npy").write_bytes(b"mine")
    input_file.with_name("long.txt").write_bytes(b"a\n" + b"a" * 2**20 + b"\n")

    assert message in refused(*[argument.format(**places) for argument in arguments])
    left = {path.name for path in input_file.parent.iterdir()} - {"danmaku.txt", "there.npy", "long.txt"}
    assert left <= {"x.npy.part", "x.npy.part.json"} if "long" in arguments[0] else left == set()
    assert input_file.with_name("there.npy").read_bytes() == b"mine"


def test_an_invalid_setting_is_explained(input_file: Path) -> None:
    output = input_file.with_name("x.npy")

    assert "threads" in refused(input_file, "--output", output, "--threads", "0", status=2)
    assert "max_seq_len" in refused(input_file, "--output", output, status=2, DANMAKU_MAX_SEQ_LEN="many")


def test_parquet_without_pyarrow_names_what_to_install(input_file: Path, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ModuleNotFoundError(name='pyarrow')", encoding="utf-8")
    call = command(input_file, "--output", tmp_path / "x.parquet")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ended = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "pip install 'danmaku-embedding[parquet]'" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_terminal_shows_a_progress_bar(input_file: Path, gateway: httpx.Client) -> None:
    """It shows lines done, their total, and the rate; --quiet hides it."""
    shown = {}
    for name, flags in (("bar", []), ("quiet", ["--quiet"])):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        call = command(input_file, "--output", input_file.with_name(f"{name}.npy"), "--url", str(gateway.base_url))
        subprocess.run([*call, *flags], cwd=ROOT, stderr=theirs, stdout=subprocess.DEVNULL, check=True, timeout=60)
        os.write(theirs, b"end")
        shown[name] = ""
        while not shown[name].endswith("end"):
            shown[name] += os.read(ours, 10_000).decode()
        os.close(ours)
        os.close(theirs)

    assert "10/10" in shown["bar"] and "lines/s" in shown["bar"]
    assert shown["quiet"] == "end"
