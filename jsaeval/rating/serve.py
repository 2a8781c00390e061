"""Serving a study to its raters, until a signal says that it is enough."""

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from jsaeval.errors import InputError, one_line
from jsaeval.rating.server.app import make_app
from jsaeval.rating.store import Store, check_name
from jsaeval.rating.study import ANSWERS, read_study, study_folder


_SHUTDOWN = 5  # seconds for what is under way
_MOST_CONNECTIONS = 512  # at once; more are told to come again, which the page does by itself


def serve(
    folder: Path,
    raters: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[list[tuple[str, str]]], None] = lambda links: None,
    allowed: Collection[str] = (),
    revoked: Collection[str] = (),
) -> None:
    """Serve a study until SIGINT or SIGTERM.

    Args:
        folder: of the study, or of a run with one.
        raters: who gets a link. Links given before stay good, but for those of `revoked`.
        host: address or name of this machine to listen at.
        port: 0: any free one.
        ready: gets (rater, link) of each when the server listens.
        allowed: more host names under which raters reach it, those of a reverse proxy say.
        revoked: raters whose links given before are good no longer.

    Raises:
        InputError: no study, a name that is none, one to revoke that is not known, or an address or a port that cannot
            be used.
    """
    folder = study_folder(folder)
    for rater in raters:
        check_name(rater)
    names = [name.lower().rstrip(".") for name in allowed]
    study = read_study(folder)
    store = Store(folder / ANSWERS, study.id)
    app = make_app(study, store, {"localhost", host.lower(), socket.gethostname().lower(), *names}, names)
    with _listening(host, port) as listening:
        store.revoke(revoked)  # not before: where nobody can be served, nothing changes
        base = f"http://{_authority(host, listening.getsockname()[1])}/r/"
        links = [(rater, base + store.new_link(rater)) for rater in raters]
        settings = uvicorn.Config(
            app,
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            http="h11",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_SHUTDOWN,
            limit_concurrency=_MOST_CONNECTIONS,
            proxy_headers=bool(names),  # whether raters came by https, say: only where there is a proxy
        )
        server = uvicorn.Server(settings)
        with _signals_end(server):
            ready(links)
            server.run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: 0 to 65535 was expected")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        said = one_line(error).partition("] ")[2] or one_line(error)
        raise InputError(
            f"cannot listen at {host}:{port} ({said}); another --port, or 0 for any free one, may work"
        ) from None


def _authority(host: str, port: int) -> str:
    """Host and port as they stand in a link."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"{host}:{port}"
    if address.is_unspecified:  # every address of this machine: its name stands for them
        return f"{socket.gethostname()}:{port}"
    return f"[{host}]:{port}" if address.version == 6 else f"{host}:{port}"


@contextmanager
def _signals_end(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM end the server, not the process: uvicorn sends them to itself again when it is done."""
    if threading.current_thread() is not threading.main_thread():  # only there may signals be handled
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
