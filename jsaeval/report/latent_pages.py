"""`latents/`: an index and a page for each latent, from their records. Each page is one file that asks for nothing.

Records hold text from anywhere: a vocabulary, a corpus, a language model. It is escaped, its invisible characters are
shown (`jsaeval.report.latent_text`), and the pages forbid everything but their own style and script, by hash.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.report.latent_index import index_of
from jsaeval.report.latent_page import densities_of, page_of
from jsaeval.report.latent_record import FLOORS, About


def write_pages(folder: Path, records: Sequence[Mapping[str, Any]], about: About) -> Path:
    """Write the pages of latents into a folder; those of floors into folders inside it.

    Args:
        folder: for the pages.
        records: as `jsaeval.report.latent_record` makes them, in the order in which the pages follow one another.
        about: what they have in common.

    Returns:
        The path of the index.

    Raises:
        InputError: there is no record, two are of the same latent, or files cannot be written.
    """
    if not records:
        raise InputError(f"{folder}: no latents to write pages of")
    by_floor: dict[str | None, list[Mapping[str, Any]]] = {}
    for own in sorted(records, key=lambda own: own["floor"] or ""):
        by_floor.setdefault(own["floor"], []).append(own)
    paths = {floor: folder / (floor or "") for floor in by_floor}
    page, index = _template("latent_page"), _template("latent_index")
    for floor, own in by_floor.items():
        pages = {one["latent"] for one in own}
        if len(pages) < len(own):
            raise InputError(f"{paths[floor]}: two records of the same latent; give those of one SAE")
        others = {FLOORS[to] if to else "SAE": _between(floor, to) for to in by_floor} if len(by_floor) > 1 else {}
        densities = densities_of(own)
        _write(paths[floor] / "index.html", index(index_of(own, about, others, densities)))
        for before, one, after in zip([None, *own[:-1]], own, [*own[1:], None], strict=True):
            _write(paths[floor] / f"{one['latent']}.html", page(page_of(one, before, after, pages, densities, about)))
    return next(iter(paths.values())) / "index.html"


def _template(name: str) -> Any:
    """Renders a template, with its style and script and the policy that allows these two and nothing else."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_file(f"{name}.html.jinja"))
    css, script = _file("page.css") + _file("latent_page.css"), _file(f"{name}.js")
    policy = f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'"
    policy += "; base-uri 'none'; form-action 'none'"
    parts = {"css": Markup(css), "script": Markup(script), "policy": Markup(policy)}
    return lambda context: template.render(parts | context)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return (resources.files("jsaeval.report") / name).read_text(encoding="utf-8")


def _between(here: str | None, there: str | None) -> str | None:
    """From the index of one dictionary to that of another; None to itself."""
    if here == there:
        return None
    return f"{'../' if here else ''}{there + '/' if there else ''}index.html"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
