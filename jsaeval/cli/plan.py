"""`jsaeval plan`: what a run would need on a machine that is not here."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jsaeval.cli.files import check_file, write_json
from jsaeval.errors import InputError
from jsaeval.forward.batch import GROUPS
from jsaeval.hooks import Hook, parse_hook
from jsaeval.lm.shapes import shape_of
from jsaeval.report.sizing import show_sizing, sizing
from jsaeval.run.engine import CONTROLLED
from jsaeval.run.plan import Plan
from jsaeval.sizing.compiled import compiler_is_installed
from jsaeval.sizing.machines import machine
from jsaeval.sizing.step import Job
from jsaeval.sizing.suggest import checked, suggest


@dataclass(frozen=True)
class Sizing:
    """What a run would need on a TPU slice or GPUs: memory, FLOPs, time. Nothing but shapes is needed."""

    topology: str
    """Machine: v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, h100:8, ..."""
    lm: str = "smollm2-135m"
    """Language model: a known name (gemma-2-2b, gemma-2-27b, llama-3.1-8b, ...), or a config.json or its folder."""
    hook: str | None = None
    """Hook of the SAEs. Default: the residual stream after the middle block, which costs as much as all on average."""
    saes: int = 1
    """SAEs that share the pass."""
    width: int = 16_384
    """Latents of each."""
    k: int | None = None
    """Active latents of TopK SAEs. Default: JumpReLU SAEs."""
    tokens: int = 1_000_000
    """Tokens to evaluate."""
    context: int = 128
    """Positions of a row."""
    batch: int | None = None
    """Rows at a time. Default: what fits, up to 4,096 tokens for each share of the data axis."""
    mesh: str | None = None
    """Devices as DATA,MODEL. Default: the fastest that fits."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; statistics are float32 or better."""
    precision: Literal["highest", "default"] = "highest"
    """Of matrix products."""
    metrics: str = ",".join(GROUPS)
    """Metric groups, separated by commas."""
    controls: bool = True
    """Make room for the controls on the leading rows, as `run` has them."""
    compile: bool = True
    """Ask the TPU compiler, too, where libtpu is installed. Minutes for a large LM."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file for the numbers."""


def size(command: Sizing) -> int:
    """Print what is needed; returns the exit code.

    Raises:
        InputError: a flag that cannot be meant, or nothing fits, and what would.
    """
    # What `run` has, too, is checked as there.
    same = Plan(mesh=command.mesh, metrics=command.metrics, batch=command.batch, context=command.context)
    same.check()
    for name in ("saes", "width", "k", "tokens"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: at least 1 is needed")
    if command.k is not None and command.k > command.width:
        raise InputError(f"--k {command.k}: an SAE of {command.width} latents has not so many; give --width")
    if command.tokens > 10**15 or (command.batch or 1) * command.context * max(command.saes, 8) >= 2**31:
        raise InputError("--tokens, --batch: larger than can be meant")
    if command.out is not None:
        check_file("--out", command.out)
    place, lm = machine(command.topology), shape_of(command.lm)
    groups = same.groups()
    if command.context > lm.context:
        raise InputError(f"--context {command.context}: the LM's context is {lm.context}")
    job = Job(
        lm=lm,
        hook=Hook(lm.n_blocks // 2, "hook_resid_post")
        if command.hook is None
        else parse_hook(command.hook, lm.n_blocks, lm.family),
        saes=command.saes,
        width=command.width,
        k=command.k,
        context=command.context,
        dtype=command.dtype,
        precision=command.precision,
        groups=groups,
        controls=command.controls and bool(CONTROLLED & set(groups)),
    )
    mesh = None if command.mesh is None else same.mesh_shape()
    compiles = command.compile and place.is_tpu and compiler_is_installed()
    if compiles:
        print("jsaeval: asking the TPU compiler", file=sys.stderr)
        found, compiled = checked(job, place, mesh, command.batch)
    else:
        found, compiled = suggest(job, place, mesh, command.batch), None
    flags = f"--lm {command.lm} --sae SAES" + ("" if command.hook is None else f" --hook {job.hook.name}")
    flags += "" if command.metrics == Sizing.metrics else f" --metrics {command.metrics}"
    flags += "" if command.controls else " --no-controls"
    made = sizing(command.lm, flags, found, compiled, command.tokens)
    show_sizing(made, Console(width=None if sys.stdout.isatty() else 120))
    if command.out is not None:
        write_json(command.out, made)
    return 0
