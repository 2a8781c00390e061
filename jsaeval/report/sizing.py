"""What `jsaeval plan` says: tables for the terminal, and a dictionary for `--out`.

{"schema": 1, "lm", "hook", "context", "dtype", "precision", "machine", "chips",
 "saes": {"count", "width", "kind"}, "mesh": {"data", "model"}, "batch": rows, "flags": of `jsaeval run`,
 "bytes_per_chip": {kind: bytes}, "bytes_per_chip_with_controls": the same on the leading rows, or null,
 "usable_bytes", "memory_of_chip",
 "compiler": {"arguments", "working", "collectives", "gathered"}  (bytes per chip; if it was asked),
 "parts": {part: {"flops_per_token", "sent_per_token"}},
 "collectives": [{"part", "kind", "axis", "bytes_per_step"}],
 "intensity", "balance", "seconds_per_step": {what limits: s}, "limit",
 "tokens_per_step", "tokens_per_s", "tokens", "hours", "chip_hours"}
"""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jsaeval.forward.batch import PREFIX, SAES
from jsaeval.forward.downstream import HEAD, SUFFIX
from jsaeval.report.numbers import number
from jsaeval.run.folder import SCHEMA
from jsaeval.sizing.compiled import Compiled
from jsaeval.sizing.estimate import USABLE, Estimate


_PARTS = {PREFIX: "blocks before the hook", SUFFIX: "blocks after it", HEAD: "head", SAES: "SAEs", "": "the rest"}


def sizing(lm: str, flags: str, found: Estimate, compiled: Compiled | None, tokens: int) -> dict[str, Any]:
    """The dictionary of `--out`.

    Args:
        lm: its name.
        flags: of `jsaeval run`, but for those that follow from `found`.
        found: what was suggested.
        compiled: what the TPU compiler said of it, if it was asked.
        tokens: to evaluate.
    """
    job, chip = found.job, found.machine.chip
    flops, sent = found.flops_per_token(), found.sent()
    kind = "JumpReLU" if job.k is None else f"TopK-{job.k}"
    parts = {
        part: {
            "flops_per_token": flops.get(scope, 0.0),
            "sent_per_token": sum(v for (own, _, _), v in sent.items() if own == scope) / found.tokens_per_shard,
        }
        for scope, part in _PARTS.items()
    }
    made: dict[str, Any] = {"schema": SCHEMA, "lm": lm, "hook": job.hook.name, "context": job.context}
    made |= {
        "dtype": job.dtype,
        "precision": job.precision,
        "machine": found.machine.name,
        "chips": found.machine.chips,
    }
    made |= {"saes": {"count": job.saes, "width": job.width, "kind": kind}}
    made |= {
        "mesh": {"data": found.data, "model": found.model},
        "batch": found.rows,
        "flags": f"{flags} {_flags(found)}",
    }
    made |= {"bytes_per_chip": found.memory, "bytes_per_chip_with_controls": found.control_memory}
    made |= {"usable_bytes": chip.memory * USABLE, "memory_of_chip": chip.memory}
    if compiled is not None:
        made["compiler"] = {"arguments": compiled.arguments, "working": compiled.working}
        made["compiler"] |= {"collectives": compiled.collectives, "gathered": list(compiled.gathered)}
    made |= {"parts": parts, "collectives": _collectives(found)}
    made |= {"intensity": found.intensity, "balance": found.balance}
    made |= {"seconds_per_step": found.seconds, "limit": found.limit, "tokens_per_step": found.tokens_per_step}
    made |= {"tokens_per_s": found.tokens_per_s, "tokens": tokens, "hours": found.hours(tokens)}
    return made | {"chip_hours": found.hours(tokens) * found.machine.chips}


def _flags(found: Estimate) -> str:
    """Flags of `jsaeval run`."""
    job = found.job
    flags = f"--mesh {found.data},{found.model} --batch {found.rows} --context {job.context}"
    flags += "" if job.dtype == "float32" else f" --dtype {job.dtype}"
    return flags if job.precision == "highest" else f"{flags} --precision {job.precision}"


