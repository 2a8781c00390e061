"""Ratings made in Label Studio, of the tasks of `jsaeval.rating.label_studio`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsaeval.errors import InputError, one_line
from jsaeval.rating.import_lines import Line, is_seconds, is_time, wrong_answer, wrong_names
from jsaeval.rating.label_studio import TEXT, place_of
from jsaeval.rating.study import Study


SKIPPED = "skipped in Label Studio"


def annotations(path: Path, study: Study, complaints: list[str]) -> Iterator[Line]:
    """What is in a file that Label Studio exported (JSON, not JSON-MIN). Cancelled annotations are skips.

    Args:
        path: of the file.
        study: that was rated.
        complaints: what is wrong with it is added.

    Raises:
        InputError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({one_line(error)})") from None
    if not isinstance(found, list):
        raise InputError(f"{path}: a list of tasks was expected, as Label Studio exports under JSON")
    for i, task in enumerate(found, 1):
        try:
            data, item, made = task["data"], task["data"]["item"], task["annotations"]
            newest: dict[str, dict[str, Any]] = {}
            for own in sorted(made, key=lambda own: str(own.get("updated_at") or own.get("created_at") or "")):
                newest[_rater(own)] = own  # of somebody who did a task twice the last one
            for rater, own in newest.items():
                where = f"task {i}, {rater}"
                wrong = list(wrong_names(rater, item, study))
                complaints += [f"{where}: {said}" for said in wrong]
                if not wrong:
                    yield from _annotation(where, rater, item, data, own, study, complaints)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            complaints.append(f"task {i}: not one of Label Studio's from here ({type(error).__name__}: {error})")


def _annotation(
    where: str,
    rater: str,
    item: str,
    data: Mapping[str, Any],
    own: Mapping[str, Any],
    study: Study,
    complaints: list[str],
) -> Iterator[Line]:
    at = str(own.get("updated_at") or own.get("created_at") or "")
    seconds = str(own.get("lead_time") or 0.0)
    if not is_time(at) or not is_seconds(seconds):
        complaints.append(f"{where}: lead_time {seconds}, at {at!r}: a number and a time were expected")
        return
    about = float(seconds), at, study.rubric.version
    for part in own["result"]:
        name, value = part["from_name"], part["value"]
        if part["type"] == "choices" and (place := place_of(name)) is not None:
            interval, question, given = data[f"interval{place[0]}"], place[1], str(value["choices"][0])
            if interval is None:
                complaints.append(f"{where}: {name}: the item has no unit there")
                continue
            kind = "answer"
        elif part["type"] == "textarea" and name.startswith(TEXT):
            texts = [value["text"]] if isinstance(value["text"], str) else value["text"]
            interval, question, given, kind = 0, name.removeprefix(TEXT), "\n".join(texts), "text"
            if not given.strip():
                continue
        else:
            complaints.append(f"{where}: {name!r}: no field of the configuration")
            continue
        wrong = list(wrong_answer(item, str(interval), question, given, study))
        complaints += [f"{where}: {said}" for said in wrong]
        if not wrong:
            yield Line(where, rater, item, False, kind, int(interval), question, given, *about)
    if own.get("was_cancelled"):
        yield Line(where, rater, item, False, "skip", 0, "", SKIPPED, *about)


def _rater(own: Mapping[str, Any]) -> str:
    by = own["completed_by"]
    if isinstance(by, dict):
        return str(by.get("email") or f"user {by['id']}")
    return f"user {by}"
