"""Hook names: where in the language model an SAE reads and writes.

Names are TransformerLens's (`blocks.9.hook_resid_post`), because every public SAE carries one. Hugging Face module
paths (`model.layers.9`, `gpt_neox.layers.3.mlp`) are accepted and translated. A transcoder reads one site of a block
and predicts a later one: `blocks.9.hook_resid_mid:hook_mlp_out`.
"""

import dataclasses
import re
from dataclasses import dataclass

from jaxtyping import Array, Int

from jsaeval.errors import InputError, nearest


# The order in which a block passes its sites.
SITES = (
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_normalized",
    "mlp.hook_in",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)

_HF_BLOCK = re.compile(
    r"^(?:(?:model|transformer|gpt_neox|language_model)\.)*(?:layers|h)\.(\d+)(?:\.(?!input$|output$)(.+?))?"
    r"(?:\.(input|output))?$"
)
# (module of a block, side of it) → site. A bare `self_attn.o_proj` means its input, any other bare module its output.
_HF_SITES = {
    ("", "input"): "hook_resid_pre",
    ("", "output"): "hook_resid_post",
    ("input_layernorm", "input"): "hook_resid_pre",
    ("ln_1", "input"): "hook_resid_pre",
    ("self_attn.o_proj", "input"): "attn.hook_z",
    ("attn.c_proj", "input"): "attn.hook_z",
    ("attention.dense", "input"): "attn.hook_z",
    ("mlp", "input"): "mlp.hook_in",
    ("mlp.down_proj", "input"): "mlp.hook_post",
    ("mlp.c_proj", "input"): "mlp.hook_post",
    ("mlp.dense_4h_to_h", "input"): "mlp.hook_post",
}
_BEFORE_ONLY = {
    ("self_attn", "output"): "hook_attn_out",
    ("attn", "output"): "hook_attn_out",
    ("attention", "output"): "hook_attn_out",
    ("self_attn.o_proj", "output"): "hook_attn_out",
    ("mlp", "output"): "hook_mlp_out",
    ("mlp.down_proj", "output"): "hook_mlp_out",
    ("ln_2", "input"): "hook_resid_mid",
    ("ln_2", "output"): "mlp.hook_in",
    ("post_attention_layernorm", "input"): "hook_resid_mid",
    ("post_attention_layernorm", "output"): "mlp.hook_in",
}
_AFTER_TOO = {
    ("post_attention_layernorm", "output"): "hook_attn_out",
    ("pre_feedforward_layernorm", "input"): "hook_resid_mid",
    ("pre_feedforward_layernorm", "output"): "mlp.hook_in",
    ("post_feedforward_layernorm", "output"): "hook_mlp_out",
}
# Families that norm what attention and MLP give out, before it is added to the residual stream.
_NORMED_AFTER = ("gemma2", "gemma3")
_LEARNED_POSITIONS = ("gpt2",)


@dataclass(frozen=True)
class Hook:
    """One site in one block, e.g. `Hook(9, "hook_resid_post")`. Inside `jax.jit` the block may be traced.

    `site` is where a reconstruction is compared and spliced in. `reads` is the earlier site of the block from which a
    transcoder predicts it; None: an SAE, which reads what it reconstructs.
    """

    block: int | Int[Array, ""]
    site: str
    reads: str | None = None

    @property
    def name(self) -> str:
        return f"blocks.{self.block}.{self.site if self.reads is None else f'{self.reads}:{self.site}'}"

    def at(self, block: int | Int[Array, ""]) -> "Hook":
        """The same sites in another block."""
        return dataclasses.replace(self, block=block)

    @property
    def between_blocks(self) -> bool:
        """Whether the hook is the residual stream between two blocks, and not a site inside one."""
        return self.site in ("hook_resid_pre", "hook_resid_post")

    @property
    def prefix_stop(self) -> int | Int[Array, ""]:
        """Blocks `0 .. prefix_stop - 1` run once for everybody; the next one is the first at or after the hook."""
        return self.block + 1 if self.site == "hook_resid_post" else self.block

    @property
    def whole_residual(self) -> bool:
        """Whether the activation at this hook is all that later blocks ever see."""
        return self.site in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


