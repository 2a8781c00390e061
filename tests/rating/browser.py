"""A rater as HTTP sees one: cookies, forms and what the pages hold."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

from starlette.testclient import TestClient

from jsaeval.rating.server.app import make_app
from jsaeval.rating.store import Store
from jsaeval.rating.study import Study


VOID = {"meta", "link", "input", "br"}
_nonces = itertools.count()


@dataclass
class Node:
    """An element: its name, attributes, and children, which are elements and texts."""

    tag: str
    attributes: dict[str, str | None]
    children: list["Node | str"] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> list["Node"]:
        """Elements below, in order. `class_` is a word among the classes."""
        return [own for own in self.walk() if own.matches(tag, attributes)]

    def one(self, tag: str | None = None, **attributes: str) -> "Node":
        (found,) = self.all(tag, **attributes)
        return found

    def walk(self) -> Iterator["Node"]:
        for own in self.children:
            if isinstance(own, Node):
                yield own
                yield from own.walk()

    def matches(self, tag: str | None, attributes: dict[str, str]) -> bool:
        if tag is not None and self.tag != tag:
            return False
        own = {key: value or "" for key, value in self.attributes.items()}
        classes = own.get("class", "").split()
        return all(value in classes if key == "class_" else own.get(key) == value for key, value in attributes.items())

    @property
    def text(self) -> str:
        return "".join(own if isinstance(own, str) else own.text for own in self.children)


class _Tree(HTMLParser):
    """HTML as a tree; it insists that elements are closed in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open, self.comments = [self.root], []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), attrs
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def tree(html: str) -> Node:
    """A page as a tree of elements."""
    parser = _Tree()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1, parser.open
    return parser.root


def fresh() -> str:
    """A nonce."""
    return f"nonce-of-a-test-{next(_nonces):08d}"


class Person:
    """A rater with a browser."""

    def __init__(self, study: Study, store: Store, name: str = "Ada", client: TestClient | None = None):
        self.study, self.store, self.name = study, store, name
        self.client = client or browser(study, store)
        self.secret, self._csrf = store.new_link(name), ""
        self.enter()

    def enter(self) -> None:
        """Open the link."""
        answer = self.client.get(f"/r/{self.secret}")
        assert answer.status_code == 303, answer.text

    def page(self, path: str = "/item/1") -> Node:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return tree(answer.text)

    def csrf(self) -> str:
        """The token of the rater's pages."""
        if not self._csrf:
            self._csrf = self.page().all("input", name="csrf")[0].attributes["value"] or ""
        return self._csrf

    def post(self, path: str, token: str | None = None, **fields: object):
        values = {"csrf": token or self.csrf(), "nonce": fresh(), "seconds": "1.5"} | fields
        headers = {"HX-Request": "true"}
        return self.client.post(path, data={key: str(own) for key, own in values.items()}, headers=headers)

    def answer(self, n: int, unit: int, question: str, value: object, **fields: object):
        return self.post(f"/item/{n}/answer", unit=unit, question=question, value=value, **fields)

    def write(self, n: int, id: str, text: str, **fields: object):
        return self.post(f"/item/{n}/text", question=id, value=text, **fields)


def browser(study: Study, store: Store, raises: bool = True, **options: object) -> TestClient:
    """A browser at a server of its own. `raises`: what the server fails at is raised here."""
    app = make_app(study, store, **options)
    return TestClient(app, "http://127.0.0.1:8000", raise_server_exceptions=raises, follow_redirects=False)


def stored(person, name="Ada"):
    """What was stored of a rater, in order."""
    return [(own.kind, own.interval, own.question, own.value) for own in person.store.events(name)]


def refused(answer, status):
    """It is refused with one sentence."""
    assert answer.status_code == status, answer.text
    assert answer.text.count("\n") <= 1 and answer.text.strip().endswith(".") and "<" not in answer.text
    return answer.text
