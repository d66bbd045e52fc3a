"""One question to a language model's server. The key goes to the server that the user named, and nowhere else.

No redirect is followed, and plain http goes past no proxy. An answer is bounded in size, and in time as a whole.
"""

from __future__ import annotations

import http.client
import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any

from ovlabel.errors import ConfigError, short

log = logging.getLogger("ovlabel")

_ANSWER = 2**20  # the most bytes of an answer
_TRIES = 3
_WAIT, _LONGEST_WAIT = 2.0, 30.0  # seconds between two tries: usually, and the most that a server may ask for
_BUSY = (408, 429, 500, 502, 503, 504, 529)  # statuses after which the same question may get an answer
_FAILED = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's API.

    Attributes:
        address: its URL, such as "http://localhost:8000/v1".
        model: the name of the model there.
        key: sent as a bearer token, unless empty.
        seconds: the most that one answer may take, from the connection to its last byte.
    """

    address: str
    model: str
    key: str = ""
    seconds: float = 60.0

    @classmethod
    def checked(cls, address: str, model: str, key: str = "", seconds: float = 60.0) -> Endpoint:
        """An endpoint whose address and key can be sent as they are; no message ever holds the key.

        Raises:
            ConfigError: the address is none of http or https, or holds a password, a query or a fragment; or the key
                holds what no header can.
        """
        parts = _split(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--endpoint {short(address)}: write it with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ConfigError(
                f"--endpoint with {parts.hostname}: write host and path only; a key belongs into $OPENAI_API_KEY"
            )
        key = key.strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError("$OPENAI_API_KEY holds a blank, a line break or a letter outside ASCII, as no key does")
        return cls(address.rstrip("/"), model, key, seconds)

    def ask(self, question: str) -> str:
        """Ask a question; up to three times where the server is busy.

        Raises:
            ConfigError: no answer came in time, it is too large, leads elsewhere, or holds no text.
        """
        url = f"{self.address}/chat/completions"
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                return _content(_within(self.seconds, lambda: self._answer(url, question)))
            except urllib.error.HTTPError as error:
                error.close()
                if last or error.code not in _BUSY:
                    raise ConfigError(f"{url} {self._refusal(error)}") from None
                pause = _pause(error.headers)
                log.info("%s is busy (HTTP %d); trying again in %g s", url, error.code, pause)
                time.sleep(pause)
            except _FAILED as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise ConfigError(f"{url} gave no answer: {self._hidden(str(reason) or repr(reason))}") from None
        raise AssertionError  # the last try returns or raises

    def _answer(self, url: str, question: str) -> bytes:
        body = {"model": self.model, "messages": [{"role": "user", "content": question}]}
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if self.key:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        end, data = time.monotonic() + self.seconds, b""
        with _opener().open(request, timeout=self.seconds) as answer:
            while part := answer.read1(65536):
                data += part
                if len(data) > _ANSWER:
                    raise ValueError(f"it is larger than {_ANSWER >> 20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError(f"it takes longer than {self.seconds:g} s")
        return data

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """What a status other than 200 means, in one line."""
        if 300 <= error.code < 400:
            there = self._hidden(str(error.headers.get("Location", "nowhere")))
            return (
                f"leads to {there} (HTTP {error.code}), which is not followed, for the key's sake; name the right one"
            )
        advice = "; is $OPENAI_API_KEY right?" if error.code in (401, 403) else ""
        return f"gave no answer: HTTP {error.code} {self._hidden(str(error.reason))}{advice}"

    def _hidden(self, text: str) -> str:
        """A text that a server had a hand in, in one line and without the key."""
        return short(text.replace(self.key, "…") if self.key else text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message[str, str], newurl: str
    ) -> None:
        """No request: the answer is reported as an error."""


def _opener() -> urllib.request.OpenerDirector:
    """Opens http directly, and https as the environment's proxy settings say: through a tunnel that hides the key."""
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    return urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))


def _split(address: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(address)
        if address != address.strip() or not address.isprintable() or parts.port == 0:
            raise ValueError
        return parts
    except ValueError:
        raise ConfigError("--endpoint: that is no address; write one such as http://localhost:8000/v1") from None


def _content(data: bytes) -> str:
    """The text of an answer. Raises ValueError where it holds none."""
    try:
        text = json.loads(data)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("it is JSON, but not as OpenAI's API answers") from None
    except (ValueError, RecursionError):
        raise ValueError(f"it is not JSON but begins with {data[:40].decode(errors='replace')!r}") from None
    if not isinstance(text, str):
        raise ValueError("its content is no text")
    return text


def _pause(headers: Message[str, str]) -> float:
    """Seconds to wait before the next try: what the server asks for, within bounds."""
    asked = str(headers.get("Retry-After", ""))
    return min(float(asked), _LONGEST_WAIT) if asked.isascii() and asked.isdigit() else _WAIT


def _within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """The result of a call, if it comes in time: names, connections and headers that drip are given up as well."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(call())
        except BaseException as error:
            results.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"it takes longer than {seconds:g} s") from None
    if isinstance(result, BaseException):
        raise result
    return bytes(result)
