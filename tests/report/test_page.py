"""The page: whole, self-contained, true to the report, and of use to someone who never saw the tool."""

import copy
import dataclasses
import re

import numpy as np
import pytest

import jsaeval
from jsaeval.metrics.registry import REGISTRY
from jsaeval.report.comparison import FLOORS, comparison, verdict
from jsaeval.report.json_report import report as make_report
from jsaeval.report.numbers import interval, number, percent
from jsaeval.report.page import MOST_WITH_FIGURES, page
from jsaeval.report.summary import grounds
from jsaeval.run.engine import Setting
from jsaeval.run.evaluate import Failed, evaluate
from tests.report.nested import Nested
from tests.tiny import tiny_sae


@pytest.fixture(scope="module")
def report(lm, tokens):
    """Two SAEs at one hook with controls, and one that failed."""
    saes = [tiny_sae("relu"), tiny_sae("topk", d_sae=24)]
    setting = Setting(batch=4, control_rows=3)
    results = evaluate(lm, saes, tokens=np.asarray(tokens), mesh=jsaeval.make_mesh(1), setting=setting)
    entries = (results.entries[0], Failed("broken & <lost>", "no weights"), results.entries[1])
    return make_report(dataclasses.replace(results, entries=entries), {"lm": "tiny", "rows": None})


@pytest.fixture
def single(report):
    one = copy.deepcopy(report)
    one["saes"] = one["saes"][:1]
    return one


@pytest.fixture(scope="module")
def html(report):
    """The page of `report`. Its figures take seconds."""
    return page(report)


@pytest.fixture(scope="module")
def html_of_one(report):
    """The page of `single`."""
    return page(report | {"saes": report["saes"][:1]})


