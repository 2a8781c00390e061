"""The `sparse_probing` evaluation of SAEBench 0.6 from what `jsaeval probe` has measured.

The tasks are ours, under their own names, and a task stands where SAEBench has a data set. Accuracies are on held-out
texts: `llm` on x, `sae` on latents; `top_k` is the k-sparse probe on the features whose means differ most. How our
probes differ from SAEBench's is in `eval_result_unstructured`.
"""

from typing import Any

from jsaeval.errors import InputError
from jsaeval.report.saebench_core import MISSING, Part, number


# The k for which SAEBench has a key; of these its default.
KS = (1, 2, 5, 10, 20, 50, 100)
DEFAULT_KS = (1, 2, 5)
_SIDES = {"x": "llm", "latents": "sae"}


def probing(report: dict[str, Any], name: str) -> Part:
    """The sparse probing evaluation of an SAE.

    Args:
        report: one with probes.
        name: of an SAE that was probed.

    Raises:
        InputError: there are no k-sparse probes.
    """
    summary, own = report["probe_summary"], [line for line in report["probes"] if line["sae"] in (name, None)]
    penalties = {line["penalty"] for line in own if line["probe"] == "k_sparse"}
    if not penalties:
        raise InputError("no k-sparse probes, which sparse_probing is about; jsaeval probe --probes k_sparse,dense")
    penalty = "l2" if "l2" in penalties else "l1"
    tasks: dict[str, dict[str, Any]] = {task["name"]: {} for task in summary["tasks"]}
    for line in own:
        if key := _key(line, penalty):
            tasks[line["task"]][key] = line["accuracy"]
    means = {
        key: line["accuracy"]
        for line in summary["overall"]
        if line["sae"] in (name, None) and (key := _key(line, penalty))
    }
    return Part(
        config=_config(report),
        metrics={side: _values(means, side) for side in _SIDES.values()},
        details=[
            {"dataset_name": task}
            | {key: value for side in _SIDES.values() for key, value in _values(found, side).items()}
            for task, found in tasks.items()
        ],
        unstructured={"differences": _differences(report, penalty), "accuracy": means, "accuracy_by_task": tasks},
    )


def missing_ks(report: dict[str, Any]) -> list[int]:
    """The k of SAEBench's default that were not probed."""
    return [k for k in DEFAULT_KS if k not in _ks(report)]


def _ks(report: dict[str, Any]) -> list[int]:
    return sorted({line["k"] for line in report["probes"] if line["probe"] == "k_sparse"})


def _key(line: dict[str, Any], penalty: str) -> str | None:
    """SAEBench's name of a probe, made up like the others where it has no such k; None: it has no such probe."""
    side = _SIDES.get(line["features"])
    if side is None or line["probe"] not in ("k_sparse", "dense"):
        return None
    if line["probe"] == "dense":
        return f"{side}_test_accuracy"
    return f"{side}_top_{line['k']}_test_accuracy" if line["penalty"] == penalty else None


def _values(found: dict[str, Any], side: str) -> dict[str, float]:
    """What SAEBench has keys for. It cannot do without that of all of x."""
    keys = [f"{side}_test_accuracy", *(f"{side}_top_{k}_test_accuracy" for k in KS)]
    required = {"llm_test_accuracy": MISSING} if side == "llm" else {}
    return required | {key: number(found[key]["value"]) for key in keys if key in found}


def _config(report: dict[str, Any]) -> dict[str, Any]:
    summary, settings = report["probe_summary"], report["probe_summary"]["settings"]
    tasks = summary["tasks"]
    return {
        "random_seed": settings["seed"],
        "dataset_names": [task["name"] for task in tasks],
        "probe_train_set_size": max(task["train"] + task["validation"] for task in tasks),
        "probe_test_set_size": max(task["test"] for task in tasks),
        "context_length": settings["context"],
        "llm_dtype": summary["provenance"]["dtype"],
        "model_name": report["lm"]["name"],
        "k_values": [k for k in _ks(report) if k in KS],
        "lower_vram_usage": False,
    }


def _differences(report: dict[str, Any], penalty: str) -> list[str]:
    pool = report["probe_summary"]["settings"]["pool"]
    taken = {"last": "its last token", "mean": "the mean over its tokens", "max": "the maximum over its tokens"}[pool]
    return [
        "the tasks are jsaeval's, not SAEBench's data sets",
        f"a text is {taken}; SAEBench takes the mean" if pool != "mean" else "a text is the mean over its tokens",
        "features of k-sparse probes are chosen by the difference of means in units of their mean size, as in "
        "sae-probes; SAEBench: by the difference",
        f"k-sparse probes: {penalty.upper()}, its strength chosen by validation; SAEBench: L2 with C = 1",
        "probes on all of x and all latents: L2, fitted to the end; SAEBench stops at the best epoch on the test texts",
    ]
