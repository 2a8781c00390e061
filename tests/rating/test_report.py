"""`jsaeval rate report`: the section in report.json, on the page and on the terminal; alone, and beside a run."""

import dataclasses
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from jsaeval.cli.main import main
from jsaeval.cli.rate_results import RateExport, RateReport, rate_export, rate_report
from jsaeval.cli.reading import Report, report
from jsaeval.errors import InputError
from jsaeval.metrics.registry import REGISTRY
from jsaeval.rating.study import GROUPS, study_folder
from jsaeval.report.page import page
from jsaeval.report.rating_answers import said_of_kinds
from jsaeval.report.rating_page import rating_section
from jsaeval.report.ratings import show_ratings
from jsaeval.report.summary import interpretability
from jsaeval.run.folder import RATINGS, read_report, sections_of
from tests.rating.made import LM, about_sae, answer, made_study, simulated, write
from tests.report.nested import Nested


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table><h1>&lt;",
    "\u202egnol",
    "a\x00b",
]
HOSTILE += ["{{ 7 * 7 }}", "{% for %}", "[bold red]x[/nothing]", "'" * 50, "x" * 4000, "مرحبا <b>"]
FULL = {"confidence": 3, "activation_consistency": 5, "logit_consistency": 3, "specificity": 3}


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A folder with a study of two SAEs and three raters, and its report."""
    folder = tmp_path_factory.mktemp("rated")
    study, key = made_study(saes=("one", "two"))
    key.saes[1]["source"]["sha256"] = "f01"
    store = write(folder, study, key)
    for i, name in enumerate(("ann", "ben", "eve")):
        store.append(*simulated(study, key, name, 0.1, i))
    with pytest.MonkeyPatch.context() as patch:
        plain(patch)
        assert rate_report(RateReport(str(folder))) == 0
    return folder, study, key


def plain(patch):
    from matplotlib.figure import Figure

    patch.setattr(Figure, "savefig", lambda self, buffer, **_: buffer.write('<svg viewBox="0 0 1 1"></svg>'))


class Page(Nested):
    """Checks that elements nest, and collects tags and text."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html):
        self.tags, self.links, self.text = [], [], []
        super().__init__(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [value for name, value in attrs if name == "href"]
        super().handle_starttag(tag, attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_of_ratings_alone(rated):
    folder, study, key = rated
    made = read_report(folder)
    assert sections_of(made) == [RATINGS] and set(made) == {"schema", "lm", "saes", "provenance", "ratings"}
    section = made["ratings"]
    assert section["study"]["id"] == study.id and section["study"]["rubric"]["version"] == study.rubric.version
    assert section["settings"] == key.settings and section["counts"]["raters"] == 3
    for own, sae in zip(section["saes"], made["saes"], strict=True):
        score, metric = own["groups"]["latent"]["score"], sae["metrics"]["human_score"]
        assert own["sae"] == sae["name"] and set(sae["metrics"]) == {"human_score"}
        assert metric == score | {
            "axis": "interpretability",
            "unit": "points",
            "direction": "higher",
            "raters": 3,
            "maximum": 14,
        }
    assert REGISTRY["human_score"].tier == 5
    frame = pd.read_parquet(folder / "ratings.parquet")
    assert len(frame) == 60 and list(frame["group"].unique()) == list(GROUPS)
    one = frame[(frame["sae"] == "one") & (frame["group"] == "latent")]
    assert one["score"].mean() == pytest.approx(made["saes"][0]["metrics"]["human_score"]["value"])
    assert {"question_confidence", "question_effect_size_gap", "texts", "low", "high"} <= set(frame.columns)
    assert frame["texts"][0][0].endswith(": interpretation: animals")
    tidy = pd.read_csv(folder / "report.csv")
    assert list(tidy["metric"]) == ["human_score"] * 2 and list(tidy["n"]) == [36, 36]


def test_the_page_holds_it_all(rated):
    folder, _, _ = rated
    made = read_report(folder)
    text = " ".join(Page((folder / "report.html").read_text()).text)
    for said in ("Human ratings", "do people find them interpretable?", "Better than a random SAE", "Gwet's AC1"):
        assert said in text, said
    for said in ("Where raters differ most", "Krippendorff's α, nominal", "interval 11", "share above 8", "ann"):
        assert said in text, said
    assert "on latents alone" in text and "differ by" in text and "n = 90" not in text
    section = rating_section(made)
    assert [line["latent"] for line in section["saes"][0]["latents"]] != sorted(range(12))
    scores = [line["score"] for line in section["saes"][0]["latents"]]
    assert scores == sorted(scores, reverse=True) and all(
        line["page"] is None for line in section["saes"][0]["latents"]
    )


def test_it_is_printed(rated):
    folder, _, _ = rated
    printed = io.StringIO()
    show_ratings(read_report(folder), Console(file=printed, width=130))
    text = printed.getvalue()
    assert "3 raters" in text and "random SAE" in text and "better" in text and "Krippendorff's α" in text
    assert "interval 11" in text and "[bold]" not in text


def test_the_interpretability_half(rated):
    folder, _, _ = rated
    made = read_report(folder)
    text = " ".join(interpretability(made["saes"][0] | {"d_sae": 40}, made["ratings"]))
    assert "of 14 points on average" in text and "Controls, mixed in blind: a random SAE" in text
    assert "neurons" in text and "random directions" in text and "Krippendorff's α" in text and "3 raters" in text
    assert "no probe, explanation or human rating" not in text and "WORSE" not in text


def test_ratings_go_on_coming_in(tmp_path, plain_pictures, capsys):
    study, key = made_study()
    store = write(tmp_path, study, key)
    with pytest.raises(InputError, match="nobody has rated anything yet; jsaeval rate serve"):
        rate_report(RateReport(str(tmp_path)))
    assert not (tmp_path / "report.json").exists()
    store.append(*simulated(study, key, "ann", 0.1, 0, most=5))
    assert rate_report(RateReport(str(tmp_path / "rating"))) == 0  # the folder inside will do
    first = read_report(tmp_path)
    store.append(*simulated(study, key, "ben", 0.1, 0))
    assert rate_report(RateReport(str(tmp_path))) == 0
    second = read_report(tmp_path)
    assert first["ratings"]["counts"]["raters"] == 1 and second["ratings"]["counts"]["raters"] == 2
    assert second["saes"][0]["metrics"]["human_score"]["n"] == 36 > first["saes"][0]["metrics"]["human_score"]["n"]
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    page_text = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert report(Report(str(tmp_path))) == 0 and (tmp_path / "report.html").read_text() == page_text
    assert store.events() and (tmp_path / "rating" / "study.json").exists()  # nothing of the study went


def test_nothing_but_skips_is_code_3_and_takes_the_score_back(tmp_path, plain_pictures):
    study, key = made_study()
    store = write(tmp_path, study, key)
    item = next(id for id, own in key.items.items() if own.group == "latent")
    store.append(*(answer(study, "ann", item, 3, id, value) for id, value in FULL.items()))
    assert rate_report(RateReport(str(tmp_path))) == 0
    assert "human_score" in read_report(tmp_path)["saes"][0]["metrics"]
    store.append(answer(study, "ann", item, 0, "", "I see nothing", kind="skip"))
    assert rate_report(RateReport(str(tmp_path))) == 3
    made = read_report(tmp_path)
    assert made["saes"][0]["metrics"] == {} and made["ratings"]["counts"]["skip_reasons"] == {"I see nothing": 1}
    assert "None of its latents was scored" in (tmp_path / "report.html").read_text()


def run_report(saes, **more):
    """What a run and explanations leave, as little of it as is looked at."""
    metrics = {"l0": {"value": 12.5, "ci95": [12.0, 13.0], "n": 100}}
    metrics["l0"] |= {"axis": "interpretability", "unit": "latents", "direction": "neither"}
    provenance = {"plan": {"lm": "tiny"}, "versions": {"jax": "1"}, "devices": ["cpu"], "mesh": {"data": 1}}
    provenance |= {"wall_s": 1.0, "peak_rss_mb": 100.0, "dtype": "float32", "precision": "highest"}
    return {
        "schema": 1,
        "lm": LM,
        "saes": [own | {"metrics": metrics} for own in saes],
        "provenance": provenance,
    } | more


def explained(name, scores):
    lines = [
        {"dictionary": None, "latent": latent, "scores": {"activation_prediction_loss": value}}
        for latent, value in scores.items()
    ]
    return {"sae": name, "latents": [*lines, lines[0] | {"dictionary": "neurons"}]}


def test_a_report_that_is_there_is_completed(rated, tmp_path, monkeypatch):
    """Its own name of the SAE stands; losses and L0 come from it; links go to pages of latents."""
    _, study, key = rated
    store = write(tmp_path, study, key)
    store.append(*simulated(study, key, "ann", 0.2, 1))
    losses = {latent: 0.1 * latent for latent in range(12)}
    before = run_report([about_sae("first", "f00"), about_sae("second", "f01"), about_sae("third", "f02")])
    before |= {"probes": [], "probe_summary": {}, "explanations": {"saes": [explained("first", losses)]}}
    (tmp_path / "report.json").write_text(json.dumps(before))
    monkeypatch.setattr("jsaeval.cli.rate_results.write_rendered", lambda *_: None)
    monkeypatch.setattr("jsaeval.cli.rate_results.page", lambda _: "")
    assert rate_report(RateReport(str(tmp_path))) == 0
    made = read_report(tmp_path)
    assert [own["name"] for own in made["saes"]] == ["first", "second", "third"]
    assert set(made["saes"][0]["metrics"]) == {"l0", "human_score"} and set(made["saes"][2]["metrics"]) == {"l0"}
    assert made["explanations"] == before["explanations"] and made["provenance"] == before["provenance"]
    section = made["ratings"]
    assert [own["sae"] for own in section["saes"]] == ["first", "second"]
    found = section["saes"][0]["correlations"]["activation_prediction_loss"]
    assert found["n"] == 12 and -1 <= found["value"] <= 1 and found["ci95"]
    assert section["l0"]["n"] == 2 and "at least 3" in section["l0"]["reason"]
    shown = rating_section(made)
    assert {line["page"] for line in shown["saes"][0]["latents"]} == {f"latents/{i}.html" for i in range(12)}
    assert {line["page"] for line in shown["saes"][1]["latents"]} == {None}


@pytest.mark.parametrize(
    ("lm", "sha256", "said"), [({"sha256": "bb"}, "f00", "another LM"), (LM, "0ther", "other SAEs")]
)
def test_a_report_of_something_else_is_refused(tmp_path, lm, sha256, said):
    study, key = made_study()
    store = write(tmp_path, study, key)
    store.append(*simulated(study, key, "ann", 0.2, 1, most=2))
    before = run_report([about_sae("one", sha256)]) | {"lm": LM | lm, "corpus": {}, "masks": {}, "controls": {}}
    (tmp_path / "report.json").write_text(json.dumps(before))
    with pytest.raises(InputError, match=said):
        rate_report(RateReport(str(tmp_path)))
    assert json.loads((tmp_path / "report.json").read_text()) == before


def test_hostile_texts_are_shown_and_do_nothing(tmp_path, capsys, plain_pictures):
    study, key = made_study()
    store = write(tmp_path, study, key)
    names = ["<img src=x>", "[bold]x[/bold]", "=cmd|x"]
    latents = [id for id, own in key.items.items() if own.group == "latent"]
    for i, text in enumerate(HOSTILE):
        rater, item = names[i % 3], latents[i]
        store.append(*(answer(study, rater, item, 3, id, value) for id, value in FULL.items()))
        store.append(answer(study, rater, item, 0, ("interpretation", "note")[i % 2], text, kind="text"))
        store.append(answer(study, rater, latents[i + 1], 0, "", text, kind="skip"))
    assert rate_report(RateReport(str(tmp_path))) == 0
    html = (tmp_path / "report.html").read_text()
    found = Page(html)
    assert not {"script", "img", "iframe", "object"} & set(found.tags) and found.tags.count("h1") == 1
    text = "".join(found.text)
    assert "<script>alert(1)</script>" in text and "⟨U+202E⟩" in text and "␀" in text and "{{ 7 * 7 }}" in text
    assert "\u202e" not in html and "\x00" not in html and "x" * 301 not in html and "x" * 300 + "…" in html
    assert "<bdi>مرحبا &lt;b&gt;</bdi>" in html
    assert "x" * 4000 in json.dumps(read_report(tmp_path))  # all of it is in the numbers' file
    assert capsys.readouterr().out


def test_one_rater_is_warned_of_and_so_is_another_rubric(tmp_path, capsys, plain_pictures):
    study, key = made_study()
    store = write(tmp_path, study, key)
    events = [dataclasses.replace(own, rubric="0ldrubric") for own in simulated(study, key, "ann", 0.1, 0)]
    store.append(*events)
    assert rate_report(RateReport(str(tmp_path))) == 0
    printed, html = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    for said in ("another version of the rubric", "one rater alone"):
        assert said in printed and said in html
    assert "How far raters agree is not known: no unit was rated by two raters" in html


def test_shares_skips_and_few_items(tmp_path, capsys, plain_pictures):
    """Ann scores latents, ben and eve controls; ben skips much."""
    study, key = made_study(latents=12)
    store = write(tmp_path, study, key)

    def of(group):
        return [id for id, own in key.items.items() if own.group == group]

    def rate(rater, items, unit=3):
        store.append(*(answer(study, rater, item, unit, id, n) for item in items for id, n in FULL.items()))

    rate("ann", [*of("latent"), of("neurons")[0]])
    rate("ann", of("latent")[:4], unit=7)
    assert rate_report(RateReport(str(tmp_path))) == 0
    assert "unequal shares" not in capsys.readouterr().out  # nobody to differ from
    rate("ben", of("neurons")[:5])
    store.append(*(answer(study, "ben", id, 0, "", "<b>noise", kind="skip") for id in of("neurons")[5:]))
    store.append(*(answer(study, "zoe", id, 0, "", "no time", kind="skip") for id in of("latent")[:1]))
    assert rate_report(RateReport(str(tmp_path))) == 0
    printed, html = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    section = read_report(tmp_path)["ratings"]
    text = "".join(Page(html).text)
    assert section["counts"]["raters"] == 2 and "one rater alone" not in printed  # zoe has no scores
    for said in ("ann: 100.0 % of the latents, 0.0 % of a random SAE", "ben: 0.0 % of the latents, 83.3 % of neurons"):
        assert said in text and said in " ".join(printed.split()), said
    assert "1 of 7 times (14.3 %) a rater skipped an item of the group neurons" in text and "group latents" not in text
    assert "Skipped of neurons: 1 × <b>noise." in text and "Skipped of latents: 1 × no time." in text
    within = section["saes"][0]["minus"]["neurons"]["within_raters"]
    assert within["value"] == 0 and within["raters"] == 1 and "within raters" in text
    assert "Latents − neurons within raters: 0.0000, n = 1" in printed
    assert "each control's threshold is raised until it fires at as many tokens as a latent" in text
    shown = rating_section(read_report(tmp_path))["saes"][0]
    assert [line for line in shown["answers"]["Of which latents?"] if "Interval" in line] == [
        line for line in said_of_kinds(section["saes"][0]) if "Interval 3" in line
    ]
    assert [line["interval"] for line in shown["intervals"]] == ["3", "7"]  # 7 has 4 items: in the table alone
    assert "say which items are controls: keep them from raters while they rate" in printed


def test_raters_with_texts_alone_are_no_second_opinion(tmp_path, capsys, plain_pictures):
    study, key = made_study()
    store = write(tmp_path, study, key)
    store.append(*simulated(study, key, "ann", 0.1, 0))
    store.append(answer(study, "ben", next(iter(study.items)), 0, "note", "hm", kind="text"))
    assert rate_report(RateReport(str(tmp_path))) == 0
    assert "one rater alone" in capsys.readouterr().out
    assert read_report(tmp_path)["ratings"]["counts"]["raters"] == 1


def test_raters_are_left_out(rated, tmp_path, capsys, plain_pictures):
    _, study, key = rated
    store = write(tmp_path, study, key)
    for i, name in enumerate(("ann", "ben", "eve")):
        store.append(*simulated(study, key, name, 0.1, i, most=20))
    command = ["rate", "report", str(tmp_path), "--without", "ann", "--without", "eve"]
    assert main(command) == 0
    section = read_report(tmp_path)["ratings"]
    assert [own["rater"] for own in section["counts"]["by_rater"]] == ["ben"] and section["without"] == ["ann", "eve"]
    assert "left out with --without: ann, eve" in capsys.readouterr().out
    out = tmp_path / "out.parquet"
    assert rate_export(RateExport(str(tmp_path), "parquet", str(out), ("ben",))) == 0
    assert set(pd.read_parquet(out)["rater"]) == {"ann", "eve"}
    with pytest.raises(InputError, match="--without bob: nobody of that name has rated; there are ann, ben, eve"):
        rate_report(RateReport(str(tmp_path), without=("ann", "bob")))
    with pytest.raises(InputError, match="nobody of that name"):
        rate_export(RateExport(str(tmp_path), without=("bob",)))
    with pytest.raises(InputError, match="nobody else"):
        rate_report(RateReport(str(tmp_path), without=("ann", "ben", "eve")))
    with pytest.raises(InputError, match="sqlite leaves nobody out"):
        rate_export(RateExport(str(tmp_path), "sqlite", without=("ann",)))


def test_figures_are_drawn(rated):
    folder, _, _ = rated
    html = page(read_report(folder))
    assert html.count("<svg") == 2 and "random directions" in html and len(html) < 250_000
    Page(html)


def test_no_study(tmp_path):
    with pytest.raises(InputError, match="jsaeval rate prepare"):
        rate_report(RateReport(str(tmp_path)))
    (tmp_path / "rating").mkdir()
    with pytest.raises(InputError, match=r"no rating/study\.json"):
        study_folder(tmp_path / "rating")
    study, key = made_study()
    write(tmp_path, study, key)
    with pytest.raises(InputError, match="at least 0"):
        rate_report(RateReport(str(tmp_path), seed=-1))
    (tmp_path / "rating" / "key.json").unlink()
    with pytest.raises(InputError, match="which items are latents"):
        rate_report(RateReport(str(tmp_path)))


def test_the_folder_by_either_name(tmp_path, monkeypatch):
    study, key = made_study()
    write(tmp_path, study, key)
    for name in (tmp_path, tmp_path / "rating"):
        assert study_folder(Path(name)).resolve() == (tmp_path / "rating").resolve()
    monkeypatch.chdir(tmp_path / "rating")
    assert study_folder(Path(".")).parent == tmp_path.resolve()
