"""An SAE inside a Penzai transformer, without copying its weights. A script, or a notebook of `# %%` cells.

    python -m experiments.hosts.penzai_model

The model is built by Penzai's own Llama variant (`penzai.models.transformer.variants.llamalike_common`), its blocks not
in a `LayerStack`. Axes have names there, so the adapter names them on the way in and orders them on the way out; its
parameters are held by `pz.unbind_params`. Sites inside a block are reached as Penzai means it: `pz.select` puts a layer
in that shows what passes. `return block(...)` alone would do for SAEs on the residual stream.

Prints how far logits are from the model's own, whether its buffers are shared, headline metrics with intervals of two
SAEs, and how far they are from those in the package's decoder, which has the same weights. Writes the host, the decoder
and an SAE as treescope shows them to `runs/penzai_host/`.

On 2 x86-64 cores (50 s of CPU time): logits, which go up to 19, 1.5e-5 from the model's own in float32 and equal to
them in float64; explained variance 0.872 [0.868, 0.877] and KL 0.313 [0.289, 0.339] nats for the SAE that ships with
`tiny`, 0.851 and 0.350 for one trained here in 300 steps; metrics within 3e-7 of the decoder's.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import treescope
from jaxtyping import Array, Float, Int
from penzai import pz
from penzai.models.transformer import model_parts
from penzai.models.transformer.variants import llamalike_common as llamalike

import jsaeval
from experiments.hosts.shared import (
    block_weights,
    card_for,
    disagreement,
    largest_difference,
    quick_sae,
    rows,
    shares_buffers,
    show,
)
from jsaeval.lm.adapters import At, BlockwiseLM
from jsaeval.lm.decoder import Decoder
from jsaeval.run.engine import Setting


AXES = ("batch", "seq", "embedding")
OUT = Path("runs/penzai_host")


# %% The adapter. Penzai names axes; the protocol orders them.
@pz.pytree_dataclass
class Site(pz.nn.Layer):
    """A layer that shows its input, with `axes` flattened, at a site."""

    name: str = dataclasses.field(metadata={"pytree_node": False})
    axes: tuple[str, ...] = dataclasses.field(metadata={"pytree_node": False})
    at: At = dataclasses.field(metadata={"pytree_node": False})

    def __call__(self, x: pz.nx.NamedArray, **side_inputs: Any) -> pz.nx.NamedArray:
        order = "batch", "seq", *self.axes
        plain = x.unwrap(*order)
        return pz.nx.wrap(self.at(self.name, plain.reshape(*plain.shape[:2], -1)).reshape(plain.shape), *order)


def with_sites(block: model_parts.TransformerBlock, at: At) -> model_parts.TransformerBlock:
    """A block with a `Site` wherever a tap may look inside it, put there by Penzai's own surgery."""
    block = (
        pz.select(block)
        .at_instances_of(pz.nn.Attention)
        .at(lambda attention: attention.attn_value_to_output.sublayers[-1])  # type: ignore
        .apply_and_inline(lambda output: (Site("attn.hook_z", output.in_axis_names, at), output))
    )
    for i, name in enumerate(("hook_attn_out", "hook_mlp_out")):
        delta = pz.select(block).at(lambda block, i=i: block.sublayers[i].delta)  # type: ignore
        block = delta.apply(lambda delta, name=name: pz.nn.Sequential([delta, Site(name, ("embedding",), at)]))
    attention = pz.select(block).at(lambda block: block.sublayers[0])
    return attention.insert_after(Site("hook_resid_mid", ("embedding",), at))  # type: ignore


class PenzaiHost(BlockwiseLM):
    body: pz.nn.Sequential
    params: tuple[pz.ParameterValue, ...]

    @property
    def layers(self):
        return pz.bind_variables(self.body, self.params).sublayers

    @property
    def blocks(self):
        return self.layers[1:-2]

    @property
    def unembedding(self):
        return self.layers[-1].weights.value.unwrap("vocabulary", "embedding")

    def embed(self, tokens):
        return self.layers[0](pz.nx.wrap(tokens, "batch", "seq")).unwrap(*AXES)

    def apply(self, block, residual, at):
        positions = pz.nx.arange("seq", residual.shape[1])
        return with_sites(block, at)(pz.nx.wrap(residual, *AXES), token_positions=positions).unwrap(*AXES)

    def final(self, residual):
        return self.layers[-2](pz.nx.wrap(residual, *AXES)).unwrap(*AXES)


