"""Train SAEs of one or more sparsities on a language model, all at once.

    python -m experiments.train_sae --out runs/sae --lm tiny --hook blocks.1.hook_resid_post \\
        --architecture topk --sparsity 8 16 32 --width 768 --tokens 2000000

The LM's pass is shared by all of them. The text is disjoint from the default evaluation corpus and from the held-out
documents that the periodic evaluation uses (`experiments.training.text`). Objectives are those of Braun et al. 2024,
see `experiments.training.losses`. `--cached` collects the activations first and goes over them several times in random
order, which suits a large LM on a small machine; local objective only.

SmolLM2-135M, eight times over the activations of 1.5 M tokens:

    python -m experiments.train_sae --out runs/smollm2 --cached
"""

import dataclasses
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro

import jsaeval
from experiments.training.data import activation_source, token_source
from experiments.training.recipe import Architecture, Form, Objective, Recipe
from experiments.training.step import Training
from experiments.training.text import MORE_PROSE, PROSE, split
from experiments.training.trainer import Job, train
from jsaeval.cache import keep_programs
from jsaeval.corpus.rows import text_rows
from jsaeval.errors import InputError
from jsaeval.hooks import parse_hook
from jsaeval.lm.load import load_tokenizer


@dataclasses.dataclass(frozen=True)
class Config:
    """Train SAEs."""

    out: Path
    """Folder for the SAEs, the log and the checkpoint."""
    lm: str = "smollm2-135m"
    hook: str = "blocks.9.hook_resid_post"
    architecture: Architecture = "topk"
    objective: Objective = "local"
    form: Form = "paper"
    """Of the objective: as the paper prints it, or as its code runs it."""
    beta: float = 1.0
    """Of e2e+ds: weight of the downstream reconstruction."""
    sparsity: tuple[float, ...] = (48,)
    """k of topk, batch_topk and matryoshka; the penalty's coefficient of relu, gated and jumprelu."""
    width: int = 2304
    frozen_decoder: bool = False
    """Leave the decoder as it was drawn."""
    tokens: int = 1_500_000
    """Distinct training tokens."""
    steps: int | None = None
    """Default: once over the tokens; with --cached eight times."""
    context: int = 128
    batch: int | None = None
    """Rows at a time (default 32), or with --cached tokens (default 1024)."""
    cached: bool = False
    """Collect the activations before, and train on them in random order."""
    lr: float = 7e-4
    dead_after: int = 200_000
    """A latent is dead when it has not fired for this many tokens."""
    evaluations: int = 4
    """How often to evaluate on 32 held-out rows."""
    checkpoint_every: int = 500
    resume: bool = False
    """Go on with the training in --out, if there is one."""
    seed: int = 0


def main(config: Config) -> None:
    keep_programs()
    lm, text = jsaeval.load_lm(config.lm), split(PROSE if config.lm == "smollm2-135m" else MORE_PROSE)
    hook = parse_hook(config.hook, lm.n_blocks)
    if config.cached:
        if config.objective != "local":
            raise InputError(
                f"--cached with --objective {config.objective}: it needs the LM, which --cached leaves out"
            )
        batch = config.batch or 1024
        source = activation_source(lm, hook, text.train, config.tokens, config.context, batch, config.seed)
    else:
        source = token_source(lm, text.train, config.tokens, config.context, config.batch or 32, config.seed)
    steps = config.steps or source.size // source.batch * (8 if config.cached else 1)
    recipe = Recipe(
        architecture=config.architecture,
        objective=config.objective,
        sparsity=config.sparsity,
        width=config.width,
        form=config.form,
        beta=config.beta,
        frozen_decoder=config.frozen_decoder,
        seed=config.seed,
    )
    job = Job(
        out=config.out,
        recipes=(recipe,),
        training=Training(steps=steps, lr=config.lr, dead_after=config.dead_after),
        source=source,
        test=np.asarray(text_rows(text.held_out, load_tokenizer(lm), 32, config.context).tokens),
        checkpoint_every=config.checkpoint_every,
        evaluations=config.evaluations,
        command=shlex.join(["python", "-m", "experiments.train_sae", *sys.argv[1:]]),
        resume=config.resume,
    )
    for saes in train(lm, hook, job):
        for sae in saes:
            print(f"saved {config.out / sae.card.name}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        print(f"train_sae: {error}", file=sys.stderr)
        sys.exit(2)
