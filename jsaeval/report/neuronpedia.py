"""Feature data as Neuronpedia's API takes it: bodies of `POST /api/feature/upload-batch`, for users who own the source.

The limits are those of the API's schema; what breaks one is cut or left out here and noted, so that no upload fails
halfway. Nothing is sent: a key and the request are the user's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsaeval.errors import listed
from jsaeval.hooks import parse_hook
from jsaeval.report.feature_data import ends_of, grouped, set_of, whole_text
from jsaeval.report.latent_record import About


FEATURES = 128  # of a body
LARGEST_INDEX = 10_000_000
TOKENS = 1024  # of an activation
LOGITS = 20  # of either end
TEXT = 512  # characters of an explanation


def uploads(records: Sequence[Mapping[str, Any]], about: About) -> tuple[list[dict[str, Any]], list[str]]:
    """Bodies for the latents of one dictionary, and notes on what was cut or left out.

    Args:
        records: of the latents.
        about: what they have in common.
    """
    fits = [own["latent"] <= LARGEST_INDEX and any(True for _ in grouped(own)) for own in records]
    fit = [own for own, fits_in in zip(records, fits, strict=True) if fits_in]
    left_out = [own["latent"] for own, fits_in in zip(records, fits, strict=True) if not fits_in]
    cut = [own["latent"] for own in fit if len(_plain(own["explanation"]["text"])) > TEXT]
    why = f"without activations or above {LARGEST_INDEX:,}"
    notes = [f"upload: left out, {why}: latents {listed(left_out, 8)}"] if left_out else []
    notes += [f"upload: explanations cut to {TEXT} characters: latents {listed(cut, 8)}"] if cut else []
    names = {"modelId": _id(about.lm), "source": ""}
    if fit:
        names["source"] = _id(f"{parse_hook(fit[0]['hook']).block}-{set_of(fit[0])}")
    bodies = [
        names | {"features": [_feature(own) for own in fit[first : first + FEATURES]]}
        for first in range(0, len(fit), FEATURES)
    ]
    return bodies, notes


def _feature(record: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"index": int(record["latent"]), "density": float(record["density"])}
    if record["logits"]:
        for key, end in (("topLogits", "top"), ("bottomLogits", "bottom")):
            tokens = record["logits"][end][:LOGITS]
            out[key] = [{"token": _plain(own["text"]), "value": float(own["value"])} for own in tokens]
    if text := _plain(record["explanation"]["text"]).strip():
        # Names of methods are those that the server knows, and it does not know ours.
        out["explanations"] = [{"text": text if len(text) <= TEXT else text[: TEXT - 1] + "…"}]
    return out | {"activations": list(_activations(record))}


def _activations(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for interval, own in grouped(record):
        # Around what the window was chosen for, where it is too long.
        first = max(0, min(own["focus"] - TOKENS // 2, len(own["text"]) - TOKENS))
        out: dict[str, Any] = {
            # A token without text is no token there.
            "tokens": [_plain(token) or "�" for token in own["text"][first : first + TOKENS]],
            "values": [float(value) for value in own["activations"][first : first + TOKENS]],
        }
        if interval is not None:
            out |= dict(zip(("quantileMin", "quantileMax", "quantileFraction"), ends_of(record, interval), strict=True))
        yield out


def _plain(text: str) -> str:
    """A text that a database takes: without U+0000."""
    return whole_text(text).replace("\x00", "␀")


def _id(name: str) -> str:
    """A name in lower case, of letters, digits, points and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
