"""Pages as HTML. Those of items have one size, whatever is on them."""

import functools
import secrets
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import escape

from jsaeval.corpus.visible import in_one_line
from jsaeval.rating.answers import ItemAnswers
from jsaeval.rating.queue import Place
from jsaeval.rating.server.evidence import Group, bars_of, groups_of
from jsaeval.rating.server.forms import LONGEST_REASON, REASONS
from jsaeval.rating.server.progress import Rater
from jsaeval.rating.server.security import csrf_token
from jsaeval.rating.store import LONGEST_NAME, LONGEST_TEXT, NOTE
from jsaeval.rating.study import Item, Study


_PADDING = "<!--padding-->"
_STEP = 1024  # sizes are multiples of it
# How much a page grows at most, besides what its rater wrote: by the name, numbers and links, and by an answer.
_FRAME, _ANSWER = 1024 + 10 * LONGEST_NAME, len(" checked")


class Pages:
    """The pages of a study."""

    def __init__(self, study: Study, urls: Mapping[str, str]):
        """
        Args:
            study: whose pages.
            urls: of style and scripts, by their names.
        """
        self._study = study
        self._common = {"urls": urls, "title": in_one_line(study.title), "rubric": study.rubric}
        self._groups: dict[str, tuple[Group, ...]] = {id: groups_of(item) for id, item in study.items.items()}
        self._evidence = {id: self._evidence_of(item) for id, item in study.items.items()}
        self._size = max(self._empty_size(item) for item in study.items.values())

    def item(self, rater: Rater, n: int, secret: str, undone: str = "") -> bytes:
        """The page of a place in a rater's queue.

        Args:
            rater: who looks at it.
            n: number of the place, from 1.
            secret: the rater's.
            undone: name of a field that was undone just now.
        """
        place = rater.queue[n - 1]
        answers = rater.at(n)
        html, own = self._item(rater, self._study.items[place.item], answers, n, secret, undone)
        return self._padded(html, own)

    def progress(self, rater: Rater, n: int) -> str:
        """How far the rater is, as a fragment of the page."""
        macros: Any = _environment().get_template("macros").module
        return str(macros.progress(n, len(rater.queue), self._counts(rater, n)))

    def done(self, rater: Rater, secret: str) -> bytes:
        """What is left to do, and thanks."""
        return self._plain("done", self._frame(secret, 0, rater) | {"left": rater.open()})

    def help(self, rater: Rater) -> bytes:
        """What the rubric says first, and the keys."""
        return self._plain("help", {"rater": rater.name})

    def refusal(self, sentence: str) -> bytes:
        """One sentence, and a way back."""
        return self._plain("plain", {"sentence": sentence, "rater": None})

    def _plain(self, name: str, values: Mapping[str, Any]) -> bytes:
        return _environment().get_template(name).render(self._common, **values).encode("utf-8", "replace")

    def _frame(self, secret: str, n: int, rater: Rater) -> dict[str, Any]:
        counts = {"n": n, "total": len(rater.queue)}
        return counts | {"csrf": csrf_token(secret), "nonce": secrets.token_hex(16), "rater": rater.name}

    def _counts(self, rater: Rater, n: int) -> dict[str, Any]:
        done = len(rater.queue) - len(rater.open())
        return {"done": done, "here": str(rater.left(n)), "skipped": rater.at(n).skipped is not None}

    def _evidence_of(self, item: Item) -> tuple[str, str]:
        """Groups, and effects on the logits: what depends on the item alone."""
        own = (("More likely next", item.promoted), ("Less likely next", item.suppressed))
        effects = [(head, bars_of(effects)) for head, effects in own] if self._study.logits else []
        groups = _environment().get_template("groups").render(groups=self._groups[item.id], rated=item.rated)
        return groups, _environment().get_template("effects").render(effects=effects)

    def _item(
        self, rater: Rater, item: Item, answers: ItemAnswers, n: int, secret: str, undone: str
    ) -> tuple[str, int]:
        """The page, and how many bytes of it the rater wrote, or asked for by undoing."""
        rubric, groups = self._study.rubric, {own.number: own for own in self._groups[item.id]}
        evidence, effects = self._evidence[item.id]
        prompts = {own.id: own.prompt for own in rubric.questions}
        texts = [*((own.id, own.prompt, own.required) for own in rubric.texts), (NOTE, "Anything to note?", False)]
        fields = {f"{unit}.{id}": prompt for unit in item.units for id, prompt in prompts.items()}
        fields |= {id: prompt for id, prompt, _ in texts}
        values = self._frame(secret, n, rater) | {
            "groups": evidence,
            "effects": effects,
            "units": [(unit, groups.get(unit)) for unit in sorted(item.units, reverse=True)],
            "asked": rubric.asked(self._study.logits),
            "prompts": prompts,
            "texts": texts,
            "answers": answers,
            "counts": self._counts(rater, n),
            "fresh": rater.last == 0,
            "undone": undone,
            "undone_prompt": fields.get(undone, ""),
        }
        written = [*answers.texts.values(), answers.skipped or "", values["undone_prompt"]]
        own = sum(len(escape(text).encode("utf-8", "replace")) for text in written)
        return _environment().get_template("item").render(self._common, **values), own

    def _empty_size(self, item: Item) -> int:
        """The most that the page of an item takes, without what its rater writes."""
        rater = Rater("", (Place(item.id, False),), self._study)
        html, _ = self._item(rater, item, ItemAnswers(), 1, "", "")
        answers = len(item.units) * len(self._study.rubric.asked(self._study.logits))
        return _rounded(len(html.encode("utf-8", "replace")) + _FRAME + _ANSWER * answers)

    def _padded(self, html: str, own: int) -> bytes:
        """The page with random characters in a comment, so that its size tells how much the rater wrote, at most."""
        page = html.encode("utf-8", "replace")
        missing = self._size + _rounded(own) - len(page)
        missing += _rounded(max(-missing, 0))
        return page.replace(_PADDING.encode(), f"<!--padding{secrets.token_hex(missing)[:missing]}-->".encode())


def _rounded(size: int) -> int:
    return -(-size // _STEP) * _STEP


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    folder = resources.files("jsaeval.rating.server") / "templates"
    names = ("frame", "item", "groups", "effects", "macros", "done", "help", "plain")
    texts = {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in names}
    environment.loader = jinja2.DictLoader(texts)
    environment.globals |= {"longest": LONGEST_TEXT, "longest_reason": LONGEST_REASON, "reasons": REASONS}
    return environment
