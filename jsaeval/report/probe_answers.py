"""What the page says of the probes of an SAE, in sentences.

Every sentence is made of numbers in the report; one whose numbers were not measured is left out. "Better" and "worse"
are said only where the interval of the paired difference excludes 0.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jsaeval.report.numbers import ends, nats
from jsaeval.report.probes import shown_lines, verdict


_TYPICAL_K = 16
_MANY = 3  # groups of tasks of which the list is still short
_PHRASES = {"better": "clearly better", "worse": "clearly worse", "unclear": "neither clearly better nor clearly worse"}


def pick(lines: Sequence[dict[str, Any]], name: str, features: str, kind: str) -> dict[str, Any] | None:
    """The line of the single or the dense probe on a set of features of an SAE, or of the LM or the text alone."""
    for own in lines:
        if own["sae"] in (name, None) and (own["features"], own["probe"]) == (features, kind):
            return own
    return None


def single(report: dict[str, Any], name: str) -> Iterator[str]:
    """Is the best latent better than the best channel of x, than that of a random SAE, than chance?"""
    lines = report["probe_summary"]["overall"]
    own = pick(lines, name, "latents", "single")
    if own:
        over = "1 task" if own["tasks"] == 1 else f"the mean over {own['tasks']} tasks"
        yield f"The best single latent reaches a BCE of {_measured(own)} nats (probe_loss, {over})."
        if x := pick(lines, name, "x", "single"):
            yield f"The best single channel of x reaches {_measured(x)}: {_judged(own, 'x', 'the latent')}."
        if random := pick(lines, name, "random_sae", "single"):
            said = _judged(own, "random_sae", "this SAE's").replace("worse", "WORSE")
            yield f"The best latent of a random SAE with the same L0 reaches {_measured(random)}: {said}."
    sparse = [line for line in shown_lines(lines, name) if (line["features"], line["probe"]) == ("latents", "k_sparse")]
    if sparse:
        few = min(sparse, key=lambda line: abs(line["k"] - _TYPICAL_K))
        than = f"; beside {few['k']} channels of x: {_judged(few, 'x', 'it')}" if "x" in few["minus"] else ""
        yield f"A probe on {few['k']} latents reaches {_measured(few)}{than}."
    floors = []
    if own and (shuffled := pick(lines, name, "shuffled_labels", "single")):
        floors.append(f"the best latent for labels in random order reaches {_measured(shuffled)}")
    if nothing := pick(lines, name, "none", "dense"):
        floors.append(f"saying the share of yes of every text {_measured(nothing)}")
    if floors:
        yield f"The floor: {', '.join(floors)}."


def dense(report: dict[str, Any], name: str) -> Iterator[str]:
    """Do probes on all latents lose to probes on x?"""
    lines = report["probe_summary"]["overall"]
    own, x = pick(lines, name, "latents", "dense"), pick(lines, name, "x", "dense")
    if own and x:
        yield f"Probes on all latents reach a BCE of {_measured(own)} nats, those on all of x {_measured(x)}."
        minus = own["minus"]["x"]["bce"]
        if verdict(minus) == "unclear":
            yield f"Between them: {_judged(own, 'x')}."
        else:
            said = "lose {} nats to" if verdict(minus) == "worse" else "gain {} nats over"
            yield f"SAE probes {said.format(_size(minus))} the residual stream."
    if own and (random := pick(lines, name, "random_sae", "dense")):
        said = _judged(own, "random_sae", "this SAE").replace("worse", "WORSE")
        yield f"All latents of a random SAE with the same L0 reach {_measured(random)}: {said}."
    for features, what in (("reconstruction", "The reconstruction"), ("error", "The error, which the SAE leaves out,")):
        if found := pick(lines, name, features, "dense"):
            yield f"{what} reaches {_measured(found)}; beside x: {_judged(found, 'x', 'it')}."


def kinds(report: dict[str, Any], name: str) -> Iterator[str]:
    """On which groups of tasks is it clearly better or worse?"""
    groups = report["probe_summary"]["groups"]
    for kind, other, what, than in (
        ("dense", "x", "All latents are", "all of x"),
        ("single", "random_sae", "The best single latent is", "a random SAE's"),
    ):
        found: dict[str, dict[str, float]] = {"better": {}, "worse": {}, "unclear": {}}
        for group, lines in groups.items():
            own = pick(lines, name, "latents", kind)
            if own and other in own["minus"]:
                minus = own["minus"][other]["bce"]
                found[verdict(minus)][group] = abs(minus["value"] or 0.0)
        for said, phrase in _PHRASES.items():
            if found[said]:
                where = ", ".join(found[said]) if said == "unclear" else _where(found[said], len(groups))
                yield f"{what} {phrase} than {than} on: {where}."
    own = [p for p in report["probes"] if (p["sae"], p["features"], p["probe"]) == (name, "latents", "dense")]
    known = [verdict(probe["minus"]["x"]["bce"]) for probe in own if "x" in probe.get("minus", {})]
    if known:
        better, worse, unclear = (known.count(said) for said in _PHRASES)
        yield f"Of {len(known)} tasks, all latents beat all of x on {better}, lose on {worse}; unclear are {unclear}."


def _where(sizes: dict[str, float], groups: int) -> str:
    """Groups with the sizes of their differences, the largest first."""
    named = [f"{group} (by {nats(size)})" for group, size in sorted(sizes.items(), key=lambda own: -own[1])]
    return f"all {groups} groups, most on {named[0]}" if len(named) == groups > _MANY else ", ".join(named)


def grounds(report: dict[str, Any], name: str) -> Iterator[str]:
    """By what right? Whether the LM is needed, the size of the test, fits that failed."""
    summary = report["probe_summary"]
    words = pick(summary["overall"], name, "bag_of_words", "dense")
    if words and "x" in words["minus"]:
        minus = words["minus"]["x"]["bce"]
        said = f"beside x: {_judged(words, 'x')}, so whether these tasks need the LM is not clear"
        if verdict(minus) == "better":
            said = f"x is WORSE by {_size(minus)}: the tasks then say little about the LM"
        elif verdict(minus) == "worse":
            said = f"x is better by {_size(minus)}, so the LM adds something"
        yield f"Which tokens occur, without the LM (bag of words), gives {_measured(words)}; {said}."
    tests = sum(task["test"] for task in summary["tasks"])
    yield (
        f"Measured on {tests:,} test texts that no probe has seen; intervals are 95 %, from a bootstrap over the test "
        "texts of each task. They do not say how other tasks would go, nor how other training texts."
    )
    if len(summary["groups"]) > _MANY:
        yield "One in twenty intervals misses the truth by chance: of many groups and tasks some will seem clear."
    own = [probe for probe in report["probes"] if probe["sae"] in (name, None)]
    if failed := sum(not probe["converged"] for probe in own):
        yield f"{failed} of {len(own)} probes did not converge."


def _measured(line: dict[str, Any]) -> str:
    return f"{nats(line['bce']['value'])} {ends(line['bce'])}".strip()


def _judged(line: dict[str, Any], other: str, what: str = "") -> str:
    """`it is better by 0.03 [0.02, 0.04]` than another probe, or that no difference shows."""
    minus = line["minus"][other]["bce"]
    said = verdict(minus)
    if said == "unclear":
        return f"no difference that the test examples show ({nats(minus['value'], '+')} {ends(minus)})"
    return f"{what} is {said} by {_size(minus)}"


def _size(minus: dict[str, Any]) -> str:
    """A clear difference without its sign."""
    return f"{nats(abs(minus['value']))} {ends({'ci95': sorted(map(abs, minus['ci95']))})}"
