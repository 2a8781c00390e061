"""The server that raters talk to. It knows `study.json` and the answers, and nothing of what the items are."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jsaeval.rating.queue import Place
from jsaeval.rating.server import forms
from jsaeval.rating.server.pages import Pages
from jsaeval.rating.server.progress import Rater, Raters
from jsaeval.rating.server.security import Guard, cookie_name, same_token
from jsaeval.rating.server.static import load_assets
from jsaeval.rating.store import Conflict, Event, Kind, Store
from jsaeval.rating.study import Item, Study


_OPEN_LINK = "Open the link that you were given: this browser does not say who you are."
_OTHER_RATER = (
    "This page belongs to another link than the one opened last in this browser. Nothing was stored; open yours."
)
_TWICE = "This was sent before with something else in it. Nothing was stored; reload the page."
_A_MONTH = 30 * 24 * 3600


def make_app(
    study: Study, store: Store, names: Collection[str] = ("localhost",), proxied: Collection[str] = ()
) -> ASGIApp:
    """The server as an ASGI app.

    Args:
        study: what is rated.
        store: where answers go.
        names: host names, besides addresses, under which it may be asked for.
        proxied: of these, those under which a reverse proxy may present it.
    """
    return Guard(_Site(study, store).app(), {*names, *proxied}, proxied)


@dataclass(frozen=True)
class _Asked:
    """Who asks, and what: the rater and the rater's secret, the place and its item, and the form of a POST."""

    rater: Rater
    secret: str
    n: int
    item: Item
    form: Mapping[str, str]

    @property
    def place(self) -> Place:
        return self.rater.queue[self.n - 1]


