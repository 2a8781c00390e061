"""Rotary positions of a Hugging Face `config.json`: theta, scaling, and what share of a head turns.

`rope_theta` and `rope_scaling` are transformers 4, `rope_parameters` is transformers 5; Gemma 3 has one set for blocks
with a window (`rope_local_base_freq`, or `sliding_attention` in `rope_parameters`) and one for the others.
"""

import math
from typing import Any, NamedTuple

from jsaeval.errors import InputError
from jsaeval.lm.config import LinearRope, Llama3Rope, RopeScaling, YarnRope


class Rope(NamedTuple):
    """Theta, what stretches the wavelengths, and the leading share of each head's dimensions that turns."""

    theta: float
    scaling: RopeScaling | None
    partial: float


def read_rope(raw: dict[str, Any], where: str, default_partial: float = 1.0, default_theta: float = 10_000.0) -> Rope:
    """The rotary positions of all blocks.

    Raises:
        InputError: a type that the decoder does not have, an attribute that nobody has thought about, or a number with
            which no angle can be computed.
    """
    old_theta = raw.get("rope_theta", raw.get("rotary_emb_base", default_theta))
    old_partial = raw.get("partial_rotary_factor", raw.get("rotary_pct", default_partial))
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta, partial = float(rope.pop("rope_theta", old_theta)), float(rope.pop("partial_rotary_factor", old_partial))
    _check_positive({"theta": theta, "share of a head": partial}, where)
    return Rope(theta, _scaling(rope, raw, where), partial)


def _check_positive(numbers: dict[str, float], where: str) -> None:
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise InputError(f"{where}: rope {name} = {value:g}; a positive number was expected")


def read_two_ropes(raw: dict[str, Any], where: str) -> tuple[Rope, float]:
    """Gemma 3: the rotary positions of blocks without a window, and theta of those that have one."""
    by_kind = raw.get("rope_parameters") or {}
    if unknown := sorted(set(by_kind) - {"full_attention", "sliding_attention"}):
        raise InputError(f"{where}: unknown rope attribute(s) {', '.join(unknown)}")
    everywhere = {key: value for key, value in raw.items() if key != "rope_parameters"}
    full = read_rope(everywhere | {"rope_parameters": by_kind.get("full_attention")}, where, default_theta=1_000_000.0)
    local = {"rope_theta": raw.get("rope_local_base_freq", 10_000.0), **(by_kind.get("sliding_attention") or {})}
    windowed = read_rope({"rope_parameters": local}, where)
    if windowed.scaling is not None or (full.partial, windowed.partial) != (1.0, 1.0):
        raise InputError(f"{where}: scaled or partial rotary positions in blocks with a window are not supported")
    if isinstance(full.scaling, YarnRope):
        raise InputError(f"{where}: rope type 'yarn' in some blocks only is not supported (default, linear, llama3)")
    return full, windowed.theta


def _scaling(rope: dict[str, Any], raw: dict[str, Any], where: str) -> RopeScaling | None:
    old_kind = rope.pop("type", "default")
    kind = rope.pop("rope_type", old_kind)
    if kind not in _KINDS:
        raise InputError(f"{where}: rope type {kind!r} with {sorted(rope)} is not supported ({', '.join(_KINDS)})")
    scaling = _KINDS[kind](rope, raw)
    if rope:
        raise InputError(f"{where}: unknown rope attribute(s) {', '.join(sorted(rope))}")
    if scaling is not None:
        numbers = {name.replace("_", " "): value for name, value in vars(scaling).items() if name != "truncate"}
        _check_positive(numbers, where)
    if isinstance(scaling, Llama3Rope) and scaling.low_freq_factor >= scaling.high_freq_factor:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        raise InputError(f"{where}: rope low_freq_factor = {low:g} is not below high_freq_factor = {high:g}")
    return scaling


def _llama3(rope: dict[str, Any], raw: dict[str, Any]) -> RopeScaling:
    return Llama3Rope(
        factor=float(rope.pop("factor")),
        low_freq_factor=float(rope.pop("low_freq_factor")),
        high_freq_factor=float(rope.pop("high_freq_factor")),
        original_context=int(rope.pop("original_max_position_embeddings")),
    )


def _yarn(rope: dict[str, Any], raw: dict[str, Any]) -> RopeScaling:
    """Queries and keys are scaled by 0.1 ln(factor) + 1 (§3.4) unless the configuration says otherwise."""
    context = int(rope.pop("original_max_position_embeddings", raw["max_position_embeddings"]))
    stretched = rope.pop("factor", None)
    # A context of 0 is refused with the other numbers, once all are known.
    factor = raw["max_position_embeddings"] / max(context, 1) if stretched is None else float(stretched)
    stated, m, m_all = (rope.pop(key, None) for key in ("attention_factor", "mscale", "mscale_all_dim"))

    def default(m: float = 1.0) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = default(m) / default(m_all) if m and m_all else default()
    return YarnRope(
        factor,
        context,
        attention_factor=float(attention if stated is None else stated),
        beta_fast=float(rope.pop("beta_fast", None) or 32),
        beta_slow=float(rope.pop("beta_slow", None) or 1),
        truncate=bool(rope.pop("truncate", True)),
    )


_KINDS = {
    "default": lambda rope, raw: None,
    "linear": lambda rope, raw: LinearRope(float(rope.pop("factor"))),
    "llama3": _llama3,
    "yarn": _yarn,
}