# %% The model, from Penzai's own parts; here with the weights of `tiny`, so that there is something to compare with.
def config_of(lm: Decoder) -> llamalike.LlamalikeTransformerConfig:
    c = lm.config
    return llamalike.LlamalikeTransformerConfig(
        num_kv_heads=c.n_kv_heads,
        query_head_multiplier=c.queries_per_kv,
        embedding_dim=c.d_model,
        projection_dim=c.d_head,
        mlp_hidden_dim=c.d_mlp,
        num_decoder_blocks=c.n_blocks,
        vocab_size=c.vocab,
        mlp_variant="swiglu",
        tie_embedder_and_logits=False,
        rope_wavelength=c.rope_theta,
        rms_norm_eps=c.norm_eps,
    )


def from_decoder(lm: Decoder) -> model_parts.TransformerLM:
    """The same LM built from Penzai's parts; those with tied embeddings scale them, so the matrix is given twice."""
    slots = llamalike.build_llamalike_transformer(config_of(lm), init_base_rng=None)
    grouped = slots.metadata.common_head_axes
    heads = grouped | slots.metadata.query_only_head_axes

    def to_heads(w: Float[Array, "d_model head d_head"], axes: dict[str, int]) -> pz.nx.NamedArray:
        return pz.nx.wrap(w.reshape(len(w), *axes.values(), -1), "embedding", *axes, "projection")

    values = {
        "embedder.embeddings": pz.nx.wrap(lm.embedding, "vocabulary", "embedding"),
        "final_norm/scale.weights": pz.nx.wrap(lm.final_norm, "embedding"),
        "lm_head.weights": pz.nx.wrap(lm.unembedding, "vocabulary", "embedding"),
    }
    for i, w in enumerate(block_weights(lm)):
        output = w.o.reshape(*heads.values(), *w.o.shape[1:])
        own = {
            "pre_attention_norm/scale": pz.nx.wrap(w.attn_norm, "embedding"),
            "attention/query": to_heads(w.q, heads),
            "attention/key": to_heads(w.k, grouped),
            "attention/value": to_heads(w.v, grouped),
            "attention/output": pz.nx.wrap(output, *heads, "projection", "embedding"),
            "pre_ffw_norm/scale": pz.nx.wrap(w.mlp_norm, "embedding"),
            "mlp/gating_linear": pz.nx.wrap(w.gate, "embedding", "neurons"),
            "mlp/value_linear": pz.nx.wrap(w.up, "embedding", "neurons"),
            "mlp/out_linear": pz.nx.wrap(w.down, "neurons", "embedding"),
        }
        values |= {f"block_{i}/{name}.weights": value for name, value in own.items()}
    params = [pz.Parameter(value=value, label=f"transformer/{name}") for name, value in values.items()]
    return pz.bind_variables(slots, params)


def forward(model: model_parts.TransformerLM, tokens: Int[Array, "row position"]) -> Float[Array, "row position vocab"]:
    """The model's own logits."""
    return model(pz.nx.wrap(tokens, "batch", "seq")).unwrap("batch", "seq", "vocabulary")


# %% The protocol gives the model's own logits, from the model's own buffers.
if __name__ == "__main__":
    native = jsaeval.load_lm("tiny")
    model = from_decoder(native)
    host = PenzaiHost(*pz.unbind_params(model.body, freeze=True), card=card_for(native, "tiny in Penzai"))
    text = rows(native, 272)
    held_out, training = text[:16], text[16:]
    own = functools.partial(forward, model)
    print(f"logits: {largest_difference(host, own, held_out[:4]):.1e} from the model's own")
    print(f"weights are the model's own buffers: {shares_buffers(host, pz.freeze_variables(model))}")

# %% Two SAEs in it: the one that ships with `tiny`, and one trained for seconds on its activations.
if __name__ == "__main__":
    saes = [jsaeval.load_sae("tiny"), quick_sae(host, training)]
    results = jsaeval.evaluate(host, saes, tokens=held_out)
    show(results)

# %% The same SAEs in the package's own decoder, on the same rows.
if __name__ == "__main__":
    same = jsaeval.evaluate(native, saes, tokens=held_out, setting=Setting(control_rows=0))
    print(f"largest relative difference of a metric from the package's decoder: {disagreement(results, same):.1e}")

# %% Penzai's viewer shows modules of the package, too.
if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    with treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer()):
        for name, shown in {"penzai_host": host, "decoder": native, "sae": saes[0]}.items():
            page = OUT / f"{name}.html"
            page.write_text(treescope.render_to_html(shown), encoding="utf-8")
            print(f"{page}: {page.stat().st_size / 1024:.0f} KB")
