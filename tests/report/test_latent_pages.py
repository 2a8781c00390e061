"""Pages of latents: whole, true to the records, silent, and safe whatever stands in a vocabulary."""

import base64
import hashlib
import random
import re
import unicodedata

import numpy as np
import pytest

from jsaeval.corpus.visible import clean, right_to_left, visible, visible_alone
from jsaeval.errors import InputError
from jsaeval.report.bars import bars
from jsaeval.report.latent_index import index_of
from jsaeval.report.latent_page import densities_of, page_of
from jsaeval.report.latent_pages import _template, write_pages
from jsaeval.report.latent_scores import beats_floors, best_floor, direction, score_table
from tests.report.latents import ABOUT, evidence, make
from tests.report.nested import Nested


class Page(Nested):
    """Checks that elements nest; collects ids, links, attributes by element, and the text of elements by class."""

    VOID = ("meta", "br", "input", "wbr")

    def __init__(self, html):
        self.ids, self.links, self.tags, self.attributes, self.styles, self.scripts = [], [], set(), set(), [], []
        self.lines, self.tokens, self.text, self.policy, self.classes = [], [], [], "", []
        super().__init__(html)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [known["id"]] if "id" in known else []
        self.links += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data", "poster")]
        self.policy = known["content"] if "http-equiv" in known else self.policy
        classes = known.get("class", "").split()
        if "line" in classes:
            self.lines.append([])
        if tag == "i":
            self.lines[-1].append(["", known.get("data-v"), known.get("class", "").split()])
        if "token" in classes:
            self.tokens.append("")
        super().handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.classes.append(classes)

    def handle_endtag(self, tag):
        super().handle_endtag(tag)
        self.classes.pop()

    def handle_data(self, data):
        where = self.open[-1] if self.open else ""
        (self.styles if where == "style" else self.scripts if where == "script" else self.text).append(data)
        if where == "i":
            self.lines[-1][-1][0] += data
        if self.classes and "token" in self.classes[-1]:
            self.tokens[-1] += data


def written(folder, records):
    index = write_pages(folder, records, ABOUT)
    assert index == folder / "index.html"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    records = [make(latent) for latent in range(12)]
    records += [make(latent, floor="random_sae") for latent in (3, 4)] + [make(3, floor="neurons")]
    return written(tmp_path_factory.mktemp("run"), records)


def test_there_is_a_page_for_each(pages):
    floors = {"random_sae/index.html", "random_sae/3.html", "random_sae/4.html", "neurons/index.html", "neurons/3.html"}
    assert set(pages) == {"index.html", *(f"{i}.html" for i in range(12))} | floors
    assert "<h1>Random SAE, latent 3 " in pages["random_sae/3.html"] and "<h1>Neuron 3 " in pages["neurons/3.html"]
    assert "A floor, not the SAE." in pages["random_sae/index.html"] and "A floor" not in pages["3.html"]


def test_they_ask_for_nothing(pages):
    for name, html in pages.items():
        page = Page(html)
        assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:|data:", html)
        assert page.tags.isdisjoint({"iframe", "link", "object", "img", "form", "base", "embed"})
        assert not {own for own in page.attributes if own.startswith("on") or own == "style"}
        assert len(page.ids) == len(set(page.ids)) and len(page.scripts) == len(page.styles) == 1
        folder = name.rpartition("/")[0]
        for link in page.links:
            path = "/".join(part for part in (folder, link) if part)
            path = re.sub(r"[^/]+/\.\./", "", path)
            assert path in pages, link


