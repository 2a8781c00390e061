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


def test_a_score_stands_beside_its_floor_and_the_difference_with_its_interval():
    values = np.random.default_rng(0).normal(0.6, 0.1, 12).tolist()
    ours, floor = ([scored(i, value + gap) for i, value in enumerate(values)] for gap in (0, 0.0116))
    report = reported(ours, {"token": floor})
    lines = on_terminal(report).splitlines()
    own = report["explanations"]["saes"][0]["summary"]["scores"]
    for id, name, outcome in ((LOSS, "E[a | token]", "better"), ("firing_f1", "firing_f1 ↑", "worse")):
        (line,) = [line for line in lines if line.strip().startswith(name)]
        value = next(iter(own[id].values()))["floors"]["token"]["value"]
        assert f"{value:.4f} " in line and line.rstrip().endswith(f"-0.0116 [-0.0116, -0.0116] {outcome}")
    page = on_page(report)
    assert page.count("-0.01160 [-0.01160, -0.01160] better") == 1  # of the loss
    assert page.count("-0.01160 [-0.01160, -0.01160] worse") == len(WHERE) - 1
    assert "Better than E[a | token] (" in page and "difference -0.01160 [-0.01160, -0.01160])" in page


@pytest.mark.parametrize("width", [100, 130])
def test_tables_fit_the_console(width):
    ours = several()
    floors = {name: several(12) for name in ("empty", "another", "constant", "token")}
    text = on_terminal(reported(ours, floors, {"random_sae": several(9), "neurons": several(8)}), width)
    tables = text[text.index(LOSS) :].splitlines()
    assert max(map(len, tables)) <= width and "…" not in text
    # No line goes on in the next one.
    assert all(line[:3].strip() for line in tables if line.strip())
    assert text.count("[0.0000, 0.0000]") == 4 + len(WHERE) - 1 and text.count(" unclear") >= 2 + 4 + len(WHERE) - 1


def test_the_number_of_latents_is_given_and_why_there_is_no_interval():
    ours = several(6)
    silent = Value(None, "the latent does not fire here")
    for own in ours[:2]:
        own.values[LOSS]["random"] = silent
    text = on_terminal(reported(ours))
    (random,) = [line for line in text.splitlines() if line.startswith("  random windows")]
    (top,) = [line for line in text.splitlines() if line.startswith("  around the largest")]
    assert random.rstrip().endswith(" 4 of 6") and "[" not in random
    assert top.rstrip().endswith(" 6") and "[" in top
    why = "Means over fewer than 5 latents have no interval."
    assert why in text and why in on_page(reported(ours))
    assert why not in on_terminal(reported(several(6))) and why not in on_page(reported(several(6)))


def test_it_is_said_what_first_in_a_text_means():
    words = "“First in a text” means first behind BOS in a row of 32 positions"
    for explainer, times in (("n2g", 1), ("lookup", 1), ("llm", 0), ("file", 0)):
        assert on_page(reported(several(), explainer=explainer)).count(words) == times