class Page(Nested):
    """Checks that elements nest, and collects what the tests look at."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html):
        self.ids, self.references, self.text, self.urls, self.headings = [], [], [], [], []
        super().__init__(html)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name == "href" and value.startswith("#"):
                self.references.append(value[1:])
            elif name in ("href", "src", "srcset", "action", "data", "poster"):
                self.urls.append(value)
        assert tag not in ("script", "iframe", "link", "object", "img")
        super().handle_starttag(tag, attrs)

    def handle_data(self, data):
        if "style" in self.open:
            self.urls += re.findall(r"url\((?!#)|@import", data)
        else:
            self.text.append(data)
            if self.open[-1:] in (["h1"], ["h2"], ["h3"]):
                self.headings.append(data)


def test_the_page_is_whole_and_asks_for_nothing(html):
    parsed = Page(html)
    assert not parsed.urls and "http" not in html.replace("http-equiv", "")
    assert len(parsed.ids) == len(set(parsed.ids))
    used = set(parsed.references) | set(re.findall(r"url\(#([^)]*)\)", html))
    assert used <= set(parsed.ids)
    assert len(html.encode()) < 1.5e6


def test_every_number_is_there_with_its_meaning(single, html_of_one):
    text = re.sub(r"\s+", " ", " ".join(Page(html_of_one).text))
    (sae,) = single["saes"]
    for id, metric in sae["metrics"].items():
        declared = REGISTRY[id]
        assert id in text and declared.source in text
        assert re.sub(r"\s+", " ", declared.formula) in text
        assert number(metric["value"]) in text and interval(metric) in text
    for line in comparison(single, sae):
        assert line.label in text
    for fact in ("tiny", "6 rows of 20 positions", "114 tokens", "no-special", "precision 'highest'", "jaxlib"):
        assert fact in text
    assert single["corpus"]["sha256"] in text


def test_headings_and_figures(html, html_of_one):
    one, many = Page(html_of_one), Page(html)
    assert one.headings[0] == "Is this SAE any good?" and many.headings[0] == "Are these SAEs any good?"
    for heading in ("Is it faithful?", "Is it interpretable?", "By what right?"):
        assert one.headings.count(heading) == 1 and many.headings.count(heading) == 2
    assert html_of_one.count("<figure>") == 4  # controls, curve, positions, densities
    assert html.count("<figure>") == 2 * 4 + 4 + 1  # and four fronts and all curves
    assert html_of_one.count('role="img"') == 4


def test_a_failed_sae_is_shown_and_escaped(html):
    assert "broken &amp; &lt;lost&gt;" in html and "<lost>" not in html and "Failed: no weights" in html


@pytest.mark.usefixtures("plain_pictures")
def test_warnings_stand_over_an_sae_and_are_counted_in_the_table_of_all(report):
    report = copy.deepcopy(report)
    report["saes"][0]["behaviour"]["warnings"] = ["x < y", "is this its LM?"]
    report["saes"][2]["behaviour"]["warnings"] = []
    made = page(report)
    assert made.count('class="warned"') == 1 and '<small class="warned">2 warnings</small>' in made
    section = made[made.index('<section id="sae-1">') : made.index('<section id="sae-2">')]
    assert '<p class="alarm">Warning: x &lt; y</p><p class="alarm">Warning: is this its LM?</p>' in section


def test_the_best_floor_stands_beside_the_value(single, html_of_one):
    sae = single["saes"][0]
    for id, pick in (("explained_variance", max), ("ce_increase", min)):
        best = pick(sae["floors"][name]["metrics"][id]["value"] for name in FLOORS)
        row = re.search(rf"<b>{id}</b>.*?</tr>", html_of_one, re.DOTALL)
        assert row and f'data-label="best floor">{number(best)}' in row[0]


def test_what_was_not_measured_is_left_out(single):
    sae = single["saes"][0]
    sae["metrics"] = {id: metric for id, metric in sae["metrics"].items() if REGISTRY[id].needs == "norms"}
    for key in ("floors", "on_control_rows", "density_histogram"):
        del sae[key]
    sae["by_block"], sae["by_position"], single["controls"] = {}, {}, {}
    html = page(single)
    Page(html)
    assert "<figure>" not in html and "Faithfulness (to the LM)" not in html and "no controls" in html


@pytest.mark.usefixtures("plain_pictures")
@pytest.mark.parametrize("id", ["ce_recovered_zero", "explained_variance", "downstream_loss", "l0"])
def test_an_undefined_value_does_not_break_it(report, id):
    report = copy.deepcopy(report)
    for sae in (report["saes"][0], report["saes"][2]):
        for metrics in (sae["metrics"], sae["floors"]["pca"]["metrics"], sae["on_control_rows"]["metrics"]):
            if id in metrics:
                metrics[id] = {key: v for key, v in metrics[id].items() if key != "ci95"} | {"value": None}
    html = page(report)
    Page(html)
    assert "undefined" in html


def test_many_saes_make_a_small_page(report):
    many = [copy.deepcopy(report["saes"][0]) | {"name": f"sae {i}"} for i in range(MOST_WITH_FIGURES + 1)]
    html = page(report | {"saes": many})
    assert html.count("<figure>") == 5 and "Figures of single SAEs are shown for up to" in html


@pytest.mark.parametrize(
    ("ci95", "expected"), [([-2.0, -1.0], "better"), ([1.0, 2.0], "worse"), ([-1.0, 1.0], "unclear"), (None, "unclear")]
)
def test_verdicts_follow_the_interval(single, ci95, expected):
    """Lower is better for KL, so an SAE below its control is better."""
    sae = single["saes"][0]
    floor = sae["floors"]["pca"]
    floor["difference"]["downstream_loss"] = {"value": 0.0} | ({"ci95": ci95} if ci95 else {})
    assert verdict(sae, floor) == expected
    told = " ".join(grounds(single, sae))
    phrase = {"better": "better than every one", "worse": "WORSE", "unclear": "cannot be told from"}[expected]
    assert re.search(rf"{phrase}[^.]*PCA", told)


@pytest.mark.usefixtures("plain_pictures")
def test_a_broken_splice_is_said_first(single):
    single["controls"]["identity"]["holds"] = False
    assert next(grounds(single, single["saes"][0])).startswith("FAILED")
    assert 'class="alarm"' in page(single)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.99999, "1.000"),
        (1234.5, "1,234"),
        (0.0, "0.0000"),
        (12.3456, "12.35"),
        (-0.00012345, "-0.000123"),
        (3.2e-7, "3.200e-07"),
        (123456.0, "1.235e+05"),
        (None, "undefined"),
        (float("nan"), "undefined"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_percent_and_interval():
    assert percent(0.9765) == "97.7 %" and percent(None) == "an undefined share"
    assert interval({"ci95": [1.0, 2.5]}) == "[1.000, 2.500]" and interval({"value": 1}) == ""
