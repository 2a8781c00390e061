"""What was run, on what, with which masks, on which machine: the last part of the page."""

from typing import Any

from jsaeval.run.folder import is_run


def facts(report: dict[str, Any]) -> dict[str, str]:
    """Terms and what they are; of a report of probes alone, those that it shares with a run."""
    lm, made = report["lm"], report["provenance"]
    found = {
        "language model": f"{lm['name']}: {lm['n_blocks']} blocks, width {lm['d_model']}, vocabulary {lm['vocab']:,}; "
        f"SHA-256 {lm['sha256'] or 'unknown'}",
    }
    found |= _of_run(report) if is_run(report) else {}
    found |= {
        "arithmetic": f"{made['dtype']}, matrix products in precision {made['precision']!r}",
        "devices": f"{len(made['devices'])} × {made['devices'][0]}, mesh {made['mesh']}",
    }
    if is_run(report):
        found["speed"] = (
            f"{made['tokens_per_s']:.0f} tokens/s after {made['compile_s']:.0f} s of compilation; "
            f"{made['wall_s']:.0f} s in all; peak memory {made['peak_rss_mb'] / 1024:.2f} GiB"
        )
    found["versions"] = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    for i, sae in enumerate(report["saes"], 1):
        source = sae.get("source", {})
        if source.get("path"):
            where = f"{source['format']} format, {source['path']}; SHA-256 {source['sha256']}"
            found["SAE" if len(report["saes"]) == 1 else f"SAE {i}"] = where
    return found


def _of_run(report: dict[str, Any]) -> dict[str, str]:
    corpus, masks = report["corpus"], report["masks"]
    documents = "" if corpus["documents"] is None else f" from {corpus['documents']:,} documents"
    return {
        "text": f"{corpus['name']}: {corpus['rows']} rows of {corpus['positions']} positions, {corpus['tokens']:,} "
        f"tokens{documents}; SHA-256 of the tokens {corpus['sha256']}",
        "metric mask": f"{masks['metric']}: {masks['metric_tokens']:,} tokens enter the means",
        "splice mask": f"{masks['splice']}: at {masks['spliced_tokens']:,} tokens the SAE takes over",
        "calibration": f"{report['calibration']['tokens']:,} tokens",
    }
