"""What commands share that add a section to a report: flags, their LM, SAEs and text, and how they end when stopped."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jax.sharding import Mesh

from jsaeval.corpus.masks import MaskName, Masks, make_masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.lm.protocol import HostLM
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.mesh import make_mesh
from jsaeval.report.progress import Progress
from jsaeval.run.checkpoint import Stopped
from jsaeval.run.evaluate import open_rows
from jsaeval.run.plan import Plan
from jsaeval.run.provenance import about_lm
from jsaeval.run.saes import find_saes, saes_at_one_hook, shipped
from jsaeval.run.section_folder import SectionFolder
from jsaeval.sae.module import SAE


_ROWS = 256


@dataclass(frozen=True)
class OverLM:
    """Flags of commands that look at SAEs at one hook of an LM."""

    lm: str = "smollm2-135m"
    """Language model: a name, a .gguf file, or a Hugging Face model folder."""
    sae: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SAE: a name, a file, a folder, or a quoted pattern. Repeat for several at one hook. Default: the LM's own."""
    hook: str | None = None
    """Hook, e.g. blocks.9.hook_resid_post. Default: the one stored with the SAE."""
    mesh: str | None = None
    """Devices as DATA,MODEL. Default: all on the data axis."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations."""
    precision: Literal["highest", "default"] = "highest"
    """Of matrix products."""

    def saes(self) -> tuple[tuple[str, ...], list[str]]:
        """What `load_sae` takes of each SAE, and notes on what was left out.

        Raises:
            InputError: there is none, or the LM has none of its own.
        """
        return find_saes(self.sae or shipped(self.lm))


@dataclass(frozen=True)
class OverText(OverLM):
    """Flags of commands that also read text."""

    corpus: str = "ag-news"
    """Name, file, folder, or data set of the hub."""
    tokens: Annotated[str | None, tyro.conf.arg(metavar="FILE.npy")] = None
    """Token ids (row, position) instead of text."""
    rows: int | None = None
    """Rows of text. Default: 256, or all of --tokens."""
    context: int = 128
    """Positions of a row."""
    metric_mask: MaskName = "no-special"
    """Which tokens count."""

    def text(self, lm: HostLM) -> tuple[Rows, Masks]:
        """The rows and their masks.

        Raises:
            InputError: the text cannot be read, or does not fit the LM.
        """
        n_rows = _ROWS if self.rows is None and self.tokens is None else self.rows
        rows = open_rows(lm, self.corpus, self.tokens, n_rows, self.context)
        return rows, make_masks(np.asarray(rows.tokens), card_of(lm).special_ids, rows.pad, self.metric_mask)

    def about_text(self, rows: Rows) -> dict[str, Any]:
        """Which text it was, as reports say it."""
        shape = {"corpus": rows.name, "rows": len(rows.tokens), "positions": rows.tokens.shape[1]}
        return shape | {"metric_mask": self.metric_mask, "corpus_sha256": rows.sha256()}


def opened(
    command: OverLM, names: Sequence[str], notes: Sequence[str], folder: SectionFolder, progress: Progress
) -> tuple[Mesh, HostLM, list[SAE], Hook]:
    """The devices, the LM, SAEs that all read one hook, as the run in the folder calls them, and the hook.

    Args:
        command: the flags.
        names: what `load_sae` takes.
        notes: on what was left out.
        folder: for the section.
        progress: told what goes on.

    Raises:
        InputError: something cannot be loaded or does not fit, or the folder is that of another LM or other SAEs.
    """
    for note in notes:
        progress.say(note)
    progress.say(f"loading {command.lm}")
    mesh = make_mesh(*Plan(mesh=command.mesh).mesh_shape())
    lm = load_lm(command.lm, command.dtype, mesh)
    saes, hook = saes_at_one_hook(names, command.hook, command.dtype, lm)
    folder.check_same(about_lm(lm), [(sae.card.sha256, hook.name) for sae in saes])
    return mesh, lm, [sae.renamed(folder.name_of(sae.card.sha256, hook.name)) for sae in saes], hook


def tokenizer_of(lm: HostLM) -> TextTokenizer | None:
    """That of the LM, if it has one."""
    try:
        return load_tokenizer(lm)
    except InputError:
        return None


def stopped(stop: BaseException, folder: SectionFolder) -> int:
    """Say how to go on after SIGTERM (`Stopped`) or Ctrl-C; returns the exit code."""
    said = "stopped" if isinstance(stop, Stopped) else "interrupted"
    print(f"jsaeval: {said}; add --resume --out {folder.path} to go on", file=sys.stderr)
    return 143 if isinstance(stop, Stopped) else 130
