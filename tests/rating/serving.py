"""The rating server as a process of its own, and raters who talk to it through sockets."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit


_SERVE = (
    "from jsaeval.cli.rate_serve import *; import json, sys; sys.exit(rate_serve(RateServe(**json.loads(sys.argv[1]))))"
)
_ROOT = Path(__file__).parents[2]


class Process:
    """A server. `links`: by rater."""

    def __init__(self, folder: Path, raters: tuple[str, ...] = ("me",), port: int = 0, **flags: object):
        values = {"folder": str(folder), "rater": raters, "port": port} | flags
        command = [sys.executable, "-W", "error", "-c", _SERVE, json.dumps(values)]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        lines = [self.process.stdout.readline() for _ in range(len(raters) + 1)]
        if not lines[-1]:
            raise RuntimeError(self.process.communicate()[1])
        self.links = dict(line.strip().split(": ", 1) for line in lines[:-1])
        self.last_line = lines[-1]
        self.port = urlsplit(next(iter(self.links.values()))).port

    def kill(self) -> None:
        """At once, without a chance to do anything about it."""
        self.process.kill()
        self._ended()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """By a signal; (exit code, what it wrote to stderr)."""
        self.process.send_signal(number)
        return self._ended()

    def _ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()


class Line:
    """A rater's connection, which is kept open. `get` and `post` give (status, headers, body)."""

    def __init__(self, link: str, timeout: float = 10.0):
        self.port, self._timeout = urlsplit(link).port, timeout
        self._connection: http.client.HTTPConnection | None = None
        self.cookie = ""
        status, headers, _ = self.get(urlsplit(link).path)
        assert status == 303, status
        self.cookie = headers["set-cookie"].partition(";")[0]
        _, _, page = self.get("/item/1")
        self.csrf = re.search(rb'name="csrf" value="(\w+)"', page)[1].decode()
        self.items = int(re.search(rb"</b> of (\d+)", page)[1])

    def get(self, path: str):
        return self._asked("GET", path, None)

    def post(self, path: str, **fields: object):
        values = {"csrf": self.csrf, "nonce": secrets.token_hex(16), "seconds": "1"} | fields
        return self._asked("POST", path, urlencode(values))

    def _asked(self, method: str, path: str, body: str | None):
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
        headers = {"Cookie": self.cookie, "Accept-Encoding": "gzip"}
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "HX-Request": "true"}
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def persist(self, path: str, within: float = 60.0, **fields: object):
        """Send until it is confirmed, each time with the same nonce, as the page does."""
        fields["nonce"] = secrets.token_hex(16)
        end, last = time.monotonic() + within, ""
        while True:
            try:
                status, _, body = self.post(path, **fields)
                if status < 500:
                    assert status == 200, (status, body)
                    return fields["nonce"]
                last = f"{status} {body}"
            except (OSError, http.client.HTTPException) as error:
                last = repr(error)
            assert time.monotonic() < end, f"{path} was never confirmed: {last}"
            time.sleep(0.05)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
