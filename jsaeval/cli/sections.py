"""What commands share that add a section to a report: their LM and SAEs, and how they end when they are stopped."""

import sys
from collections.abc import Sequence

from jax.sharding import Mesh

from jsaeval.errors import InputError
from jsaeval.hooks import Hook
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.lm.protocol import HostLM
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.mesh import make_mesh
from jsaeval.report.progress import Progress
from jsaeval.run.checkpoint import Stopped
from jsaeval.run.plan import Plan
from jsaeval.run.provenance import about_lm
from jsaeval.run.saes import saes_at_one_hook
from jsaeval.run.section_folder import SectionFolder
from jsaeval.sae.module import SAE


def opened(
    lm_name: str,
    names: Sequence[str],
    notes: Sequence[str],
    asked: tuple[str | None, str, str | None],
    folder: SectionFolder,
    progress: Progress,
) -> tuple[Mesh, HostLM, list[SAE], Hook]:
    """The devices, the LM, SAEs that all read one hook, as the run in the folder calls them, and the hook.

    Args:
        lm_name: what `load_lm` takes.
        names: what `load_sae` takes.
        notes: on what was left out.
        asked: `--hook`, `--dtype` and `--mesh`.
        folder: for the section.
        progress: told what goes on.

    Raises:
        InputError: something cannot be loaded or does not fit, or the folder is that of another LM or other SAEs.
    """
    hook_name, dtype, devices = asked
    for note in notes:
        progress.say(note)
    progress.say(f"loading {lm_name}")
    mesh = make_mesh(*Plan(mesh=devices).mesh_shape())
    lm = load_lm(lm_name, dtype, mesh)
    saes, hook = saes_at_one_hook(names, hook_name, dtype, lm)
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
