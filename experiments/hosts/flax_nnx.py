"""An SAE inside a Flax NNX model, without copying its weights. A script, or a notebook of `# %%` cells.

    python -m experiments.hosts.flax_nnx

NNX modules are objects with state; `nnx.split` takes them apart into a static graph and a pytree of arrays, and
`nnx.merge` puts them together again where they run. (A parameter with two owners is one array in that pytree; a module
flattened as a pytree would give it twice.) `NNXHost` shows every site of a block, because the model computes them in
plain sight; `return block(residual)` would do for SAEs on the residual stream.

Prints how far logits are from the model's own, whether its buffers are shared, headline metrics with intervals of two
SAEs, and how far they are from those in the package's decoder, which has the same weights.

On 2 x86-64 cores (44 s of CPU time): logits 0 from the model's own; explained variance 0.872 [0.868, 0.877] and KL
0.313 [0.289, 0.339] nats for the SAE that ships with `tiny`, 0.851 and 0.349 for one trained here in 300 steps; metrics
within 8e-7 of the decoder's.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

import jsaeval
from experiments.hosts.shared import (
    BlockWeights,
    block_weights,
    card_for,
    disagreement,
    largest_difference,
    quick_sae,
    rows,
    shares_buffers,
    show,
)
from jsaeval.lm.adapters import BlockwiseLM
from jsaeval.lm.config import DecoderConfig
from jsaeval.lm.decoder import Decoder
from jsaeval.run.engine import Setting


# %% The model, as its author wrote it.
class Attention(nnx.Module):
    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs):
        def linear(heads):
            return nnx.LinearGeneral(c.d_model, (heads, c.d_head), use_bias=False, rngs=rngs)

        self.q, self.k, self.v = linear(c.n_heads), linear(c.n_kv_heads), linear(c.n_kv_heads)
        self.o = nnx.LinearGeneral((c.n_heads, c.d_head), c.d_model, axis=(-2, -1), use_bias=False, rngs=rngs)
        self.theta = c.rope_theta

    def heads(self, x: Float[Array, "row position d_model"]) -> Float[Array, "row position head d_head"]:
        return jax.nn.dot_product_attention(self.rope(self.q(x)), self.rope(self.k(x)), self.v(x), is_causal=True)

    def rope(self, x: Float[Array, "row position head d_head"]) -> Float[Array, "row position head d_head"]:
        half = x.shape[-1] // 2
        angle = jnp.arange(x.shape[1])[:, None, None] * self.theta ** (-jnp.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)


class MLP(nnx.Module):
    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs):
        self.gate = nnx.Linear(c.d_model, c.d_mlp, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(c.d_model, c.d_mlp, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(c.d_mlp, c.d_model, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "row position d_model"]) -> Float[Array, "row position d_model"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs):
        self.attn_norm = nnx.RMSNorm(c.d_model, epsilon=c.norm_eps, rngs=rngs)
        self.attention = Attention(c, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(c.d_model, epsilon=c.norm_eps, rngs=rngs)
        self.mlp = MLP(c, rngs=rngs)

    def __call__(self, x: Float[Array, "row position d_model"]) -> Float[Array, "row position d_model"]:
        x = x + self.attention.o(self.attention.heads(self.attn_norm(x)))
        return x + self.mlp(self.mlp_norm(x))


class Llama(nnx.Module):
    def __init__(self, c: DecoderConfig, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(c.vocab, c.d_model, rngs=rngs)
        self.blocks = nnx.List([Block(c, rngs=rngs) for _ in range(c.n_blocks)])
        self.norm = nnx.RMSNorm(c.d_model, epsilon=c.norm_eps, rngs=rngs)

    def __call__(self, tokens: Int[Array, "row position"]) -> Float[Array, "row position vocab"]:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


# %% The adapter. Dropout is off after `model.eval()`, which has to come before `nnx.split(model)`.
class NNXHost(BlockwiseLM):
    graph: nnx.GraphDef = eqx.field(static=True)
    state: nnx.State

    @property
    def model(self):
        return nnx.merge(self.graph, self.state)

    @property
    def blocks(self):
        return self.model.blocks

    @property
    def unembedding(self):
        return self.model.embed.embedding[...]

    def embed(self, tokens):
        return self.model.embed(tokens)

    def apply(self, block, residual, at):
        z = block.attention.heads(block.attn_norm(residual))
        z = at("attn.hook_z", z.reshape(*residual.shape[:2], -1)).reshape(z.shape)
        residual = at("hook_resid_mid", residual + at("hook_attn_out", block.attention.o(z)))
        return residual + at("hook_mlp_out", block.mlp(block.mlp_norm(residual)))

    def final(self, residual):
        return self.model.norm(residual)


# %% Here the model gets the weights of `tiny`, so that there is something to compare with.
def from_decoder(lm: Decoder) -> Llama:
    """The same LM as a `Llama`, for a Llama with tied embeddings."""

    def block(w: BlockWeights) -> dict:
        linear = {name: {"kernel": kernel} for name, kernel in w._asdict().items()}
        return {
            "attn_norm": {"scale": w.attn_norm},
            "attention": {name: linear[name] for name in ("q", "k", "v", "o")},
            "mlp_norm": {"scale": w.mlp_norm},
            "mlp": {name: linear[name] for name in ("gate", "up", "down")},
        }

    model = nnx.eval_shape(lambda: Llama(lm.config, rngs=nnx.Rngs(0)))
    blocks = {i: block(w) for i, w in enumerate(block_weights(lm))}
    nnx.update(model, {"embed": {"embedding": lm.embedding}, "norm": {"scale": lm.final_norm}, "blocks": blocks})
    return model


# %% The protocol gives the model's own logits, from the model's own buffers.
if __name__ == "__main__":
    native = jsaeval.load_lm("tiny")
    model = from_decoder(native)
    host = NNXHost(*nnx.split(model), card=card_for(native, "tiny in Flax NNX"))
    text = rows(native, 272)
    held_out, training = text[:16], text[16:]
    print(f"logits: {largest_difference(host, model, held_out[:4]):.1e} from the model's own")
    print(f"weights are the model's own buffers: {shares_buffers(host, nnx.state(model))}")

# %% Two SAEs in it: the one that ships with `tiny`, and one trained for seconds on its activations.
if __name__ == "__main__":
    saes = [jsaeval.load_sae("tiny"), quick_sae(host, training)]
    results = jsaeval.evaluate(host, saes, tokens=held_out)
    show(results)

# %% The same SAEs in the package's own decoder, on the same rows.
if __name__ == "__main__":
    same = jsaeval.evaluate(native, saes, tokens=held_out, setting=Setting(control_rows=0))
    print(f"largest relative difference of a metric from the package's decoder: {disagreement(results, same):.1e}")
