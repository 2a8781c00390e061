"""Does an SAE behave as its authors say? What was measured beside what is declared, and what a mismatch usually means.

An SAE that is loaded wrongly gives wrong numbers without an error: another hook, a norm's gain in or out, a scale that
was not folded, a TopK read as relu. Each of them shows in the number of active latents or in the error.

A warning says that the numbers may be those of a mistake. An SAE that behaves gets none, whatever the text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from jsaeval.errors import InputError
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.release import differ
from jsaeval.sae.module import SAE, has_layer_norm


# Text differs, so L0 does; a wrong scale or hook changes it tenfold.
MOST_TIMES = 3.0
# ‖x̂‖ / ‖x‖ of an SAE with the right scale; shrinkage is within.
_RATIO = (0.5, 2.0)
# A latent in ten that fires at all, where as many activations as there were would give each of them so many. Densities
# differ by orders of magnitude, so on few tokens many latents have not fired yet.
LEAST_ALIVE, TIMES_EACH = 0.1, 10.0


@dataclass(frozen=True)
class Behaviour:
    """`declared_l0` is None where nothing is declared. `warnings`: one line each, with the likely cause."""

    declared_l0: float | None
    l0: float | None
    fvu: float | None
    alive: float | None
    input_bias: str
    input_norm: str
    warnings: tuple[str, ...]


def behaviour(
    sae: SAE, hook: Hook, measured: Mapping[str, float], *, lm: str | None = None, tokens: int = 0
) -> Behaviour:
    """Compare an SAE with what is declared of it.

    Args:
        sae: as it was given to the run; its card has what is declared.
        hook: where it ran.
        measured: values of metrics by id: `l0`, `fvu`, `alive`, `l2_ratio`, as far as they were measured.
        lm: name of the LM in which it ran.
        tokens: how many were counted.
    """
    declared = declared_l0(sae)
    l0, fvu, alive = (measured.get(id) for id in ("l0", "fvu", "alive"))
    warnings = []
    if lm is not None and sae.card.lm is not None and differ(sae.card.lm, lm):
        warnings.append(f"it ran in {lm}, its file says {sae.card.lm}")
    if (own := _own_hook(sae)) is not None and own != hook:
        warnings.append(f"it ran at {hook.name}, its file says {own.name}")
    if l0 is not None and l0 == 0:
        warnings.append("no latent ever fires; " + _causes(sae, hook))
    elif l0 is not None and declared is not None and not 1 / MOST_TIMES <= l0 / declared <= MOST_TIMES:
        warnings.append(f"{l0:.4g} latents fire for a token, {declared:.4g} are declared; {_causes(sae, hook)}")
    if l0 and alive is not None and alive < LEAST_ALIVE and tokens * l0 >= TIMES_EACH * sae.d_sae:
        each = tokens * l0 / sae.d_sae
        warnings.append(
            f"{100 * alive:.2g} % of its latents fired at all in {tokens:,} tokens, though {each:,.0f} activations "
            f"came for each of them; did the others die in training; {_causes(sae, hook)}"
        )
    if fvu is not None and fvu >= 1:
        ratio = measured.get("l2_ratio")
        size = ""
        if ratio is not None and not _RATIO[0] <= ratio <= _RATIO[1]:
            size = f", and it is {ratio:.3g} times as large as x, so look at the scale first"
        warnings.append(f"the reconstruction is worse than the mean of x (FVU {fvu:.4g}){size}; {_causes(sae, hook)}")
    return Behaviour(declared, l0, fvu, alive, input_bias(sae), sae.input_norm, tuple(warnings))


def _own_hook(sae: SAE) -> Hook | None:
    try:
        return None if sae.card.hooks is None else parse_hook(sae.card.hooks)
    except InputError:  # a name whose meaning depends on the LM
        return None


def declared_l0(sae: SAE) -> float | None:
    """The number of latents that are to fire for a token: what the authors say, else k."""
    stated = json.loads(sae.card.declared).get("l0")
    if isinstance(stated, (int, float)) and stated > 0:
        return float(stated)
    return None if sae.k is None else float(sae.k)


def input_bias(sae: SAE) -> str:
    """What is subtracted from x before encoding: "none", "b_dec", or "a vector of its own"."""
    if sae.b_pre is None:
        return "none"
    tied = sae.d_in == sae.d_out and bool(jnp.array_equal(sae.b_pre, sae.b_dec))
    return "b_dec" if tied else "a vector of its own"


def _causes(sae: SAE, hook: Hook) -> str:
    """What to look at, the most likely first."""
    causes = []
    if hook.reads in ("ln2.hook_normalized", "mlp.hook_in"):
        other = "mlp.hook_in" if hook.reads == "ln2.hook_normalized" else "ln2.hook_normalized"
        causes.append(f"does it read {other} (the norm's gain in or out)")
    causes.append("is this its LM and hook")
    if sae.input_norm == "none":
        causes.append("was it trained on normalised activations whose scale is not in the file")
    if sae.W_skip is None and has_layer_norm(sae.card.lm):
        causes.append("was it trained on centred weights, as TransformerLens loads this LM")
    return "; ".join(causes) + "?"
