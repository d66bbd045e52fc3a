"""Asking a language model's server: real servers on this machine, honest and hostile; where the key goes."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ovlabel.files import read_toml
from ovlabel.text import endpoint
from ovlabel.text.prompts import load_descriptions
from ovlabel.text.vocabulary import load_vocabulary
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]
KEY = "sk-loopback-secret"
WORDS = '[background]\nname = "background"\n[[class]]\nname = "cat"\n[[class]]\nname = "no \\"dog\\""\n'
Answer = Callable[["Handler"], None]
_CONNECT = socket.socket.connect


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Those who hang up are none of these tests' business."""


class Server:
    """A server on this machine that answers as it is told, and remembers what it was asked and with which key."""

    def __init__(self, answers: list[Answer]) -> None:
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.answers = answers
        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._http.told = self  # type: ignore[attr-defined]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def address(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Handler(BaseHTTPRequestHandler):
    def handle_any(self) -> None:
        server: Server = self.server.told  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.asked.append(json.loads(body)["messages"][0]["content"] if body else self.path)
        server.keys.append(self.headers.get("Authorization"))
        server.answers[min(len(server.asked), len(server.answers)) - 1](self)

    do_POST = do_GET = handle_any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def raw(body: bytes, status: int = 200, reason: str | None = None, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(status, reason)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def says(text: Any) -> Answer:
    return raw(json.dumps({"choices": [{"message": {"content": text}}]}).encode())


def drips(handler: Handler) -> None:
    """A whole answer, one byte at a time."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def drips_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        handler.wfile.write(b"X-%d: 1\r\n" % number)
        time.sleep(0.05)


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"[" * 2**16)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, no_network: None) -> Iterator[Callable[..., Server]]:
    """Starts servers; connections to this machine are allowed, and no others."""
    servers: list[Server] = []
    refuse = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        (_CONNECT if address[0] in ("127.0.0.1", "::1") else refuse)(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)

    def start(*answers: Answer) -> Server:
        servers.append(Server(list(answers)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def describe(tmp_path: Path, ovlabel: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "words.toml").write_text(WORDS)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "_WAIT", 0.01)

    def run(address: str, *more: str) -> Any:
        words, out = tmp_path / "words.toml", tmp_path / "said.toml"
        done = ovlabel("vocab", "describe", words, out, "--endpoint", address, *more)
        assert KEY not in done.out + done.err
        return done

    return run


def test_every_class_but_the_background_is_asked_for(serve: Any, describe: Any, tmp_path: Path) -> None:
    server = serve(says('1. A cat is small.\n- "A cat has fur."\n\nA cat sits.\n'))
    done = describe(server.address(), "--count", "2")
    assert done.code == 0, done.err
    assert len(server.asked) == 2
    assert "'cat'" in server.asked[0]
    assert server.keys == [f"Bearer {KEY}"] * 2
    sentences = ["A cat is small.", "A cat has fur."]
    assert read_toml(tmp_path / "said.toml") == {"cat": sentences, 'no "dog"': sentences}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_no_redirect_is_followed_and_the_key_stays(serve: Any, describe: Any, status: int, host: str) -> None:
    other = serve(says("Stolen."))
    server = serve(raw(b"", status, Location=f"{other.address(host)}/chat/completions"))
    refusal = describe(server.address()).refusal
    assert other.asked == []
    assert f"leads to {other.address(host)}" in refusal
    assert "not followed" in refusal


@pytest.mark.parametrize(
    "location",
    ["/v1/elsewhere", "file:///etc/passwd", "ftp://x/", "https://127.0.0.1:1/", f"http://h/?{KEY}", "\x1b[2J", ""],
)
def test_a_redirect_to_anything_is_one_line(serve: Any, describe: Any, location: str) -> None:
    server = serve(raw(b"", 302, **({"Location": location} if location else {})))
    refusal = describe(server.address()).refusal
    assert "HTTP 302" in refusal
    assert "\x1b" not in refusal
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [drips, drips_headers, lambda handler: time.sleep(3)], ids=["body", "head", "none"])
def test_an_answer_has_a_time_limit_as_a_whole(serve: Any, describe: Any, answer: Answer) -> None:
    start = time.monotonic()
    assert "longer than 1 s" in describe(serve(answer).address(), "--timeout", "1").refusal
    assert time.monotonic() - start < 2.5


def test_an_answer_has_a_size_limit(serve: Any, describe: Any) -> None:
    assert "larger than 1 MiB" in describe(serve(endless).address()).refusal


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (raw(b"<html>\x1b]0;x\x07 not JSON"), "not JSON but begins with '<html>"),
        (raw(b""), "not JSON"),
        (raw(b"\x1f\x8b\x08\x00", Content_Encoding="gzip"), "not JSON"),
        (raw(b"[" * 200_000), "gave no answer"),
        (raw(b"[]"), "gave no answer"),
        (raw(b'{"choices": []}'), "gave no answer"),
        (says(None), "its content is no text"),
        (says([{"type": "text"}]), "its content is no text"),
        (says(" \n\n - \n"), "holds no sentence"),
        (says("x" * 3000), "holds no sentence"),
        (raw(b"", 401, f"no, not {KEY}"), r"HTTP 401 no, not …; is $OPENAI_API_KEY right?"),
        (raw(b"", 404), "HTTP 404"),
        (raw(b"", 100 + 300, "\x9b31m"), "HTTP 400"),
    ],
)
def test_an_answer_that_is_none_is_one_line(serve: Any, describe: Any, answer: Answer, said: str) -> None:
    server = serve(answer)
    refusal = describe(server.address()).refusal
    assert said in refusal
    assert refusal.isprintable()
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_a_few_times(serve: Any, describe: Any, status: int) -> None:
    server = serve(raw(b"", status), raw(b"", status, Retry_After="0"), says("A cat."))
    assert describe(server.address()).code == 0
    assert len(server.asked) == 4


def test_a_server_that_stays_busy_is_given_up(serve: Any, describe: Any) -> None:
    server = serve(raw(b"", 429))
    done = describe(server.address())
    assert done.code == 2
    assert [line.count("HTTP 429") for line in done.err.splitlines()] == [1, 1, 1]
    assert len(server.asked) == 3


def test_answers_are_kept_when_one_fails_and_are_not_asked_for_again(serve: Any, describe: Any, tmp_path: Path) -> None:
    server = serve(says("A small cat."), raw(b"", 404))
    assert "the answers for 1 classes are kept, and the same command goes on" in describe(server.address()).refusal
    assert read_toml(tmp_path / "said.toml") == {"cat": ["A small cat."]}
    server = serve(says("No dog here."))
    assert describe(server.address()).code == 0
    assert len(server.asked) == 1
    assert read_toml(tmp_path / "said.toml") == {"cat": ["A small cat."], 'no "dog"': ["No dog here."]}
    assert describe(serve(raw(b"", 500)).address()).code == 0  # nothing is left to ask


def test_odd_characters_of_an_answer_do_no_harm(serve: Any, describe: Any, tmp_path: Path) -> None:
    text = "A cat \ud83d sits.\nA \x1b[31mred\x7f cat\x00.\nA \u2028 猫 is a cat."
    assert describe(serve(says(text)).address()).code == 0
    said = load_descriptions(tmp_path / "said.toml", load_vocabulary(str(tmp_path / "words.toml")))
    assert said["cat"][0] == "A cat sits."
    assert "猫 is a cat." in said["cat"][-1]


@pytest.mark.parametrize("key", ["ke\ny", "ke y", "schlüssel", "a\x01b", "\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(serve: Any, describe: Any, monkeypatch: Any, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve(says("A cat."))
    refusal = describe(server.address()).refusal
    assert "$OPENAI_API_KEY holds a blank, a line break or a letter outside ASCII" in refusal
    assert key not in refusal
    assert server.asked == []


def test_a_line_break_at_the_end_of_a_key_is_no_part_of_it(serve: Any, describe: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    server = serve(says("A cat."))
    assert describe(server.address()).code == 0
    assert server.keys[0] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "address",
    ["ftp://x", "x", "", "http://", "http://u:pw-secret@h/v1", "http://h/v1?api-key=pw-secret", "http://h:99999/", "http://h:x/",
     "http://[::1", "file:///etc/passwd", "http://h/v1\n", "http://h/#pw-secret", "http://\x1b[2J/"],
)  # fmt: skip
def test_an_address_that_is_none_or_holds_a_secret_is_refused(describe: Any, address: str) -> None:
    refusal = describe(address).refusal
    assert "--endpoint" in refusal
    assert "pw-secret" not in refusal
    assert refusal.isprintable()


def test_the_key_goes_past_no_proxy(serve: Any, describe: Any, monkeypatch: Any) -> None:
    proxy, server = serve(says("Stolen.")), serve(says("A cat."))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.address().removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    assert describe(server.address()).code == 0
    assert proxy.asked == []
    assert server.keys == [f"Bearer {KEY}"] * 2


def test_nothing_is_asked_where_the_answers_can_not_be_written(serve: Any, tmp_path: Path, ovlabel: Run) -> None:
    server = serve(says("A cat."))
    (tmp_path / "words.toml").write_text(WORDS)
    (tmp_path / "other.toml").write_text("[[class]]\n")
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path, tmp_path / "no" / "x.toml", tmp_path / "pipe", tmp_path / "other.toml"):
        done = ovlabel("vocab", "describe", tmp_path / "words.toml", out, "--endpoint", server.address())
        assert str(out) in done.refusal
    assert (tmp_path / "other.toml").read_text() == "[[class]]\n"
    assert server.asked == []


def test_a_server_that_is_not_there_is_one_line(serve: Any, describe: Any) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        refusal = describe(f"http://127.0.0.1:{held.getsockname()[1]}/v1").refusal
    assert "gave no answer" in refusal
