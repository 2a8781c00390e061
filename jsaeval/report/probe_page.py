"""The probes on the page: answers, tables over tasks, and the texts behind the winning latents."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jsaeval.report.numbers import ends, nats
from jsaeval.report.probe_answers import dense, grounds, kinds, pick, single
from jsaeval.report.probe_figures import k_curve, scatter
from jsaeval.report.probes import FEATURES, shown_lines, verdict


# With more SAEs than this the page shows neither tasks nor figures of each, to stay small.
MOST_WITH_TASKS = 4
_END = 240  # characters of a text that are shown, from its end
_POOLS = {"last": "the last token", "mean": "the mean over the tokens", "max": "the maximum over the tokens"}
_MARKS = str.maketrans({"\n": "⏎ ", "\t": "⇥ ", "\r": None})


def probe_section(report: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of the probes."""
    summary = report["probe_summary"]
    names, tasks = summary["settings"]["saes"], summary["tasks"]
    saes = [_sae(report, name, f"probes-{i}", len(names) <= MOST_WITH_TASKS) for i, name in enumerate(names, 1)]
    overview = [_overview(summary, sae["id"], sae["name"]) for sae in saes] if len(saes) > 1 else []
    return {
        "hook": summary["settings"]["hook"],
        "pool": _POOLS[summary["settings"]["pool"]],
        "tasks": len(tasks),
        "texts": sum(task["test"] for task in tasks),
        "saes": saes,
        "overview": overview if overview and overview[0]["cells"] else [],
        "most_with_tasks": MOST_WITH_TASKS,
    }


def _sae(report: dict[str, Any], name: str, id: str, details: bool) -> dict[str, Any]:
    summary, lines = report["probe_summary"], report["probe_summary"]["overall"]
    own = [probe for probe in report["probes"] if probe["sae"] in (name, None) and probe["probe"] != "k_sparse"]
    fitted = {(probe["task"], probe["features"], probe["probe"]): probe for probe in own}
    rows = [_task(task, name, fitted) for task in summary["tasks"]] if details else []
    figures = (k_curve(lines, name, id), scatter(summary["tasks"], fitted, id)) if details else ()
    return {
        "name": name,
        "id": id,
        "answers": {
            "Can a concept be read off one latent?": list(single(report, name)),
            "Do the latents keep what x tells?": list(dense(report, name)),
            "On what kind of concept?": list(kinds(report, name)),
            "By what right?": list(grounds(report, name)),
        },
        "lines": [_line(own) for own in shown_lines(lines, name)],
        "groups": [_group(group, own, name) for group, own in summary["groups"].items()],
        "has": {kind for kind in ("single", "dense") if pick(lines, name, "latents", kind)},
        "has_words": pick(lines, name, "bag_of_words", "dense") is not None,
        "rows": rows,
        "winners": [row for row in rows if row["latent"] is not None],
        "figures": [picture for picture in figures if picture],
    }


def _overview(summary: dict[str, Any], id: str, name: str) -> dict[str, Any]:
    cells = {}
    for kind, head, than in (("single", "best latent", "− best channel of x"), ("dense", "all latents", "− all of x")):
        if own := pick(summary["overall"], name, "latents", kind):
            cells |= {head: own["bce"], f"{head} {than}": own["minus"]["x"]["bce"]}
    return {"id": id, "name": name, "cells": cells}


def _line(own: dict[str, Any]) -> dict[str, Any]:
    """A line with its differences from others as text."""
    what = FEATURES[own["features"]] + (", best one" if own["probe"] == "single" else "")
    x = None if own["features"] == "x" else own["minus"].get("x")
    others = {"x": x, "random_sae": own["minus"].get("random_sae")}
    return own | {"what": what, "than": {other: found and _than(found["bce"]) for other, found in others.items()}}


def _than(minus: dict[str, Any]) -> dict[str, str]:
    known = {"value": nats(minus["value"], "+"), "interval": ends(minus)}
    return known | {"verdict": verdict(minus) if known["interval"] else ""}


def _group(group: str, lines: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    own, one = (pick(lines, name, "latents", kind) for kind in ("dense", "single"))
    about = {"name": group, "tasks": lines[0]["tasks"], "x": pick(lines, name, "x", "dense")}
    return about | {"dense": own and _line(own), "single": one and _line(one)}


def _task(task: dict[str, Any], name: str, fitted: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    def value(features: str, kind: str, score: str = "bce") -> float | None:
        return fitted.get((task["name"], features, kind), {}).get(score, {}).get("value")

    winner = next(own for own in task["winners"] if own["sae"] == name)
    latents, x = value("latents", "dense"), value("x", "dense")
    minus = fitted.get((task["name"], "latents", "dense"), {}).get("minus", {}).get("x", {}).get("bce")
    best = "single" if latents is None else "dense"
    about = {key: task[key] for key in ("name", "group", "meaning", "test")}
    about |= {"latent": winner["latent"], "top": [own | {"text": end_of(own["text"])} for own in winner["top"]]}
    about |= {"difference": minus and minus["value"], "than": minus and _than(minus)}
    about |= {score: value("latents", best, score) for score in ("accuracy", "auc")}
    about |= {"dense": latents, "x": x, "words": value("bag_of_words", "dense")}
    return about | {"single": value("latents", "single"), "random": value("random_sae", "single")}


def end_of(text: str) -> str:
    """The end of a text, which is what was pooled, on one line and with its white space visible."""
    text = text.encode("utf-8", "replace").decode()
    shown = ("…" if len(text) > _END else "") + text[-_END:]
    shown = re.sub(r"^ +| +$|  +", lambda spaces: "␣" * len(spaces[0]), shown)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", shown.translate(_MARKS))


def probe_facts(report: dict[str, Any]) -> dict[str, str]:
    """What was probed, on what."""
    if "probe_summary" not in report:
        return {}
    summary = report["probe_summary"]
    settings, tasks = summary["settings"], summary["tasks"]
    made = summary.get("provenance", report["provenance"])
    train, validation, test, cut = (sum(own[key] for own in tasks) for key in ("train", "validation", "test", "cut"))
    most = f"at most {settings['examples']} of a task" if settings["examples"] else "all of each task"
    left_out: Counter[str] = sum((Counter(task["left_out"]) for task in tasks), Counter())
    which, failed = settings["which"], sum(not own["converged"] for own in report["probes"])
    sparse = f" (k = {', '.join(map(str, which['ks']))}; {' and '.join(own.upper() for own in which['penalties'])})"
    fitted = ", ".join(kind + (sparse if kind == "k_sparse" else "") for kind in which["kinds"])
    return {
        "probe tasks": ", ".join(task["name"] for task in tasks),
        "probe texts": f"{train:,} train, {validation:,} choose the strength of the penalty, {test:,} test; {most}",
        "pooling": f"{_POOLS[settings['pool']]} of a text, at {settings['hook']}",
        "probe context": f"{settings['context']} tokens; {cut:,} longer texts lost their beginning",
        "rows left out": ", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) or "none",
        "probes": f"{fitted}; {len(report['probes']):,} fitted, {failed or 'none'} did not converge",
        "probe time": f"{made['wall_s']:.0f} s; peak memory {made['peak_rss_mb'] / 1024:.2f} GiB",
    }
