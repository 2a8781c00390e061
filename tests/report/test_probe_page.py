"""Probes on the page: sentences that follow the intervals, and a page that hostile tasks cannot harm."""

import json
import re

import numpy as np
import pytest

from jsaeval.probes.fit import Probe
from jsaeval.probes.summary import summarise
from jsaeval.probes.task import OF_SAE, Fitted, TaskResult, Top, Which
from jsaeval.report.page import page
from jsaeval.report.probe_page import (
    MOST_WITH_TASKS,
    dense,
    end_of,
    grounds,
    kinds,
    probe_facts,
    probe_section,
    single,
)
from jsaeval.report.probes import tasks_to_json
from jsaeval.run.folder import finite
from tests.report.nested import Nested


# How far the logits of each set of features tell yes from no.
SIGNAL = {"latents": 2.0, "x": 3.0, "reconstruction": 2.0, "error": 1.0, "random_sae": 0.7, "bag_of_words": 1.5}
HOSTILE = '<script>alert("x")</script>\n\t& \x00 end\u202e'
WHICH = Which(ks=(1, 16))


def fake_task(name, group, saes=1, which=WHICH, signal=SIGNAL, n=120, meaning="it is so", text=HOSTILE):
    """A task whose probes have random logits, as good as `signal` says; k-sparse and single ones are worse."""
    rng = np.random.default_rng(sum(map(ord, name)))
    labels = rng.permutation(n) % 2 == 0
    noise = rng.standard_normal(n)
    probes = []
    for sae in [*range(saes), None]:
        for features in OF_SAE if sae is not None else ("x", "bag_of_words"):
            for own in which.on(features, 1000):
                share = 1.0 if own.k is None else own.k / (own.k + 4)
                size = 0.0 if features == "shuffled_labels" else signal[features] * share
                logits = size * (labels - 0.5) * 2 + noise + 0.3 * rng.standard_normal(n)
                chosen = None if own.k is None else (7,)
                probe = Probe(features, own.kind, own.k, own.penalty, 1.0, chosen, 0.5, True, logits)
                probes.append(Fitted(sae, probe))
    probes.append(Fitted(None, Probe("none", "dense", 0, None, None, (), 0.69, True, np.zeros(n))))
    top = (Top(text, True, 3.25), Top("short", False, 1.5)) if "single" in which.kinds else ()
    left_out = {"doubled": 12, "empty": 1}
    return TaskResult(name, group, meaning, (100, 30, n), 2, left_out, labels, tuple(probes), (top,) * saes)


def fake_report(results, which=WHICH, saes=1):
    """A report of probes alone, by way of the summary and of JSON."""
    names = [f"sae {i}" for i in range(1, saes + 1)]
    summary = summarise(results)
    made = tasks_to_json(results, summary, names)
    settings = {"saes": names, "hook": "blocks.1.hook_resid_post", "pool": "last", "context": 64, "examples": 330}
    settings |= {"which": vars(which), "seed": 0}
    made["probe_summary"]["settings"] = settings
    versions = {"jsaeval": "0.1.0", "jax": "0.10.2"}
    provenance = {"plan": {"tasks": "all"}, "versions": versions, "devices": ["cpu"], "mesh": {"data": 1}}
    provenance |= {"wall_s": 12.3, "peak_rss_mb": 1024.0, "dtype": "float32", "precision": "highest"}
    lm = {"name": "tiny", "sha256": None, "n_blocks": 3, "d_model": 16, "vocab": 50}
    source = {"format": "jsaeval", "path": "somewhere", "sha256": "f00"}
    about = [{"name": name, "hook": settings["hook"], "source": source, "metrics": {}} for name in names]
    report = {"schema": 1, "lm": lm, "saes": about, "provenance": provenance} | made
    return json.loads(json.dumps(finite(report)))


def told(report, sae="sae 1"):
    """All sentences about an SAE."""
    return " ".join(line for part in (single, dense, kinds, grounds) for line in part(report, sae))


def set_minus(report, features, kind, other, value, ci95):
    """Overwrite a difference in BCE, overall and in every group."""
    summary = report["probe_summary"]
    for line in [*summary["overall"], *(own for lines in summary["groups"].values() for own in lines)]:
        if (line["features"], line["probe"]) == (features, kind):
            line["minus"][other]["bce"] = {"value": value} | ({"ci95": ci95} if ci95 else {})


