"""The three objectives of Braun et al. 2024 (arXiv 2405.12241, §2), as printed and as run.

a, â: activation at the hook and its reconstruction, of dimension d; c: latents; y, ŷ: next-token distributions without
and with the SAE; l: the SAE's layer (the residual stream before block l), L: number of blocks; Δ^k = ‖â^k − a^k‖²
before block k.

| | paper | code (commit 83b4add of e2e_sae) |
|---|---|---|
| local | ‖a − â‖² + λ/d ‖c‖₁ | (‖a − â‖² + λ ‖c‖₁) / d |
| e2e | KL(ŷ ‖ y) + λ/d ‖c‖₁ | KL(y ‖ ŷ) + λ/d ‖c‖₁ |
| e2e+ds | KL(ŷ ‖ y) + λ/d ‖c‖₁ + β/(L−l) Σ_{l<k<L} Δ^k | ½ KL(y ‖ ŷ) + λ/d ‖c‖₁ + β/(L−1−l) Σ_{l<k<L} Δ^k / d |

The ½ is in the paper's appendix D, too. Means are over the tokens of the metric mask; in the paper, over all tokens.
The penalty of other architectures takes the place of λ/d ‖c‖₁. A local loss is divided by the variance of x: for relu
and gated λ is the paper's, in units of the activation; for jumprelu it is what a latent more may save of the FVU.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.training.recipe import Recipe
from jsaeval.corpus.masks import Masks
from jsaeval.errors import InputError
from jsaeval.forward.downstream import curve_tap
from jsaeval.forward.head import head
from jsaeval.forward.splice import splice, suffix
from jsaeval.forward.sums import over_row
from jsaeval.hooks import Hook
from jsaeval.lm.protocol import HostLM, logit_cap_of, no_tap


def check(recipe: Recipe, hook: Hook, n_blocks: int) -> None:
    """Raises InputError where an objective has no meaning."""
    if recipe.objective != "local" and recipe.architecture in ("matryoshka", "gated"):
        raise InputError(
            f"{recipe.architecture} with objective {recipe.objective}: what trains its "
            f"{'gate' if recipe.architecture == 'gated' else 'nested dictionaries'} is a local reconstruction"
        )
    if recipe.objective == "e2e+ds" and hook.prefix_stop > n_blocks - 2:
        raise InputError(f"e2e+ds at {hook.name}: of {n_blocks} blocks, none lies between it and the last; use e2e")


def end_to_end(
    lm: HostLM,
    hook: Hook,
    tokens: Int[Array, "row position"],
    masks: Masks,
    residual: Float[Array, "row position d_model"],
    x: Float[Array, "row position width"],
    reconstructions: Float[Array, "sae row position width"],
    recipe: Recipe,
) -> Float[Array, " sae"]:
    """e2e or e2e+ds without its penalty, for each SAE; reconstructions in the units of x."""
    n, n_tokens = len(reconstructions), jnp.sum(masks.metric)
    with_curve = recipe.objective == "e2e+ds"
    streams = jnp.concatenate([x[None], splice(x, reconstructions, masks.splice)])
    observe, state = curve_tap(lm, n, streams, masks.metric) if with_curve else (no_tap, None)
    finals, curve = suffix(lm, hook, residual, streams, observe, state)
    divergence = jnp.sum(over_row(_kl(lm, finals, tokens, recipe), masks.metric), axis=-1) / n_tokens
    if not with_curve:
        return divergence
    # What leaves block k enters block k + 1, and what leaves the last block enters none.
    layer = int(hook.prefix_stop)
    n_terms = lm.n_blocks - 1 - layer
    summed = jnp.sum(curve["sse"][layer : lm.n_blocks - 1], axis=(0, 2)) / n_tokens
    if recipe.form == "paper":
        return divergence + recipe.beta / (n_terms + 1) * summed
    return divergence / 2 + recipe.beta / n_terms * summed / lm.d_model


def penalty_weight(recipe: Recipe, d: int, scale: float, spread: float) -> float:
    """What λ · `Coded.penalty` is multiplied with, beside the local error or `end_to_end`.

    Args:
        recipe: the penalty is a count for jumprelu, an L1 norm in scaled units for relu and gated.
        d: width of the hook.
        scale: of the activation in training.
        spread: E‖x − mean‖² in scaled units.
    """
    if recipe.architecture == "jumprelu":
        return 1.0
    share = 1.0 if recipe.objective == "local" and recipe.form == "code" else 1 / d
    if recipe.objective != "local":
        return share / scale
    return share * scale / spread


def _kl(lm: HostLM, finals: Array, tokens: Array, recipe: Recipe) -> Float[Array, "sae row position"]:
    none = jnp.zeros((0, *finals.shape[2:]), finals.dtype)
    cap, reverse = logit_cap_of(lm), recipe.form == "paper"
    return head(lm.unembedding, finals, none, tokens, reverse_kl=reverse, logit_cap=cap)[1].kl