class _Site:
    """Routes. What touches the store runs on a thread, and so never holds up the others."""

    def __init__(self, study: Study, store: Store):
        self._study, self._store, self._raters = study, store, Raters(study, store)
        self._assets = load_assets()
        self._pages = Pages(study, self._assets.urls)
        self._cookie = cookie_name(study.id)

    def app(self) -> Starlette:
        post, item = ["POST"], "/item/{n}"
        routes = [
            Route("/", self._answered(self._first)),
            Route("/r/{secret}", self._enter),
            Route(item, self._answered(self._item)),
            Route(f"{item}/answer", self._answered(self._answer), methods=post),
            Route(f"{item}/text", self._answered(self._text), methods=post),
            Route(f"{item}/save", self._answered(self._save), methods=post),
            Route(f"{item}/skip", self._answered(self._skip), methods=post),
            Route("/undo", self._answered(self._undo), methods=post),
            Route("/done", self._answered(self._done)),
            Route("/help", self._answered(self._help)),
            Route("/static/{name}", self._static),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._refused, 500: self._failed})

    # Who asks.

    def _answered(self, answer: Callable[[_Asked, Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        """A route: the rater of the cookie, the place of the path, and the form with its token, or a refusal."""

        async def route(request: Request) -> Response:
            posted, secret = request.method == "POST", request.cookies.get(self._cookie, "")
            name = await run_in_threadpool(self._store.rater_of, secret)
            if name is None:  # before a form is read: nobody else may keep the server waiting for one
                raise HTTPException(401, _OPEN_LINK)
            form = await forms.form_of(request) if posted else {}
            return await run_in_threadpool(work, request, name, secret, form, posted)

        def work(request: Request, name: str, secret: str, form: Mapping[str, str], posted: bool) -> Response:
            if posted and not same_token(secret, form.get("csrf", "")):
                raise HTTPException(409, _OTHER_RATER)
            rater, n = self._raters.of(name), request.path_params.get("n", "1")
            if not re.fullmatch("[1-9][0-9]{0,6}", n) or int(n) > len(rater.queue):
                raise HTTPException(404, f"There is no such item; you have 1 to {len(rater.queue)}.")
            item = self._study.items[rater.queue[int(n) - 1].item]
            try:
                return answer(_Asked(rater, secret, int(n), item, form), request)
            except Conflict:
                raise HTTPException(409, _TWICE) from None

        return route

    async def _enter(self, request: Request) -> Response:
        secret = request.path_params["secret"]
        if await run_in_threadpool(self._store.rater_of, secret) is None:
            raise HTTPException(404, "This link is not known here.")
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._cookie, secret, max_age=_A_MONTH, httponly=True, samesite="lax", secure=request.url.scheme == "https"
        )
        return response

    # What is shown.

    def _first(self, asked: _Asked, request: Request) -> Response:
        n = min(asked.rater.open(), default=None)
        return _to("/done" if n is None else f"/item/{n}")

    def _item(self, asked: _Asked, request: Request) -> Response:
        undone = request.query_params.get("undone", "")
        return HTMLResponse(self._pages.item(asked.rater, asked.n, asked.secret, undone))

    def _done(self, asked: _Asked, request: Request) -> Response:
        return HTMLResponse(self._pages.done(asked.rater, asked.secret))

    def _help(self, asked: _Asked, request: Request) -> Response:
        return HTMLResponse(self._pages.help(asked.rater))

    async def _static(self, request: Request) -> Response:
        asset = self._assets.files.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404, "There is no such file.")
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(asset.content, headers=headers, media_type=asset.type)
        return Response(asset.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=asset.type)

    # What is stored.

    def _answer(self, asked: _Asked, request: Request) -> Response:
        """One answer, or none where its value is empty: the question is open again."""
        unit, question = forms.asked_of(asked.form, self._study, asked.item)
        text = asked.form.get("value", "")
        event = self._event(asked, "answer" if text else "clear", unit, question.id)
        if text:
            if not question.applies(asked.rater.at(asked.n).numbers.get(unit, {})):
                raise HTTPException(409, "That question is not asked after your other answers. It was not stored.")
            event = replace(event, value=forms.value_of(text, question))
        return self._stored(asked, event)

    def _text(self, asked: _Asked, request: Request) -> Response:
        id = asked.form.get("question", "")
        text = forms.text_of(id, asked.form.get("value", ""), self._study)
        return self._stored(asked, self._event(asked, "text", 0, id, text))

    def _save(self, asked: _Asked, request: Request) -> Response:
        """The whole form, from a browser without scripts: what differs from what was stored is stored."""
        before = asked.rater.at(asked.n)
        events: list[Event] = []
        for unit in asked.item.units:
            numbers = dict(before.numbers.get(unit, {}))
            for question in self._study.rubric.asked(self._study.logits):
                text = asked.form.get(f"{unit}.{question.id}")
                if text is None or not question.applies(numbers):
                    continue
                value = forms.value_of(text, question)
                if numbers.get(question.id) != int(value):
                    numbers[question.id] = int(value)
                    events.append(self._event(asked, "answer", unit, question.id, value))
        for field, text in asked.form.items():
            if field.startswith("text."):
                id = field.removeprefix("text.")
                text = forms.text_of(id, text, self._study)
                if text != before.texts.get(id, ""):
                    events.append(self._event(asked, "text", 0, id, text))
        # One nonce for the form. Sent twice at once, it finds the same state before it and is stored once.
        one = [forms.nonce_of(asked.form), asked.rater.last]
        events = [replace(own, nonce=_hash([*one, own.interval, own.question, own.value])) for own in events]
        self._store.append(*events)
        return _to(self._after(asked) if asked.form.get("then") == "next" else f"/item/{asked.n}")

    def _skip(self, asked: _Asked, request: Request) -> Response:
        self._store.append(self._event(asked, "skip", 0, "", forms.reason_of(asked.form)))
        return _to(self._after(asked))

    def _undo(self, asked: _Asked, request: Request) -> Response:
        found = self._store.undo(asked.rater.name, forms.nonce_of(asked.form), self._study.rubric.version)
        if found is None:
            raise HTTPException(409, "There is nothing to undo.")
        _, event = found
        n = asked.rater.number_of(Place(event.item, event.again))
        field = f"{event.interval}.{event.question}" if event.kind in ("answer", "clear") else event.question
        return _to("/" if n is None else f"/item/{n}?undone={field}" if field else f"/item/{n}")

    def _event(self, asked: _Asked, kind: Kind, unit: int, question: str, value: str = "") -> Event:
        nonce, seconds = forms.nonce_of(asked.form), forms.seconds_of(asked.form)
        place, version = asked.place, self._study.rubric.version
        return Event(nonce, asked.rater.name, place.item, place.again, kind, unit, question, value, seconds, version)

    def _stored(self, asked: _Asked, event: Event) -> Response:
        self._store.append(event)
        return HTMLResponse(self._pages.progress(self._raters.of(asked.rater.name), asked.n))

    def _after(self, asked: _Asked) -> str:
        return "/done" if asked.n == len(asked.rater.queue) else f"/item/{asked.n + 1}"

    # What is refused.

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {404: "There is no such page.", 405: "That cannot be done with this address."}
        said = error.detail if error.detail.endswith(".") else known.get(error.status_code, "That is not possible.")
        return self._sentence(request, said, error.status_code, error.headers)

    async def _failed(self, request: Request, error: Exception) -> Response:
        return self._sentence(request, "The server failed at this. Try again, and tell who runs it.", 500, None)

    def _sentence(self, request: Request, said: str, status: int, headers: Mapping[str, str] | None) -> Response:
        if "hx-request" in request.headers:
            return PlainTextResponse(said, status, headers)
        return HTMLResponse(self._pages.refusal(said), status, headers)


def _to(path: str) -> Response:
    return RedirectResponse(path, 303)


def _hash(parts: list[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