def parse_hook(name: str, n_blocks: int | None = None, family: str | None = None) -> Hook:
    """Parse a TransformerLens hook name or a Hugging Face module path.

    Args:
        name: `blocks.{i}.{site}`; a module path such as `model.layers.9` (its output), `model.layers.9.mlp.input` or
            `model.layers.9.self_attn.o_proj` (its input, `attn.hook_z`); or `hook_embed`, the input of block 0, which
            is scaled where the family scales its embeddings. Of a transcoder: what it reads, a colon, and the site or
            the name of what it predicts.
        n_blocks: depth of the LM; when given, the block index must be below it.
        family: of the LM (`jsaeval.lm.card.LMCard.family`); some names mean different sites in different families.

    Raises:
        InputError: the name is not a hook, or not one of this family; the family decides what it means and is not
            known; the block does not exist; or a transcoder's sites are not in this order.
    """
    read, colon, written = name.partition(":")
    hook = _parse(read, family)
    if colon:
        whole = written.startswith("blocks.") or _HF_BLOCK.match(written) is not None
        target = _parse(written if whole else f"blocks.{hook.block}.{written}", family)
        hook = hook if target == hook else _transcoder(name, hook, target)
    if n_blocks is not None and hook.block >= n_blocks:
        raise InputError(f"hook {name!r}: the LM has blocks 0..{n_blocks - 1}, there is no block {hook.block}")
    return hook


def _transcoder(name: str, read: Hook, written: Hook) -> Hook:
    if read.block != written.block or SITES.index(read.site) > SITES.index(written.site) or written.between_blocks:
        raise InputError(f"hook {name!r}: a transcoder reads a site of one block and predicts a later one inside it")
    return Hook(written.block, written.site, read.site)


def _parse(name: str, family: str | None) -> Hook:
    if match := re.match(r"^blocks\.(\d+)\.(.+)$", name):
        block, site = int(match[1]), match[2]
        if site not in SITES:
            raise InputError(f"hook {name!r}: unknown site {site!r}{nearest(site, SITES)}")
        return Hook(block, site)
    if match := _HF_BLOCK.match(name):
        module = match[2] or ""
        side = match[3] or ("input" if module == "self_attn.o_proj" else "output")
        return Hook(int(match[1]), _site_of(name, name[: match.end(1)], module, side, family))
    if name == "hook_embed":
        if family is None or family in _LEARNED_POSITIONS:
            raise InputError(
                "hook 'hook_embed': embeddings are no site of their own; where no positions are added to them they are "
                "'blocks.0.hook_resid_pre'"
            )
        return Hook(0, "hook_resid_pre")
    raise InputError(f"hook {name!r}: not a hook name; an example is 'blocks.9.hook_resid_post' or 'model.layers.9'")


def _site_of(name: str, block: str, module: str, side: str, family: str | None) -> str:
    """The site at one side of a module of a block whose path is `block`."""
    if family is None and module == "post_attention_layernorm":
        raise InputError(
            f"hook {name!r}: in Gemma 2 and 3 this norm gives out 'hook_attn_out', elsewhere 'mlp.hook_in'; "
            "write the one that is meant as blocks.N.SITE"
        )
    if family is None:
        sites = _HF_SITES | _AFTER_TOO | _BEFORE_ONLY
    else:
        sites = _HF_SITES | (_AFTER_TOO if family in _NORMED_AFTER else _BEFORE_ONLY)
    if (module, side) in sites:
        return sites[module, side]
    if family in _NORMED_AFTER and side == "output" and (module, side) in _BEFORE_ONLY:
        site = _BEFORE_ONLY[module, side]
        raise InputError(f"hook {name!r}: no site in {family}, where a norm follows; after that norm it is {site!r}")
    known = [f"{block}.{own}{'' if at == 'output' else '.input'}" for own, at in sites if own]
    raise InputError(f"hook {name!r}: no site of that name{nearest(name, known)}")
