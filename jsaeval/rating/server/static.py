"""The files that pages refer to: read once, served from memory, and named by their content."""

import functools
import gzip
import hashlib
from dataclasses import dataclass
from importlib import metadata, resources

from jsaeval.errors import InputError


@dataclass(frozen=True)
class Asset:
    """A file: its type, its bytes, and these compressed."""

    type: str
    content: bytes
    compressed: bytes


@dataclass(frozen=True)
class Assets:
    """`files`: by the names in URLs, which change with the content. `urls`: by their own names."""

    files: dict[str, Asset]
    urls: dict[str, str]


@functools.cache
def load_assets() -> Assets:
    """Style, script, and htmx.

    Raises:
        InputError: htmx is not installed.
    """
    own = resources.files("jsaeval.rating.server") / "static"
    found = {
        "page.css": ("text/css", (own / "page.css").read_bytes()),
        "page.js": ("text/javascript", (own / "page.js").read_bytes()),
        "htmx.js": ("text/javascript", _htmx()),
    }
    files, urls = {}, {}
    for name, (type, content) in found.items():
        stem, _, suffix = name.rpartition(".")
        hashed = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
        files[hashed] = Asset(f"{type}; charset=utf-8", content, gzip.compress(content, mtime=0))
        urls[name] = f"/static/{hashed}"
    return Assets(files, urls)


def _htmx() -> bytes:
    # django-htmx is the package of PyPI that keeps htmx as published (0BSD) and up to date. Of it this one file is
    # read; nothing of it, or of Django, is imported.
    wanted = "django_htmx/static/django_htmx/htmx-2.min.js"
    try:
        for path in metadata.files("django-htmx") or ():
            if path.as_posix() == wanted:
                return path.read_binary()
    except (metadata.PackageNotFoundError, OSError):
        pass
    raise InputError("htmx is missing, which the rating page is made with; pip install 'django-htmx>=1.29' brings it")
