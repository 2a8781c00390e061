"""Zip files that are not trusted: names stay inside, sizes are what the file can hold, damage is one line."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsaeval.errors import InputError


_MEMBERS_LIMIT = 2**16
# A member may become this much larger, if it is large at all. Trained weights shrink by a tenth; zeros by 1,000.
_RATIO, _SMALL = 100, 2**24

_DAMAGE = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError)
_DAMAGE += (zipfile.BadZipFile, zlib.error, struct.error, RecursionError)


@contextmanager
def whole(path: Path, kind: str) -> Iterator[None]:
    """Turn what a damaged file raises into an `InputError`; `kind` is what it should be."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: not a whole {kind} file ({error}); fetch it again") from None


def members_of(path: Path, archive: zipfile.ZipFile, compressed: bool) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip by name.

    Args:
        path: of the zip.
        archive: the open zip.
        compressed: whether members may be; else none becomes larger than the file.

    Raises:
        InputError: a name that leaves the zip or comes twice, or a member too large for what is in the file.
    """
    infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(members) != len(infos) or len(infos) > _MEMBERS_LIMIT:
        raise InputError(f"{path}: {len(infos)} members in the zip, of {len(members)} names; it is not read")
    for name, info in members.items():
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise InputError(f"{path}: a member of the zip is called {name!r}, which leaves it; it is not read")
        if not compressed and (info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size):
            raise InputError(
                f"{path}: member {name!r} of the zip is compressed, which torch never does; it is not read"
            )
        if info.file_size > max(_SMALL, _RATIO * info.compress_size):
            raise InputError(f"{path}: {name!r} would grow from {info.compress_size:,} to {info.file_size:,} bytes")
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise InputError(f"{path}: the members of the zip are larger than the file; they overlap, it is not read")
    return members
