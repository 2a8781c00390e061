"""What a report says of an SAE, in sentences: is it any good, and by what right is that said?

Every sentence is made of numbers in the report; one whose numbers were not measured is left out.
"""

from collections.abc import Iterator
from typing import Any

from jsaeval.report.comparison import FLOORS, comparison, controls_by_hook, short
from jsaeval.report.numbers import interval, number, percent
from jsaeval.report.rating_answers import said_in_short


# Fewer rows than this, and the bootstrap over rows has little to draw from.
FEW_ROWS = 30


def faithfulness(sae: dict[str, Any]) -> Iterator[str]:
    """Do the latents reflect the LM's own structure?"""
    metrics = sae["metrics"]
    if "explained_variance" in metrics:
        value = percent(metrics["explained_variance"]["value"])
        yield f"The reconstruction explains {value} of the activation's variance."
    if "ce_increase" in metrics:
        increase, recovered = metrics["ce_increase"], metrics["ce_recovered_zero"]
        yield (
            f"With it in place of the activation, the LM's loss rises by {_measured(increase)} nats a token: "
            f"{percent(recovered['value'])} of the loss that zero ablation causes is avoided."
        )
        yield (
            f"The next-token distributions move by {_measured(metrics['downstream_loss'])} nats (KL), and the most "
            f"likely token stays the same at {percent(metrics['top1_agreement']['value'])} of the positions."
        )


def interpretability(sae: dict[str, Any], ratings: dict[str, Any] | None = None) -> Iterator[str]:
    """Do they reflect human understanding? `ratings`: that section of the report."""
    metrics, latents = sae["metrics"], sae["d_sae"]
    if "l0" in metrics:
        yield f"{number(metrics['l0']['value'])} of {latents:,} latents are active on an average token (L0)."
    if "alive" in metrics:
        yield (
            f"On {metrics['alive']['n']:,} tokens {percent(metrics['alive']['value'])} of the latents fired at least "
            f"once, and {percent(metrics['dense']['value'])} fired on more than a tenth of the tokens."
        )
    if "probe_loss" in metrics:
        yield (
            f"The best single latent reads the labels of {metrics['probe_loss']['n']} tasks off a text with a loss of "
            f"{_measured(metrics['probe_loss'])} nats; what stands beside it is under Probes."
        )
    if "activation_prediction_loss" in metrics:
        loss = metrics["activation_prediction_loss"]
        yield (
            f"Predictions from explanations of {loss['n']} latents miss {percent(loss['value'])} of the variance of "
            f"their activations ({_measured(loss)}); what stands beside it is under Explanations."
        )
    if ratings is not None:
        yield from said_in_short(ratings, sae["name"])
    if not {"probe_loss", "activation_prediction_loss", "human_score"} & metrics.keys():
        yield (
            "Sparsity is all that was measured on this side: no probe, explanation or human rating says here whether a "
            "latent means something to people."
        )


def grounds(report: dict[str, Any], sae: dict[str, Any]) -> Iterator[str]:
    """By what right? The splice, the floors, the error bars."""
    identity = controls_by_hook(report).get(sae["hook"], {}).get("identity")
    if identity:
        values = identity["metrics"]
        found = [values[id]["value"] for id in ("ce_increase", "downstream_loss") if id in values]
        size = max((abs(value) for value in found if value is not None), default=None)
        if identity["holds"] and size is None:
            yield "Nothing was measured that would show a mistake in the splice."
        elif identity["holds"]:
            yield f"Splicing the activation itself in changes nothing ({number(size)} nats), so the splice is sound."
        else:
            yield (
                f"FAILED: splicing the activation itself back in changes the LM by {number(size)} nats, so no number "
                "here can be trusted."
            )
    verdicts = {line.name: line.verdict for line in comparison(report, sae) if line.name in FLOORS}
    if verdicts:
        rows = report["controls"]["rows"]
        for verdict, text in (
            ("better", "it is better than every one of these floors:"),
            ("worse", "it is WORSE than these floors:"),
            ("unclear", "it cannot be told from these floors:"),
        ):
            names = [short(name) for name in FLOORS if verdicts.get(name) == verdict]
            if names:
                yield f"On the same {rows} rows {text} {', '.join(names)}."
    if "kl_vs_random_error" in sae["metrics"]:
        yield (
            f"Its error does {_measured(sae['metrics']['kl_vs_random_error'])} times the harm of a random error of the "
            "same size (1: as harmless as noise)."
        )
    rows, n = report["corpus"]["rows"], report["masks"]["metric_tokens"]
    resampled = {"probe_loss": "texts for probes", "activation_prediction_loss": "latents for explanations"}
    resampled["human_score"] = "items for ratings"
    there = [what for id, what in resampled.items() if id in sae["metrics"]]
    others = f" (over {' and '.join(there)})" if there else ""
    few = " That is little text: read the intervals, not the digits." if rows < FEW_ROWS else ""
    yield f"Measured on {n:,} tokens in {rows} rows; intervals are 95 %, from a bootstrap over rows{others}.{few}"
    if not verdicts:
        yield "The run had no controls, so nothing says how a dictionary without training would do."


def _measured(metric: dict[str, Any]) -> str:
    return f"{number(metric['value'])} {interval(metric)}".strip()


def warnings_of(sae: dict[str, Any]) -> list[str]:
    """What is odd about how an SAE behaves; nothing, in reports of earlier versions."""
    return sae.get("behaviour", {}).get("warnings", [])