def _collectives(found: Estimate) -> list[dict[str, Any]]:
    ordered = sorted(found.sent().items(), key=lambda item: -item[1])
    return [
        {"part": _PARTS[scope], "kind": kind, "axis": axis, "bytes_per_step": size}
        for (scope, kind, axis), size in ordered
    ]


def show_sizing(made: dict[str, Any], console: Console) -> None:
    """Print what `sizing` made."""
    saes, mesh, say = made["saes"], made["mesh"], console.print
    say(
        f"[bold]{escape(made['lm'])}[/bold] with {saes['count']} {saes['kind']} SAE{'s' * (saes['count'] > 1)} of "
        f"{saes['width']:,} latents at {made['hook']}, rows of {made['context']:,}, {made['dtype']}, on "
        f"[bold]{made['machine']}[/bold] ({made['chips']} chip{'s' * (made['chips'] > 1)})",
        soft_wrap=True,
    )
    say(escape(f"suggested: jsaeval run {made['flags']}\n"), soft_wrap=True)
    _show_memory(made, console)
    table = _table("part", "GFLOP per token", "sent per token and chip")
    for part, own in made["parts"].items():
        table.add_row(part, number(own["flops_per_token"] / 1e9), _bytes(own["sent_per_token"]))
    totals = (sum(own[key] for own in made["parts"].values()) for key in ("flops_per_token", "sent_per_token"))
    flops, sent = totals
    table.add_row("all", number(flops / 1e9), _bytes(sent))
    say(table)
    if made["collectives"]:
        say()
        table = _table("collective", "axis", "part", "sent per step and chip")
        for own in made["collectives"]:
            table.add_row(own["kind"], own["axis"], own["part"], _bytes(own["bytes_per_step"]))
        say(table)
    if mesh["model"] > 1:
        say(
            "What a chip sends per token is the residual stream, two sums a block and stream, whatever the vocabulary "
            "and the latents; of them only counts and sums move."
        )
    times = ", ".join(f"{name} {1000 * s:,.1f} ms" for name, s in made["seconds_per_step"].items())
    say(f"\nA step of {made['tokens_per_step']:,} tokens, at peak rates: {times}; the limit is {made['limit']}.")
    say(
        f"Arithmetic intensity {made['intensity']:,.0f} FLOP per byte of memory traffic; from {made['balance']:,.0f} "
        f"on, computing would take longer than reading in {made['dtype']} at precision {made['precision']}."
    )
    say(
        f"At best {made['tokens_per_s']:,.0f} tokens/s; {made['tokens']:,} tokens take {_duration(made['hours'])}, "
        f"{number(made['chip_hours'])} chip-hours. Real runs are slower: nobody reaches peak rates, and loading, "
        "compiling and the time for controls are not in this."
    )


def _show_memory(made: dict[str, Any], console: Console) -> None:
    most, leading = made["bytes_per_chip"], made["bytes_per_chip_with_controls"]
    passes = [most] if leading is None else [most, leading]
    table = _table(
        "memory per chip", "" if leading is None else "most rows", *["first rows, with controls"][: len(passes) - 1]
    )
    for kind in passes[-1]:
        table.add_row(kind, *[_bytes(own[kind]) if kind in own else "" for own in passes])
    table.add_row("all", *[_bytes(sum(own.values())) for own in passes])
    console.print(table)
    console.print(
        f"A chip has {_bytes(made['memory_of_chip'])}, of which {_bytes(made['usable_bytes'])} are used at most."
    )
    if "compiler" not in made:
        console.print("Counted from the program, without a compiler.\n")
        return
    said = made["compiler"]
    found = ", ".join(f"{n} {kind}" for kind, n in said["collectives"].items()) or "none"
    console.print(
        f"The TPU compiler accepts it: {_bytes(said['arguments'])} of weights and batch and {_bytes(said['working'])} "
        f"of working memory per chip; collectives in the program: {found}.\n"
    )


def _table(*columns: str) -> RichTable:
    table = RichTable(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        counted = name in ("", "GFLOP per token", "most rows") or name.startswith(("sent", "first rows"))
        table.add_column(name, justify="right" if counted else "left", no_wrap=True)
    return table


def _bytes(size: int | float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.2f} {unit}"
    return f"{size:,.0f} B"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"
