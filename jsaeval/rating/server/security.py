"""Who may ask: hosts, origins, secrets and tokens; and what browsers may do with the answer."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


# Everything comes from this server, nothing stands in the page itself, and nobody may frame it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def csrf_token(secret: str) -> str:
    """What every form of a page holds: bound to the secret in the cookie, from which a page of another site, or of
    another rater in the same browser, cannot make it."""
    return hmac.new(secret.encode(), b"jsaeval rating form", hashlib.sha256).hexdigest()


def same_token(secret: str, token: str) -> bool:
    """Whether a form's token belongs to the secret."""
    return hmac.compare_digest(csrf_token(secret).encode(), token.encode())


def cookie_name(study: str) -> str:
    """Name of the cookie: browsers tell cookies of one host's ports apart by nothing else."""
    word = study if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", study) else hashlib.sha256(study.encode()).hexdigest()[:32]
    return f"jsaeval-{word}"


def is_allowed(host: str, names: Collection[str]) -> bool:
    """Whether a Host header is one of ours.

    A page of another site can point its own name at this address (DNS rebinding), but then asks for that name. So
    addresses, which cannot be pointed anywhere, are allowed, and of names those that are known.

    Args:
        host: the header, perhaps with a port.
        names: in small letters.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        urlsplit(f"//{host}").port  # noqa: B018 (raises where it is no number)
    except ValueError:
        return False
    if not name or re.search(r"[/?#@\\\s]", host):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def from_here(headers: Headers, names: Collection[str]) -> bool:
    """Whether what a browser says of the origin of a POST, if it says something, is that it comes from our pages."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site not in (None, "same-origin"):
        return False
    if origin is None or origin == "null":
        # Browsers send "null" with a plain form under the referrer policy above. Then the token has to tell.
        return True
    host = urlsplit(origin).netloc
    # Behind a reverse proxy the Host may be another; only names that were given by --allow-host are both.
    return host == headers.get("host") or (host.rpartition(":")[0] or host) in names


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class Guard:
    """Around the app: refuses foreign hosts and origins, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, names: Collection[str], proxied: Collection[str]):
        """
        Args:
            app: what is guarded.
            names: host names, besides addresses, under which it may be asked for.
            proxied: those of them under which a reverse proxy may present it.
        """
        self._app, self._names, self._proxied = app, frozenset(names), frozenset(proxied)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers, app = Headers(scope=scope), self._app

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    own[name] = value
                own.setdefault("Cache-Control", "no-store")
                if _has_body(headers) and (scope["method"] != "POST" or message["status"] >= 400):
                    # It may not have been read: else the connection waits for the rest of it, for ever.
                    own["Connection"] = "close"
            await send(message)

        if not is_allowed(headers.get("host", ""), self._names):
            app = PlainTextResponse("This server is not known by that name; see --allow-host.\n", 421)
        elif scope["method"] not in ("GET", "HEAD") and not from_here(headers, self._proxied):
            app = PlainTextResponse("This was sent by a page of another site. Nothing was stored.\n", 403)
        await app(scope, receive, guarded)
