"""Public SAEs by name: `RELEASE/ID` of the list that SAELens keeps, read from its wheel, never imported.

The list says where on the Hugging Face hub an SAE lies, for which LM it is, how many latents its authors expect to
fire, and what its file leaves out: a scale of the input, or that the LM's weights were centred.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from jsaeval.cache import SAE_LENS, atomic, cache_dir, wheel_member
from jsaeval.errors import InputError, nearest, one_line
from jsaeval.sae.formats.assemble import centred
from jsaeval.sae.module import SAE


_MEMBER = "sae_lens/pretrained_saes.yaml"
_UNSUPPORTED = {
    "mntss_clt_layer_transcoder": "a cross-layer transcoder",
    "temporal": "a temporal SAE, whose latents depend on other tokens",
}
# Files beside a single file of weights that readers look at.
_BESIDE = ("config.json", "cfg.json", "config.yaml", "wandb-config.yaml", "wanb-config.yaml", "hyperparams.json")


@dataclass(frozen=True)
class Pretrained:
    """One entry of the list.

    `path` is a file or folder in the repository `repo`. `scale` multiplies the input of SAEs that were trained on
    activations of average norm sqrt(d); `centred`: the LM's weights were, so that x had no mean over the width.
    """

    release: str
    id: str
    repo: str
    path: str
    kind: str
    lm: str
    l0: float | None
    scale: float | None
    input_norm: str | None
    centred: bool

    @property
    def name(self) -> str:
        return f"{self.release}/{self.id}"


def find_pretrained(name: str) -> Pretrained | None:
    """The entry `RELEASE/ID`; None if the list has no release of that name.

    Raises:
        InputError: the list cannot be fetched; the release has no such SAE; its kind is not supported.
    """
    release, _, id = name.partition("/")
    listed = _releases()
    if release not in listed:
        return None
    own = listed[release]
    if id not in own["saes"]:
        which = f"{len(own['saes'])} SAEs, e.g. {next(iter(own['saes']))!r}"
        raise InputError(f"SAE {name!r}: release {release} has {which}, but not this{nearest(id, own['saes'])}")
    if own["kind"] in _UNSUPPORTED:
        raise InputError(f"SAE {name!r}: {_UNSUPPORTED[own['kind']]}; these are not supported")
    path, *stated = own["saes"][id]
    l0, scale = (None if value is None else float(value) for value in stated)
    about = {key: own[key] for key in ("repo", "kind", "lm", "input_norm", "centred")}
    return Pretrained(release, id, path=path, l0=l0, scale=scale, **about)


def nearest_release(name: str) -> str:
    """A hint at a release with a similar name, or nothing."""
    return nearest(name.partition("/")[0], _releases())


def fetch_pretrained(entry: Pretrained) -> Path:
    """The file or folder of an entry, downloaded into the cache of `huggingface_hub` where it is not there yet.

    Raises:
        InputError: the hub cannot be reached, or has no such file.
    """
    import huggingface_hub  # a part of a second that only public SAEs need

    path = PurePosixPath(entry.path)
    beside = [str(path.parent / other) for other in (*_BESIDE, f"{path.stem}_cfg.json")]
    try:
        root = huggingface_hub.snapshot_download(entry.repo, allow_patterns=[str(path), f"{path}/*", *beside])
    except Exception as error:  # of the HTTP library beneath
        raise InputError(
            f"SAE {entry.name!r}: {entry.repo} cannot be fetched from the hub ({one_line(error)})"
        ) from None
    found = Path(root, *path.parts)
    if not found.exists():
        raise InputError(f"SAE {entry.name!r}: {entry.repo} has no {entry.path} any more")
    return found


def as_listed(sae: SAE, entry: Pretrained) -> SAE:
    """An SAE that was read from the files of an entry, with what the list adds to them."""
    if entry.input_norm is not None:
        sae = dataclasses.replace(sae, input_norm=entry.input_norm)
    if entry.scale is not None and sae.input_norm == "expected_average":
        sae = sae.with_scale(sae.d_in**0.5 / entry.scale)
    if entry.centred and sae.W_skip is None:  # its own file may have said so
        sae = centred(dataclasses.replace(sae, card=dataclasses.replace(sae.card, lm=entry.lm)), entry.name)
    declared = json.loads(sae.card.declared) | ({} if entry.l0 is None else {"l0": entry.l0})
    # The list says gemma-2-9b of SAEs of gemma-2-9b-it, too; their folders are right.
    lm = sae.card.lm if entry.kind.startswith("gemma_2") and sae.card.lm else entry.lm
    card = dataclasses.replace(
        sae.card, name=entry.name, lm=lm, declared=json.dumps(declared, sort_keys=True, default=str)
    )
    return dataclasses.replace(sae, card=card)


def _releases() -> dict[str, Any]:
    """Release → its facts and SAEs (id → path, L0, scale). Parsing takes a second or many, so it is kept as JSON."""
    kept = cache_dir("pretrained") / f"{SAE_LENS.sha256[:16]}.json"
    if kept.exists():
        try:
            return json.loads(kept.read_text(encoding="utf-8"))
        except ValueError:  # cut short by a full disk; made again
            kept.unlink()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    raw = yaml.load(wheel_member(SAE_LENS, _MEMBER).read_text(encoding="utf-8"), Loader=loader)
    made = {name: _release(own) for name, own in raw.items()}
    with atomic(kept) as temporary:
        temporary.write_text(json.dumps(made), encoding="utf-8")
    return made


def _release(own: dict[str, Any]) -> dict[str, Any]:
    overrides = own.get("config_overrides") or {}
    return {
        "repo": own["repo_id"],
        "kind": own.get("conversion_func") or "saelens",
        "lm": own["model"],
        "input_norm": "constant_norm" if overrides.get("normalize_activations") == "constant_norm_rescale" else None,
        "centred": bool((overrides.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights")),
        # One entry of the list has a copy of its release in place of more SAEs; only what names a path is an SAE.
        "saes": {s["id"]: (str(s["path"]), s.get("l0"), s.get("norm_scaling_factor")) for s in own["saes"]},
    }