def test_the_policy_allows_only_what_is_there(pages):
    for html in pages.values():
        page = Page(html)
        hashes = [
            "sha256-" + base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
            for own in (page.styles, page.scripts)
        ]
        allowed = f"style-src '{hashes[0]}'; script-src '{hashes[1]}'"
        assert page.policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def test_a_page_shows_its_record(pages):
    record, page = make(5), Page(pages["5.html"])
    text = re.sub(r"\s+", " ", "".join(page.text))
    for said in ("Latent 5", "an-SAE at blocks.1.hook_resid_post", "fires on words", "explained by n2g", "by rule"):
        assert said in text
    for figure in ("4 %", "40 of 1,000 tokens", "4.000", "1.500"):
        assert figure in text
    for title in ("Where it is largest", "Over its whole range", "Where it fires", "In any text"):
        assert title in text
    every = [own for split in record["examples"].values() for own in split]
    simulated = [own for own in every if own["simulated"] is not None]
    assert len(page.lines) == len(every) + len(simulated)
    shown = sorted("".join(token for token, *_ in line) for line in page.lines)
    assert shown == sorted("".join(own["text"]) for own in every + simulated)
    for own in record["logits"]["top"] + record["logits"]["bottom"]:
        assert visible_alone(own["text"]) in page.tokens and f"{own['value']:.4g}"[:5] in text
    assert {"3.html", "8.html"} <= set(page.links) and "900.html" not in page.links and "900" in text
    assert "0.400 (floor 0.600)" in text and "—" in text
    (table,) = re.findall(r"<thead>.*?</table>", pages["5.html"][pages["5.html"].index('id="scores"') :], re.DOTALL)[:1]
    rows = [re.findall(r"<td[^>]*>([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)[1:]]
    # All examples, the floors on them, then examples by kind.
    assert rows[0] == ["0.400", "1.000", "0.990", "1.000", "0.600", "0.300", "0.900"]
    assert [rows[1][i] for i in (0, 5, 6)] == ["0.750", "0.800", "—"]
    assert [rows[2][i] for i in (0, 5, 6)] == ["—", "0.100", "—"]
    assert re.findall(r'class="number best">([^<]*)', table) == ["0.400"]


def test_a_page_says_what_scores_do_not(tmp_path):
    pages = written(tmp_path, [make(1, mass=0.125, uncovered=0.5), make(2, uncovered=0.0)])
    assert "Mass on levels: 0.12;" in pages["1.html"] and "stands for 50 % of the windows" in pages["1.html"]
    assert "Mass on" not in pages["2.html"] and "stands for" not in pages["2.html"]
    old = make(1)
    del old["mass_on_levels"], old["uncovered"]
    assert "Mass on" not in written(tmp_path / "old", [old])["1.html"]


def test_shades_follow_the_activations(pages):
    top = Page(pages["5.html"]).lines[0]
    (strongest,) = [classes for _, value, classes in top if value == "4.000"]
    assert strongest == ["a10", "f"]
    for _, value, classes in top:
        shades = [int(own[1:]) for own in classes if own != "f"]
        assert shades == ([-int(-float(value) // 0.4)] if value else [])


def simulated_lines(record, folder):
    """The real line and the simulated one of each example that has both."""
    page, found, lines = written(folder, [record]), [], []
    for one in re.findall(r"<li tabindex.*?</li>", page[f"{record['latent']}.html"], re.DOTALL):
        lines = Page(one).lines
        found += [lines] if len(lines) == 2 else []
    return found


def test_where_a_simulation_says_nothing_it_is_not_shaded(tmp_path):
    """Calibration gives a value above 0 to all tokens at which an explanation says 0."""
    real = [own.activations for own in evidence(7, seed=7).examples["score"]]
    record = make(7, simulated=[np.where(own > 2, own, 0.4) for own in real])
    said = [token for _, line in simulated_lines(record, tmp_path / "a") for token in line]
    values = {value: {int(own[1:]) for own in classes} for _, value, classes in said}
    assert values.pop("0.4000") == set() and values.pop("4.000") == {10}
    assert len(values) > 5 and all(own == {round((float(value) - 0.4) / 0.36)} for value, own in values.items())
    same = simulated_lines(make(7, simulated=[np.full(8, 0.4)] * 12), tmp_path / "b")
    assert same and not any(classes for _, line in same for _, _, classes in line)
    # So little that a simulator with levels says it of tokens that it says nothing of.
    near = simulated_lines(
        make(7, simulated=[np.where(own > 2, own, 0.4 + 0.04 * own) for own in real]), tmp_path / "d"
    )
    assert all(bool(classes) == (float(value) > 2) for _, line in near for _, value, classes in line)
    # Below 0 is not above an activation of 0.
    below = simulated_lines(make(7, simulated=[np.where(own > 2, own, -0.4) for own in real]), tmp_path / "c")
    assert {tuple(classes) for _, line in below for _, value, classes in line if value == "-0.4000"} == {()}


def test_both_lines_have_the_same_text(tmp_path):
    real = [own.activations for own in evidence(7, seed=7).examples["score"]]
    for i, simulated in enumerate(([own * 0 + 0.4 for own in real], [own[::-1] + 0.1 for own in real])):
        lines = simulated_lines(make(7, token_text=lambda id: " ", simulated=simulated), tmp_path / str(i))
        shown = [[[token for token, *_ in line] for line in pair] for pair in lines]
        assert shown and all(one == other for one, other in shown)
        # A space that is shaded in one of them can be seen, one that does nothing is a space.
        shaded = [["␣" if a[2] or b[2] else " " for a, b in zip(*pair, strict=True)] for pair in lines]
        assert [one for one, _ in shown] == shaded and {"␣", " "} == set("".join("".join(own) for own in shaded))


def test_steps_between_pages(pages):
    assert Page(pages["0.html"]).links.count("1.html") >= 2 and 'rel="prev"' not in pages["0.html"]
    assert '<a href="4.html" rel="prev">← Latent 4</a>' in pages["5.html"]
    assert '<a href="6.html" rel="next">Latent 6 →</a>' in pages["5.html"]
    assert 'rel="next"' not in pages["11.html"]
    assert '<a href="../neurons/index.html">neurons</a>' in pages["random_sae/index.html"]


def test_the_index_has_every_number(pages):
    page, html = Page(pages["index.html"]), pages["index.html"]
    text = " ".join(page.text)
    assert "12 latents, 12 with an explanation" in text and html.count("<svg") == 2
    for column in ("density, %", "activation_prediction_loss", "its best floor", "pearson"):
        assert html.count(f'data-label="{column}"') == 12
    assert html.count('data-value="0.4"') == 12 and html.count('data-value="0.6"') == 12
    assert html.count('data-value="4">4</td>') == 12
    assert "jsaeval explain" in text and "tiny-LM" in text and "12 rows of 64 positions" in text
    assert len([own for own in page.tokens if own.startswith("␣w")]) == len(page.tokens) > 12


def test_the_index_says_what_first_in_a_text_means(pages, tmp_path):
    words = "“First in a text” means first behind BOS in a row of 64 positions"
    assert pages["index.html"].count(words) == pages["neurons/index.html"].count(words) == 1
    asked = [make(1) | {"explanation": {"text": "verbs", "explainer": "llm", "error": None}}]
    assert "First in a text" not in written(tmp_path, asked)["index.html"]


def test_what_failed_is_said(tmp_path):
    dead = make(1, simulated=None, scores=None, floors=None, logits=None, neighbours=None, problem="dead", text="")
    dead["examples"] = {split: [] for split in dead["examples"]}
    dead["histogram"] = {"edges": [0.0] * 6, "counts": [0] * 5}
    refused = make(2) | {"explanation": {"text": "", "explainer": "llm", "error": "refused <b>"}}
    pages = written(tmp_path, [dead | {"density": 0.0, "fires": 0, "largest": 0.0, "mean_active": 0.0}, refused])
    for html in pages.values():
        Page(html)
    assert '<p class="alarm">dead</p>' in pages["1.html"] and "<svg" not in pages["1.html"]
    assert "No explanation: refused &lt;b&gt;" in pages["2.html"]
    assert "0 with an explanation, 2 with a problem" in pages["index.html"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="no latents to write pages of"):
        write_pages(tmp_path, [], ABOUT)
    with pytest.raises(InputError, match="two records of the same latent"):
        write_pages(tmp_path, [make(1), make(1)], ABOUT)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_pages(tmp_path / "file", [make(1)], ABOUT)


def hostile_tokens():
    """Pieces that a vocabulary may hold, and hundreds of random combinations of them."""
    pieces = [
        "<script>alert(1)</script>",
        "</script>",
        "<img src=x onerror=alert(1)>",
        "</i></p>",
        "<!--",
        "-->",
        "<style>",
    ]
    pieces += [
        "</style>",
        '" onload="x',
        "' x='",
        "&lt;",
        "&amp;",
        "&#x3c;",
        "&",
        "<",
        ">",
        '"',
        "'",
        "]]>",
        "{{ 7*7 }}",
    ]
    pieces += [
        "{% raw %}",
        "javascript:alert(1)",
        "\\",
        "`",
        "${x}",
        "\x00",
        "\x07",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\r\n",
    ]
    pieces += [
        "\u202e",
        "\u202d",
        "\u2066",
        "\u2069",
        "\u200f",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u2028",
        "\u2029",
        "\xad",
    ]
    pieces += [
        "\ud800",
        "\udfff",
        "\ufffd",
        "\u3164",
        "\u2800",
        "\xa0",
        "\u3000",
        "\U000e0041",
        "\ue000",
        "שלום",
        "م",
        "a",
    ]
    pieces += ["", " ", "  ", "\t", "\n", "e\u0301\u0302\u0303", "👩\u200d💻", "日本", " the", "http:", "<a href=//x>"]
    rng = random.Random(0)
    return pieces + ["".join(rng.choices(pieces, k=rng.randint(2, 5))) for _ in range(400)]


def test_hostile_text_stays_text(tmp_path):
    """Everywhere that text can come from: tokens, explanations, names, errors, facts."""
    tokens = hostile_tokens()
    assert len(tokens) > 400
    rng = random.Random(1)

    def nasty():
        return "".join(rng.choices(tokens, k=3))

    harmless = [Page(html) for html in written(tmp_path / "a", [make(i) for i in range(12)]).values()]
    known_tags = set.union(*(page.tags for page in harmless))
    known_attributes = set.union(*(page.attributes for page in harmless)) | {"dir"}
    policies = {page.policy for page in harmless}
    records, said = [], []
    for latent in range(16):
        own = make(latent, token_text=(tokens * 2)[latent * 30 :].__getitem__, text=nasty())
        own["explanation"] |= {"explainer": nasty(), "error": nasty()}
        records.append(own | {"sae": nasty(), "hook": nasty(), "simulator": nasty(), "problem": nasty()})
    for html in written(tmp_path / "b", records).values():
        page = Page(html)
        said += [*page.tokens, *(token for line in page.lines for token, *_ in line)]
        assert page.tags <= known_tags and page.attributes <= known_attributes
        assert len(page.scripts) == len(page.styles) == 1 and page.policy in policies
        assert all(re.fullmatch(r"(\d+|index)\.html", link) for link in page.links)
        for own in "".join(page.text):
            assert own in "\n" or unicodedata.category(own) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    assert {visible(own) for own in tokens if own} & set(said)
    assert "<script>alert(1)</script>" in said and "⟨U+202E⟩" in said and "&amp;" in said


@pytest.mark.parametrize(
    ("token", "inside", "alone"),
    [
        (" the", " the", "␣the"),
        ("  the", "␣␣the", "␣␣the"),
        ("the ", "the␣", "the␣"),
        (" ", "␣", "␣"),
        ("\n\n", "⏎⏎", "⏎⏎"),
        (" \t", " ⇥", "␣⇥"),
        ("\r", "␍", "␍"),
        ("\x00a", "␀a", "␀a"),
        ("\ufffd", "�", "�"),
        ("\ud83d", "�", "�"),
        ("a\u202eb", "a⟨U+202E⟩b", "a⟨U+202E⟩b"),
        ("\u3164", "⟨U+3164⟩", "⟨U+3164⟩"),
        ("é日", "é日", "é日"),
        ("", "", "∅"),
    ],
)
def test_visible(token, inside, alone):
    assert visible(token) == inside and visible_alone(token) == alone


def test_text_of_lines():
    assert clean("a  b\nc\x1b\u202e") == "a  b\nc⟨U+001B⟩⟨U+202E⟩"
    assert right_to_left(["שלום", " עולם", "x"]) and not right_to_left(["abc", "ש"]) and not right_to_left(["12"])


def test_bars():
    svg = bars({"edges": [0.0, 1.0, 2.0, 3.0], "counts": [0, 4, 2]}, 'a "b" <c>', mark=1.5)
    path = re.search(r'class="bar" d="([^"]*)"', svg)
    assert path and path[1].count("M") == 2 and svg.count('class="mark"') == 1
    tall, half = re.findall(r"v(-[\d.]+)", path[1])
    assert float(tall) == 2 * float(half)
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in svg and bars({"edges": [0, 1], "counts": [0]}, "") == ""


def test_the_best_floor():
    record = make(1)
    assert direction("activation_prediction_loss") == "lower" and direction("pearson") == "higher"
    assert best_floor(record, "activation_prediction_loss") == 0.6 and beats_floors(
        record, "activation_prediction_loss"
    )
    assert not beats_floors(record, "pearson") and best_floor(record, "unknown") is None


def test_scores_that_choose_their_examples():
    record = make(1)
    record["scores"]["own"] = {"detection_auc": 0.9}
    record["floors"]["empty"]["detection_auc"] = 0.5
    table = score_table(record)
    assert table["groups"] == ["all", "own", "top", "random"]
    assert table["against"] == ["empty", "another's", "constant", "token"]
    row = table["rows"][-1]
    assert row["cells"] == ["", "0.900", "", ""] and row["floors"] == ["0.500", "", "", ""] and row["best"] == 1


def test_weight():
    """2,000 latents have an index of some 2 MB, and a page of one is as long as its examples make it."""
    own = make(7)
    records = [own | {"latent": i} for i in range(200)]
    html = _template("latent_index")(index_of(records, ABOUT, {}, densities_of(records)))
    assert html.count("<tr") == 201 and len(html.encode()) < 15_000 + 1_300 * 200
    one = _template("latent_page")(page_of(records[0], None, None, set(), None, ABOUT))
    assert len(one.encode()) < 60_000
