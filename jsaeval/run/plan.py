"""The plan of a run: frozen, comparable, and the same thing on the command line and in a TOML or YAML file."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tomli_w
import tyro
import yaml

from jsaeval.corpus.masks import MaskName
from jsaeval.errors import InputError, nearest, one_line
from jsaeval.forward.batch import GROUPS


@dataclass(frozen=True)
class Plan:
    """Evaluate sparse autoencoders in a language model."""

    lm: str = "smollm2-135m"
    """Language model: a name, a .gguf file, or a Hugging Face model folder."""
    sae: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SAE: a name, a file, a folder, or a quoted pattern ('saes/*'). Repeat for several. Default: the LM's own."""
    hook: str | None = None
    """Hook, e.g. blocks.9.hook_resid_post. Default: the one stored with the SAE."""
    corpus: str = "ag-news"
    """Text: a name; a .txt, .jsonl or .parquet file; a folder of these or of a saved data set; an id on the hub."""
    tokens: str | None = None
    """Token ids in a .npy file (rows, positions) instead of text."""
    rows: int | None = None
    """Number of rows. Default: 16 of a corpus, all of --tokens."""
    context: int = 128
    """Positions of a row made from text."""
    batch: int | None = None
    """Rows at a time. Default: what suits the machine (8 of 128 positions on a CPU). Results do not depend on it."""
    metrics: str = ",".join(GROUPS)
    """Metric groups, separated by commas."""
    metric_mask: MaskName = "no-special"
    """Tokens that enter a mean: all but special tokens and position 0, or all but padding."""
    splice_mask: MaskName | None = None
    """Tokens whose activation is replaced. Default: as --metric-mask."""
    controls: bool = True
    """Compare with ablations, random errors and baseline dictionaries, and check the splice."""
    control_rows: int = 8
    """Leading rows on which the controls run."""
    lm_cache: Annotated[str, tyro.conf.arg(metavar="off|DIR")] = "off"
    """Folder that keeps the LM's side of the run for later SAEs at the same hook."""
    mesh: str | None = None
    """Devices as DATA,MODEL. Default: all on the data axis."""
    processes: Annotated[str, tyro.conf.arg(metavar="auto|off|HOST:PORT,COUNT,INDEX")] = "auto"
    """The other processes of this run: found by what launched it (Cloud TPU, GKE, Slurm, Open MPI), none, or these."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; statistics are float32 or better."""
    precision: Literal["highest", "default"] = "highest"
    """Of matrix products."""
    checkpoint_every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 30.0
    """Seconds between checkpoints of the run. They may take 2 % of the time: where one takes long, they get rarer."""
    resume: bool = False
    """Go on with the run in --out if there is one, else start it."""
    seed: int = 0
    """Of the controls and of the bootstrap."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the results. Default: a fresh one under runs/."""

    def groups(self) -> tuple[str, ...]:
        """The metric groups, checked.

        Raises:
            InputError: one does not exist.
        """
        asked = [name.strip() for name in self.metrics.split(",") if name.strip()]
        for name in asked:
            if name not in GROUPS:
                raise InputError(f"--metrics {name!r}: no such group{nearest(name, GROUPS)}")
        if not asked:
            raise InputError(f"--metrics is empty; known: {', '.join(GROUPS)}")
        return tuple(name for name in GROUPS if name in asked)

    def mesh_shape(self) -> tuple[int | None, int]:
        """(data, model) devices, checked.

        Raises:
            InputError: not two positive numbers.
        """
        if self.mesh is None:
            return None, 1
        parts = self.mesh.split(",")
        if len(parts) > 2 or not all(part.strip().isdigit() and int(part) for part in parts):
            raise InputError(f"--mesh {self.mesh!r}: DATA,MODEL was expected, e.g. 8,1")
        return int(parts[0]), int(parts[1]) if len(parts) == 2 else 1

    def check(self) -> None:
        """Raises InputError where a value cannot be meant, before anything is loaded."""
        for name, least in (("rows", 1), ("batch", 1), ("context", 2), ("control_rows", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
        if not self.checkpoint_every >= 0:
            raise InputError(f"--checkpoint-every {self.checkpoint_every:g}: seconds were expected, 0 or more")
        if self.resume and self.out is None:
            raise InputError("--resume: say which run with --out DIR")
        self.groups()
        self.mesh_shape()

    def identity(self) -> dict[str, Any]:
        """Everything but where files go and how the run is kept; what two runs must share to be the same run."""
        elsewhere = ("out", "lm_cache", "processes", "checkpoint_every", "resume")
        values = dataclasses.asdict(self).items()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values if v is not None and k not in elsewhere}

    def to_toml(self) -> str:
        """`identity` as text."""
        return tomli_w.dumps(self.identity())


def read_config(path: Path) -> dict[str, Any]:
    """Values of `Plan` from a TOML or YAML file; keys may be written with - or _.

    Raises:
        InputError: no such file, not readable, a key that is no flag, or a value of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"--config {path}: no such file") from None
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: {one_line(error)}") from None
    if not isinstance(raw, dict):
        raise InputError(f"--config {path}: a table of flags and values was expected")
    names = [f.name for f in dataclasses.fields(Plan)]
    values = {str(key).replace("-", "_"): value for key, value in raw.items()}
    for key, value in values.items():
        if key not in names:
            raise InputError(f"--config {path}: {key!r} is no flag{nearest(key, names)}")
        if key == "sae":
            value = [value] if isinstance(value, str) else value
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise InputError(f"--config {path}: sae = {value!r}; a string or a list of strings was expected")
            values[key] = tuple(value)
        else:
            _check_value(path, key, value)
    return values


def _check_value(path: Path, key: str, value: Any) -> None:
    hint = get_type_hints(Plan)[key]
    parts = [part for part in get_args(hint) if part is not type(None)] or [hint]
    choices = [name for part in parts for name in get_args(part)] if get_origin(parts[0]) is Literal else parts
    if isinstance(choices[0], str):
        if value not in choices:
            raise InputError(f"--config {path}: {key} = {value!r}; known: {', '.join(choices)}")
    elif type(value) is not choices[0] and not (choices[0] is float and type(value) is int):
        raise InputError(f"--config {path}: {key} = {value!r}; {choices[0].__name__} was expected")
