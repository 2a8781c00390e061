"""Result files of SAEBench 0.6, for its loaders and plots: `jsaeval report DIR --format saebench`.

One file for each SAE and evaluation, in SAEBench's schema (its `base_eval_output.py`) and under its names: those of one
SAE have the same name in every folder, by which its plots find them. An SAE of SAELens's list goes by release and id,
any other by its own name and `custom_sae`.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jsaeval.cache import atomic
from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.report.saebench_core import Part, core, missing_groups, weight_measures
from jsaeval.report.saebench_probing import DEFAULT_KS, missing_ks, probing
from jsaeval.run.folder import LATENTS, REPORT, ROWS, is_run, read_report, read_table
from jsaeval.sae.load import load_sae


FOLDER = "saebench"
CORE, PROBING = "core", "sparse_probing"
# What SAEBench's plots look for in a path, in this order, to tell which evaluation a file is of.
_IN_A_PATH = ("tpp", "scr", "absorption", "autointerp", "sparse_probing", "unlearning", "core")


@dataclass(frozen=True)
class Written:
    """`paths`: the files. `notes`: what was left out or may mislead, a line each."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def write_saebench(folder: Path) -> Written:
    """Write the files of what is in a folder into its folder `FOLDER`, each whole or not at all.

    Args:
        folder: of a run, of probes, or of both.

    Raises:
        InputError: it holds neither, or a run and probes from which no file can be made; or files cannot be written.
    """
    report, text = read_report(folder), (folder / REPORT).read_text(encoding="utf-8")
    millis = int((folder / REPORT).stat().st_mtime * 1000)
    names, paths, notes = _names(report), [], []
    for kind, parts in ((CORE, _core(folder, report, notes)), (PROBING, _probing(folder, report, notes))):
        # The same report makes the same file.
        when = {"eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, kind + text)), "datetime_epoch_millis": millis}
        for sae, part in parts:
            name = names[sae["name"]]
            paths.append(folder / FOLDER / kind / _file_name(*name))
            _write(paths[-1], {"eval_type_id": kind} | when | _content(report, sae, name, part))
    notes += [f"{sae['name']}: left out, it failed ({sae['error']})" for sae in report["saes"] if "error" in sae]
    if not paths:
        raise InputError(f"{folder}: nothing for SAEBench; " + "; ".join(notes))
    return Written(tuple(paths), (*notes, *_mistaken(paths)))


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def _core(folder: Path, report: dict[str, Any], notes: list[str]) -> Iterator[tuple[dict[str, Any], Part]]:
    """SAEs of the run with their core evaluations."""
    if not is_run(report):
        notes.append(f"{folder} holds no run, so there are no core files; jsaeval probe can add probes to one")
        return
    done = [sae for sae in report["saes"] if "error" not in sae]
    if missing := list(dict.fromkeys(group for sae in done for group in missing_groups(sae))):
        notes.append(f"the run lacks {' and '.join(missing)}, without which there are no core files; see --metrics")
        return
    rows, latents = (read_table(folder, name) for name in (ROWS, LATENTS))
    for sae in done:
        weights = _weights(report, sae, notes)
        own = [pd.DataFrame(table[table["sae"] == sae["name"]]) for table in (rows, latents)]
        yield sae, core(report, sae, own[0], own[1], weights)


def _probing(folder: Path, report: dict[str, Any], notes: list[str]) -> Iterator[tuple[dict[str, Any], Part]]:
    """SAEs that were probed, with their sparse probing evaluations."""
    if "probe_summary" not in report:
        notes.append(f"{folder} holds no probes, so there are no sparse_probing files; jsaeval probe --out adds them")
        return
    probed = report["probe_summary"]["settings"]["saes"]
    try:  # of all at once: they have the same probes
        parts = [(sae, probing(report, sae["name"])) for sae in report["saes"] if sae["name"] in probed]
    except InputError as error:
        notes.append(str(error))
        return
    if missing := missing_ks(report):
        wanted = " ".join(f"--k {k}" for k in DEFAULT_KS)
        notes.append(f"no probes of k = {', '.join(map(str, missing))}, which SAEBench has; jsaeval probe {wanted}")
    yield from parts


def _content(report: dict[str, Any], sae: dict[str, Any], name: tuple[str, str], part: Part) -> dict[str, Any]:
    """A file without what is the same in all of its kind."""
    made_by, (release, id) = f"jsaeval {report['provenance']['versions']['jsaeval']}", name
    return {
        "eval_config": part.config,
        "eval_result_metrics": part.metrics,
        "eval_result_details": part.details,
        "sae_bench_commit_hash": f"none: made by {made_by}",
        "sae_lens_id": id,
        "sae_lens_release_id": release,
        "sae_lens_version": None,
        "sae_cfg_dict": _sae_config(report, sae),
        "eval_result_unstructured": {"made_by": made_by} | part.unstructured,
    }


def _sae_config(report: dict[str, Any], sae: dict[str, Any]) -> dict[str, Any]:
    """The SAE in SAELens's words, as far as it is known."""
    activation, _, k = sae["architecture"].partition("-")
    hook = parse_hook(sae["hook"])
    read, _, written = sae["hook"].partition(":")
    about = {
        "architecture": "standard" if activation == "relu" else activation,
        "d_in": sae["d_in"],
        "d_sae": sae["d_sae"],
        "hook_name": read,
        "hook_layer": hook.block,
        "model_name": report["lm"]["name"],
        "dtype": report["provenance"]["dtype"],
    }
    about |= {"k": int(k)} if k else {}
    return about | ({"hook_name_out": f"blocks.{hook.block}.{written}"} if written else {})


def _names(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Release and id of each SAE, by its name."""
    found, used = {}, Counter()
    for sae in report["saes"]:
        release, _, id = sae["name"].partition("/")
        pair = (release, id) if _is_listed(report, sae) else (sae["name"], "custom_sae")
        used[_file_name(*pair)] += 1
        times = used[_file_name(*pair)]  # names may differ in nothing but the / that SAEBench does away with
        found[sae["name"]] = pair if times == 1 else (f"{pair[0]} ({times})", pair[1])
    return found


def _is_listed(report: dict[str, Any], sae: dict[str, Any]) -> bool:
    """Whether an SAE was asked for as RELEASE/ID, and not as a path."""
    asked = report["provenance"]["plan"].get("sae") or ()
    path = sae.get("source", {}).get("path", sae["name"])
    return "/" in sae["name"] and sae["name"] in asked and not path.startswith(sae["name"])


def _file_name(release: str, id: str) -> str:
    return f"{release}_{id}_eval_results.json".replace("/", "_")


def _weights(report: dict[str, Any], sae: dict[str, Any], notes: list[str]) -> dict[str, np.ndarray]:
    """Measures of the weights of an SAE, where its file is still there."""
    source = sae["source"]
    try:
        loaded = load_sae(sae["name"] if _is_listed(report, sae) else source["path"])
    except InputError as error:
        why = str(error)
    else:
        if loaded.card.sha256 == source["sha256"]:
            return weight_measures(loaded)
        why = f"{source['path']} has changed since the run"
    notes.append(f"{sae['name']}: -1 for what its weights would tell ({why})")
    return {}


def _mistaken(paths: list[Path]) -> list[str]:
    """A line on files that SAEBench's plots would take for another evaluation, because of their path."""
    found = []
    for path in paths:
        first = next(word for word in _IN_A_PATH if word in str(path.resolve()))
        found += [f"{path}: SAEBench's plots see {first!r} in its path"] if first != path.parent.name else []
    of = f"{len(found)} of {len(paths)} files"
    return [f"{found[0]} and take it for that ({of}); move or rename them"] if found else []