class Page(Nested):
    """Checks that elements nest, and collects text, heads of columns, values to sort by, and what is loaded."""

    def __init__(self, html):
        self.text, self.ids, self.heads, self.values, self.loads = [], [], [], [], []
        self.scripts = 0
        super().__init__(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [v for k, v in attrs if k in ("src", "srcset") or (k == "href" and not v.startswith("#"))]
        if "aria-sort" in found:
            self.heads.append(found)
        if "data-value" in found:
            self.values.append((tag, found.get("class"), found["data-value"]))
        assert not any(name.startswith("on") for name in found)
        super().handle_starttag(tag, attrs)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def made():
    """Reports as text, so that a test may change its own: one SAE and two groups, two SAEs, single probes only."""
    results = [fake_task("first", "place"), fake_task("second_$x$", "title"), fake_task("third", "place")]
    alone = Which(kinds=("single",))
    return {
        "one": json.dumps(fake_report(results)),
        "two": json.dumps(fake_report([fake_task("first", "place", saes=2)], saes=2)),
        "single": json.dumps(fake_report([fake_task("first", "place", which=alone)], which=alone)),
    }


@pytest.fixture
def report(made):
    return json.loads(made["one"])


@pytest.mark.parametrize(
    ("value", "ci95", "expected"),
    [
        (0.03, [0.02, 0.04], "SAE probes lose 0.030 [0.020, 0.040] nats to the residual stream."),
        (-0.03, [-0.04, -0.02], "SAE probes gain 0.030 [0.020, 0.040] nats over the residual stream."),
        (0.03, [-0.01, 0.07], "Between them: no difference that the test examples show (+0.030 [-0.010, 0.070])."),
        (0.03, None, "Between them: no difference that the test examples show"),
    ],
)
def test_dense_probes_against_x(report, value, ci95, expected):
    set_minus(report, "latents", "dense", "x", value, ci95)
    assert expected in told(report)
    phrases = ("SAE probes lose", "SAE probes gain", "Between them")
    assert [phrase in told(report) for phrase in phrases] == [expected.startswith(phrase) for phrase in phrases]


@pytest.mark.parametrize(
    ("ci95", "latent", "groups"),
    [
        ([0.02, 0.04], "this SAE's is WORSE by 0.030 [0.020, 0.040]", "clearly worse than a random SAE's on: place"),
        (
            [-0.04, -0.02],
            "this SAE's is better by 0.030 [0.020, 0.040]",
            "clearly better than a random SAE's on: place",
        ),
        ([-0.04, 0.02], "no difference that the test examples show", "neither clearly better nor clearly worse than a"),
    ],
)
def test_the_best_latent_against_a_random_sae(report, ci95, latent, groups):
    value = sum(ci95) / 2
    set_minus(report, "latents", "single", "random_sae", value, ci95)
    random = told(report).partition("The best latent of a random SAE")[2].partition("A probe on")[0]
    assert latent in random and groups in told(report)
    assert ('class="alarm"' in page(report)) == ("WORSE" in latent)


def test_bag_of_words_is_the_check_whether_the_lm_is_needed(report):
    assert "so the LM adds something" in told(report)
    set_minus(report, "bag_of_words", "dense", "x", -0.04, [-0.06, -0.01])
    assert "x is WORSE by 0.040 [0.010, 0.060]: the tasks then say little about the LM" in told(report)
    assert 'class="alarm">Which tokens occur' in page(report)
    set_minus(report, "bag_of_words", "dense", "x", -0.04, [-0.09, 0.01])
    assert "whether these tasks need the LM is not clear" in told(report)


def test_every_sentence_shows_the_numbers_of_the_report(report):
    text = told(report)
    named = {("latents", "single"), ("x", "single"), ("random_sae", "single"), ("shuffled_labels", "single")}
    named |= {(features, "dense") for features in ("latents", "x", "reconstruction", "error", "bag_of_words", "none")}
    for line in report["probe_summary"]["overall"]:
        if (line["features"], line["probe"]) in named:
            (low, high), value = line["bce"]["ci95"], line["bce"]["value"]
            assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in text
    assert "the mean over 3 tasks" in text and "360 test texts" in text and "A probe on 16 latents" in text
    assert "Of 3 tasks, all latents beat all of x on 0, lose on 3; unclear are 0." in text


def test_fits_that_failed_are_counted(report):
    assert "converge" not in told(report)
    report["probes"][0]["converged"] = False
    assert f"1 of {len(report['probes'])} probes did not converge." in told(report)


def test_only_single_probes(made):
    report = json.loads(made["single"])
    text, html = told(report), page(report)
    assert "The best single latent reaches" in text and "in random order" in text and "share of yes" in text
    for missing in ("Probes on all latents", "reconstruction", "bag of words", "A probe on", "None", "undefined"):
        assert missing not in text
    Page(html)
    assert "all of x" not in html and html.count("<figure>") == 1 and "<details><summary>first: latent 7" in html


def test_no_single_probes(made):
    report = json.loads(made["one"])
    report["probes"] = [own for own in report["probes"] if own["probe"] != "single"]
    summary = report["probe_summary"]
    for lines in (summary["overall"], *summary["groups"].values()):
        lines[:] = [own for own in lines if own["probe"] != "single"]
    for task in summary["tasks"]:
        task["winners"] = [own | {"latent": None, "top": []} for own in task["winners"]]
    html = page(report)
    Page(html)
    assert "best single latent reaches" not in html and "What the best latents see" not in html
    assert "SAE probes lose" in html and html.count("<figure>") == 2


def test_differences_of_tasks_are_paired(made):
    report = json.loads(made["one"])
    for row in probe_section(report)["saes"][0]["rows"]:
        assert row["difference"] == pytest.approx(row["dense"] - row["x"])
        assert row["than"]["verdict"] in ("better", "worse", "unclear") and row["than"]["interval"]


def test_the_page_is_whole_and_harmless(report):
    first = report["probe_summary"]["tasks"][0]
    first["meaning"] = first["group"] = HOSTILE
    report["probe_summary"]["groups"][HOSTILE] = report["probe_summary"]["groups"].pop("place")
    html = page(report)
    parsed = Page(html)
    assert parsed.scripts == 1 and not parsed.loads and "<script>alert" not in html
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;⏎ ⇥ &amp; � end\u202e</bdi>" in html
    assert html.count("<figure>") == 2 == html.count('role="img"') and "second_$x$" in html


def test_the_task_table_can_be_sorted(report):
    parsed = Page(page(report))
    assert len(parsed.heads) == 12 and {head["aria-sort"] for head in parsed.heads} == {"none"}
    assert page(report).count('<button type="button">') == 12
    assert len(parsed.values) == 3 * 12
    numeric = [value for _, kind, value in parsed.values if kind == "number"]
    assert len(numeric) == 3 * 10 and all(np.isfinite(float(value)) for value in numeric)
    fitted = {(own["task"], own["features"], own["probe"]): own for own in report["probes"]}
    differences = [fitted[task, "latents", "dense"]["minus"]["x"]["bce"]["value"] for task in ("first", "third")]
    assert {f"{value:.5g}" for value in differences} <= set(numeric)


def test_tables_hold_the_means_and_the_verdicts(report):
    text = re.sub(r"\s+", " ", " ".join(Page(page(report)).text))
    for line in report["probe_summary"]["overall"]:
        if line["features"] == "latents" and line["penalty"] != "l1":
            for score in ("bce", "accuracy", "auc", "f1"):
                assert f"{line[score]['value']:.3f}" in text
            for other in ("x", "random_sae"):
                minus = line["minus"][other]["bce"]
                low, high = minus["ci95"]
                assert f"{minus['value']:+.3f} [{low:.3f}, {high:.3f}]" in text
    groups = probe_section(report)["saes"][0]["groups"]
    assert [(own["name"], own["tasks"]) for own in groups] == [("place", 2), ("title", 1)]
    assert {own["dense"]["than"]["x"]["verdict"] for own in groups} == {"worse"}
    assert {own["single"]["than"]["random_sae"]["verdict"] for own in groups} == {"better"}


def test_several_saes(made):
    report = json.loads(made["two"])
    html = page(report)
    parsed = Page(html)
    assert {"probes-1", "probes-2"} <= set(parsed.ids) and html.count("<figure>") == 4
    assert html.count('href="#probes-') == 2 and told(report, "sae 1") != told(report, "sae 2")
    many = report["probe_summary"]["settings"]["saes"] = ["sae 1"] * (MOST_WITH_TASKS + 1)
    html = page(report)
    assert "<figure>" not in html and "Every task" not in html
    assert html.count("The best single latent reaches") == len(many)
    assert f"shown for up to {MOST_WITH_TASKS} SAEs" in re.sub(r"\s+", " ", html)


def test_an_undefined_value_does_not_break_it(report):
    for own in report["probes"]:
        if own["task"] == "first":
            own["auc"] = {"value": None}
            own["bce"] = {"value": None}
            own.pop("minus", None)
    html = page(report)
    Page(html)
    assert html.count('data-value=""') >= 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("  two  gaps ", "␣␣two␣␣gaps␣"),
        ("a\r\nb\tc", "a⏎ b⇥ c"),
        ("\x00\x7f\x85", "���"),
        ("\ud800", "?"),
        ("x" * 300 + "end", "…" + "x" * 237 + "end"),
    ],
)
def test_the_end_of_a_text(text, shown):
    assert end_of(text) == shown


def test_what_was_probed_is_said(report):
    facts = probe_facts(report)
    assert facts["probe tasks"] == "first, second_$x$, third"
    assert facts["probe texts"].startswith("300 train, 90 choose") and "360 test" in facts["probe texts"]
    assert facts["pooling"] == "the last token of a text, at blocks.1.hook_resid_post"
    assert facts["probe context"] == "64 tokens; 6 longer texts lost their beginning"
    assert facts["rows left out"] == "36 doubled, 3 empty"
    assert "k = 1, 16; L1 and L2" in facts["probes"] and "none did not converge" in facts["probes"]
    assert "jax 0.10.2" in page(report) and "probe tasks" in page(report)
    assert probe_facts({"saes": []}) == {}
