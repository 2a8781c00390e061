"""`report.html`: one self-contained page from the dictionary of `report.json`. It asks the network for nothing."""

from importlib import resources
from typing import Any

import jinja2

from jsaeval.metrics.metric import Metric
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.comparison import COLUMNS, FLOORS, comparison, short
from jsaeval.report.explanation_page import explanation_facts, explanation_section
from jsaeval.report.facts import facts
from jsaeval.report.figures import sae_figures, sweep_figures
from jsaeval.report.numbers import interval, number
from jsaeval.report.probe_page import probe_facts, probe_section
from jsaeval.report.rating_page import rating_facts, rating_section
from jsaeval.report.summary import faithfulness, grounds, interpretability, warnings_of
from jsaeval.run.folder import is_run


_BETTER = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better"), "neither": ("", "")}
_AXES = {"faithfulness": "Faithfulness (to the LM)", "interpretability": "Interpretability (to people)"}
# With more SAEs than this the page shows no figures of single SAEs, to stay small.
MOST_WITH_FIGURES = 8
_COMPARED = 5  # columns fit beside each other
_OVERVIEW = ("l0", "explained_variance", "ce_recovered_zero", "downstream_loss", "alive")


def page(report: dict[str, Any]) -> str:
    """The page of a report as made by `jsaeval.report.json_report.report`, or read back from `report.json`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": number, "interval": interval}
    parts = ("probes", "explanations", "ratings")
    environment.loader = jinja2.DictLoader({part: _file(f"{part}.html.jinja") for part in parts})
    template = environment.from_string(_file("page.html.jinja"))
    measured = report["saes"] if is_run(report) else []
    saes = [_sae(report, sae) for sae in measured]
    done = [sae for sae in measured if "error" not in sae]
    names = [sae["name"] for sae in report["saes"]]
    return template.render(
        title=names[0] if len(names) == 1 else f"{len(names)} SAEs",
        css=_file("page.css"),
        lm=report["lm"],
        corpus=report.get("corpus"),
        masks=report.get("masks"),
        names=names,
        saes=saes,
        overview=_overview(measured) if len(saes) > 1 else None,
        sweep=list(sweep_figures(measured)) if len(done) > 1 else [],
        most_with_figures=MOST_WITH_FIGURES,
        controls_rows=report.get("controls", {}).get("rows"),
        probes=probe_section(report) if "probe_summary" in report else None,
        explanations=explanation_section(report) if "explanations" in report else None,
        ratings=rating_section(report) if "ratings" in report else None,
        facts=facts(report) | probe_facts(report) | explanation_facts(report) | rating_facts(report),
        plan="\n".join(f"{key} = {value}" for key, value in report["provenance"]["plan"].items() if value is not None),
    )


def _file(name: str) -> str:
    return (resources.files("jsaeval.report") / name).read_text(encoding="utf-8")


def _sae(report: dict[str, Any], sae: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of an SAE."""
    if "error" in sae:
        return {"name": sae["name"], "error": sae["error"]}
    lines = comparison(report, sae)
    compared = [id for id in COLUMNS if lines and id in lines[0].metrics][:_COMPARED]
    keep = ("name", "hook", "architecture", "d_in", "d_sae")
    return {key: sae[key] for key in keep} | {
        "error": None,
        "warnings": warnings_of(sae),
        "answers": {
            "Is it faithful?": list(faithfulness(sae)),
            "Is it interpretable?": list(interpretability(sae, report.get("ratings"))),
            "By what right?": list(grounds(report, sae)),
        },
        "axes": [_axis(sae, axis, title) for axis, title in _AXES.items()],
        "has_floors": bool(sae.get("floors")),
        "comparison": lines,
        "compared": compared,
        "decided_by": next(iter(compared), None),
        "figures": list(sae_figures(report, sae)) if len(report["saes"]) <= MOST_WITH_FIGURES else [],
    }


def _axis(sae: dict[str, Any], axis: str, title: str) -> dict[str, Any]:
    """The metrics of an axis with their declarations, in the order of the registry."""
    out = []
    for id, metric in REGISTRY.items():
        if metric.axis == axis and id in sae["metrics"]:
            declared = {"id": id, "formula": metric.formula, "source": metric.source, "tier": metric.tier}
            shown = {"better": _BETTER[metric.direction], "floor": _best_floor(sae, metric)}
            out.append(sae["metrics"][id] | declared | shown)
    return {"title": title, "metrics": out, "has_floors": any(metric["floor"] for metric in out)}


def _best_floor(sae: dict[str, Any], metric: Metric) -> dict[str, Any] | None:
    """The strongest of the floors by a metric that has a direction."""
    floors = {name: sae.get("floors", {}).get(name, {}).get("metrics", {}).get(metric.id) for name in FLOORS}
    values = {name: found["value"] for name, found in floors.items() if found and found["value"] is not None}
    if not values or metric.direction == "neither" or metric.needs == "norms":
        return None
    best = (max if metric.direction == "higher" else min)(values, key=lambda name: values[name])
    return {"name": short(best), "value": values[best]}


def _overview(saes: list[dict[str, Any]]) -> dict[str, Any]:
    done = [(i, sae) for i, sae in enumerate(saes, 1) if "error" not in sae]
    ids = [id for id in _OVERVIEW if any(id in sae["metrics"] for _, sae in done)]
    rows = [
        {"index": i, "name": sae["name"], "warnings": len(warnings_of(sae))}
        | {"metrics": {id: sae["metrics"].get(id) for id in ids}}
        for i, sae in done
    ]
    return {"ids": ids, "rows": rows}
