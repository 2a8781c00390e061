"""A small OpenAI-compatible server on a real socket, whose answers and failures a test decides."""

import json
import math
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


@dataclass
class Reply:
    """What is sent: `body` as JSON, or as it is where it is bytes. `hold`: wait until it is set."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message, "code": code}}, names)


@dataclass
class Fake:
    """The server. `answer(path, body, n)` returns a reply to the n-th POST (from 0), or None for the usual one.

    Attributes:
        usual: text of a chat's answer for a body.
        levels: of the tokens (as they are shown) of an echoed prompt: a distribution over the levels 0 to `highest`.
        shift, ten, echoes: how echoed log-probabilities look.
        requests: path and body of every POST.
        keys: what stood in the header `Authorization`.
    """

    url: str = ""
    models: tuple[str, ...] = ("small", "large")
    answer: Callable[[str, dict, int], Reply | None] = lambda path, body, n: None
    usual: Callable[[dict], str] = lambda body: "dogs"
    levels: Callable[[str], Any] = lambda token: np.eye(11)[5]
    shift: int = 0
    ten: bool = True
    echoes: bool = True
    requests: list[tuple[str, dict]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, body: dict) -> Reply:
        with self.lock:
            n = len(self.requests)
            self.requests.append((path, body))
        if (reply := self.answer(path, body, n)) is not None:
            if reply.body is None:
                reply.body = self.right(path, body)
            return reply
        return Reply(200, self.right(path, body))

    def right(self, path: str, body: dict) -> dict:
        if path.endswith("/chat/completions"):
            return chat(self.usual(body))
        return echoed(body, self.levels, self.shift, self.ten, self.echoes)


def chat(text: str | None, finish: str = "stop", refusal: str | None = None) -> dict:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def split(prompt: str, ten: bool) -> list[str]:
    """Tokens of at most four letters, so that most of the words in a prompt are several."""
    pattern = r"\t|\n| ?[A-Za-z]{1,4}|\d| ?[^\sA-Za-z\d]| +"
    return re.findall(f"10|{pattern}" if ten else pattern, prompt)


def echoed(body: dict, levels: Callable[[str], Any], shift: int = 0, ten: bool = True, echoes: bool = True) -> dict:
    """A completion with the log-probabilities of the prompt.

    Most tokens are expected with probability 0.8. Where a question mark follows a tab it has 0.5, and the levels the
    other half.
    """
    prompt = body["prompt"]
    tokens = split(prompt, ten)
    assert "".join(tokens) == prompt
    lines = iter(re.findall(r"^(.*)\t\?$", prompt, re.MULTILINE))
    shown: dict[int, str] = {}
    for i, token in enumerate(tokens):
        if token == "?" and tokens[i - 1] == "\t":
            shown[i] = next(lines)
    of: list[dict[str, float] | None] = []
    for i, token in enumerate([*tokens, "end"]):
        if i in shown:
            chances = {"?": 0.5} | {str(level): 0.5 * p for level, p in enumerate(levels(shown[i])) if p > 0}
        else:
            chances = {token: 0.8, " the": 0.1} if i % 5 else {" the": 0.7, token: 0.2}
        of.append({name: math.log(p) for name, p in chances.items()})
    all_tokens = [*tokens, "end"]
    if not echoes:
        all_tokens, of = ["end"], of[-1:]
    elif shift:  # as llama.cpp's Python server has it: the token itself is listed too
        after = [*of[1:], {"zz": -0.1}]
        of = [own | {token: own.get(token, -9.0)} for own, token in zip(after, all_tokens, strict=True)]
    if echoes:
        of[0] = None
    logprobs = {"tokens": all_tokens, "top_logprobs": of, "token_logprobs": [None] * len(of), "text_offset": []}
    usage = {"prompt_tokens": len(tokens), "completion_tokens": 1}
    text = (prompt if echoes else "") + "end"
    return {"choices": [{"text": text, "logprobs": logprobs, "finish_reason": "length"}], "usage": usage}


@contextmanager
def running(**how: Any):
    """A `Fake` that listens on a free port."""
    fake = Fake(**how)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._send(
                Reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in fake.models]})
            )

        def do_POST(self):
            fake.keys.append(self.headers.get("Authorization", ""))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = fake.reply(self.path, body)
            if reply.hold is not None:
                reply.hold.wait(30)
            self._send(reply)

        def _send(self, reply: Reply):
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # nobody listens any more
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
