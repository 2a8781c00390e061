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
    "hook_mlp_out",
    "hook_resid_post",
)

_HF_BLOCK = re.compile(r"^(?:(?:model|transformer|gpt_neox)\.)*(?:layers|h)\.(\d+)(?:\.(.+))?$")
_HF_SITES = {
    None: "hook_resid_post",
    "self_attn": "hook_attn_out",
    "attn": "hook_attn_out",
    "attention": "hook_attn_out",
    "self_attn.o_proj": "attn.hook_z",
    "mlp": "hook_mlp_out",
}


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


def parse_hook(name: str, n_blocks: int | None = None) -> Hook:
    """Parse a TransformerLens hook name or a Hugging Face module path.

    Args:
        name: `blocks.{i}.{site}`, or a module path such as `model.layers.9` (its output) or
            `model.layers.9.self_attn.o_proj` (its input, `attn.hook_z`). Of a transcoder: what it reads, a colon, and
            the site or the name of what it predicts.
        n_blocks: depth of the LM; when given, the block index must be below it.

    Raises:
        InputError: the name is not a hook, the block does not exist, or a transcoder's sites are not in this order.
    """
    read, _, written = name.partition(":")
    hook = _parse(read)
    if written and (target := _parse(written if "." in written else f"blocks.{hook.block}.{written}")) != hook:
        hook = _transcoder(name, hook, target)
    if n_blocks is not None and hook.block >= n_blocks:
        raise InputError(f"hook {name!r}: the LM has blocks 0..{n_blocks - 1}, there is no block {hook.block}")
    return hook


def _transcoder(name: str, read: Hook, written: Hook) -> Hook:
    if read.block != written.block or SITES.index(read.site) > SITES.index(written.site) or written.between_blocks:
        raise InputError(f"hook {name!r}: a transcoder reads a site of one block and predicts a later one inside it")
    return Hook(written.block, written.site, read.site)


def _parse(name: str) -> Hook:
    if match := re.match(r"^blocks\.(\d+)\.(.+)$", name):
        block, site = int(match[1]), match[2]
        if site not in SITES:
            raise InputError(f"hook {name!r}: unknown site {site!r}{nearest(site, SITES)}")
        return Hook(block, site)
    if match := _HF_BLOCK.match(name):
        if match[2] not in _HF_SITES:
            known = [f"{name[: match.end(1)]}.{site}" for site in _HF_SITES if site]
            raise InputError(f"hook {name!r}: no site of that name{nearest(name, known)}")
        return Hook(int(match[1]), _HF_SITES[match[2]])
    raise InputError(f"hook {name!r}: not a hook name; an example is 'blocks.9.hook_resid_post' or 'model.layers.9'")
