"""`jsaeval rate serve`: the page on which people rate."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jsaeval.rating.serve import is_loopback, serve


@dataclass(frozen=True)
class RateServe:
    """Serve a study to its raters, until Ctrl+C."""

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """Folder that jsaeval rate prepare wrote."""
    rater: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """Who gets a link. Repeat for several. Links given before stay good. Default: me."""
    revoke: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """Whose links given before are good no longer, before --rater gives new ones. Repeat for several. Answers stay."""
    host: str = "127.0.0.1"
    """Address to listen at. Others than this machine reach it at an address of yours, or at 0.0.0.0: all of them."""
    port: int = 8000
    """Port to listen at; 0: any free one."""
    allow_host: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """Host name under which raters reach it, where that is not --host: of a reverse proxy, say. Repeat for several."""


def rate_serve(command: RateServe) -> int:
    """Serve, and say how to get there; returns the exit code.

    Raises:
        InputError: no study, an address that cannot be used, or somebody to revoke who is not known.
    """

    def ready(links: list[tuple[str, str]]) -> None:
        for rater, link in links:
            print(f"{rater}: {link}")
        print("Ctrl+C ends it. Every answer is stored when the page says so, and links stay good.", flush=True)

    if not is_loopback(command.host):
        said = "links and answers travel unencrypted, and whoever has a link can answer with it"
        print(f"jsaeval: --host {command.host}: {said}", file=sys.stderr)
    raters = command.rater or ("me",)
    serve(Path(command.folder), raters, command.host, command.port, ready, command.allow_host, command.revoke)
    return 0
