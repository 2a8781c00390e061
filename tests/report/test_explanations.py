"""What a report says of explanations: on the terminal, on the page, in its table."""

import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console

from jsaeval.autointerp.classes import Value
from jsaeval.autointerp.evaluate import Dictionary, Explained
from jsaeval.autointerp.explanation import Explanation
from jsaeval.autointerp.scores import WHERE, Scored
from jsaeval.autointerp.summary import summarise
from jsaeval.hooks import parse_hook
from jsaeval.report.explanations import explanations_frame, explanations_to_json, show_explanations
from jsaeval.report.latent_records import records_of
from jsaeval.report.page import page
from tests.report.latents import evidence
from tests.tiny import HOOK, tiny_sae


LOSS = "activation_prediction_loss"


def scored(latent, value, **known):
    values = {id: {where: Value(value) for where in places} for id, places in WHERE.items()}
    return Scored(latent, 0.02, values, **known)


def several(n=12, **known):
    return [scored(i, x, **known) for i, x in enumerate(np.random.default_rng(0).normal(0.6, 0.1, n).tolist())]


def explained(ours, floors=None, others=None):
    """What was found of an SAE, its latents having these scores."""
    explanations = [Explanation(own.latent, f"fires on {own.latent}", "n2g") for own in ours]
    known = [evidence(own.latent) for own in ours]
    own = Dictionary(tiny_sae(d_sae=24), None, known, explanations, ours, floors or {})
    return Explained(own, (), summarise(ours, floors, others))


def reported(ours, floors=None, others=None, **settings):
    usual = {"corpus": "news", "rows": 4, "positions": 32, "hook": HOOK, "latents": "12", "floor_latents": 4}
    usual |= {"explainer": "n2g", "simulator": "rule", "server": None}
    provenance = {"plan": {}, "wall_s": 1.0, "peak_rss_mb": 1.0, "dtype": "float32", "precision": "highest"}
    provenance |= {"devices": ["CPU"], "mesh": "1,1", "versions": {}}
    saes = explanations_to_json([explained(ours, floors, others)])
    lm = {"name": "tiny", "n_blocks": 3, "d_model": 16, "vocab": 50, "sha256": ""}
    section = {"settings": usual | settings, "provenance": provenance, "saes": saes}
    return {"lm": lm, "saes": [{"name": saes[0]["sae"]}], "provenance": provenance, "explanations": section}


def on_terminal(report, width=130):
    stream = io.StringIO()
    show_explanations(report, Console(file=stream, width=width))
    return stream.getvalue()


def on_page(report):
    """The text of the page, a space for all white space."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page(report)))


def test_mass_on_levels_and_what_no_example_stands_for_are_said(lm):
    ours = several(mass=0.25, uncovered=0.0)
    ours[:2] = [dataclasses.replace(ours[0], mass=0.73, uncovered=0.6), Scored(1, 0.02, error="refused")]
    found = explained(ours)
    mass, share = (0.73 + 10 * 0.25) / 11, 0.6 / 11
    assert found.summary["mass_on_levels"] == pytest.approx(mass)
    assert found.summary["uncovered"] == pytest.approx(share)
    report = reported(ours)
    for text in (on_terminal(report), on_page(report)):
        assert "Mass on levels: 0.29; an LM that is not asked to answer with a level puts little there." in text
        assert "no example stands for 5.45 % of the windows of the split score" in text
    frame = explanations_frame(report["explanations"]["saes"])
    assert frame["mass_on_levels"][:3].tolist() == pytest.approx([0.73, np.nan, 0.25], nan_ok=True)
    assert frame["uncovered"].tolist()[0] == 0.6 and frame["uncovered"].dtype == "float64"
    records = records_of([found], lm, parse_hook(HOOK), str, "host")
    assert [own["mass_on_levels"] for own in records[:3]] == [0.73, None, 0.25]
    assert [own["uncovered"] for own in records[:3]] == [0.6, None, 0.0]


def test_nothing_is_said_of_mass_where_the_simulator_has_none():
    report = reported(several(uncovered=0.0))
    summary = report["explanations"]["saes"][0]["summary"]
    assert summary["mass_on_levels"] is None and summary["uncovered"] == 0
    old = reported(several())
    for key in ("mass_on_levels", "uncovered"):
        del old["explanations"]["saes"][0]["summary"][key]
    for text in (on_terminal(report), on_page(report), on_terminal(old), on_page(old)):
        assert "ass on levels" not in text and "stands for" not in text
