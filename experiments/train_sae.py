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
from experiments.training.losses import check
from experiments.training.recipe import BY_COUNT, Architecture, Form, Objective, Recipe
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
    """Language model: a name, a .gguf file, or a Hugging Face model folder."""
    hook: str = "blocks.9.hook_resid_post"
    """Where the SAEs read and write."""
    architecture: Architecture = "topk"
    """Activation, and what makes it sparse."""
    objective: Objective = "local"
    """What the reconstruction is for: x itself, the LM's output, or that and the later blocks (Braun et al. 2024)."""
    form: Form = "paper"
    """Of the objective: as the paper prints it (without the 1/2 of its appendix D), or as its code runs it."""
    beta: float = 1.0
    """Of e2e+ds: weight of the downstream reconstruction."""
    sparsity: tuple[float, ...] | None = None
    """k of topk, batch_topk and matryoshka (default 48); λ of relu, gated and jumprelu. One SAE for each value."""
    width: int = 2304
    """Number of latents."""
    frozen_decoder: bool = False
    """Leave the decoder as it was drawn."""
    tokens: int = 1_500_000
    """Distinct training tokens."""
    steps: int | None = None
    """Default: once over the tokens; with --cached eight times."""
    context: int = 128
    """Positions of a row."""
    batch: int | None = None
    """Rows at a time (default 32), or with --cached tokens (default 1024)."""
    cached: bool = False
    """Collect the activations before, and train on them in random order."""
    lr: float = 7e-4
    """Of Adam."""
    dead_after: int = 200_000
    """A latent is dead when it has not fired for this many tokens."""
    evaluations: int = 4
    """How often to evaluate on 32 held-out rows."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    resume: bool = False
    """Go on with the training in --out, if there is one."""
    seed: int = 0
    """Of the weights, and of the order of the batches."""

    def recipe(self) -> Recipe:
        """What to train.

        Raises:
            InputError: λ is missing, or a value makes no sense.
        """
        for name in ("width", "tokens", "batch", "steps", "checkpoint_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")
        if self.sparsity is None and self.architecture not in BY_COUNT:
            hint = "0.001 0.003 0.01" if self.architecture == "jumprelu" else "a few powers of 2"
            raise InputError(
                f"--sparsity is missing: λ of {self.architecture}; try {hint}, and look at the L0 in the log"
            )
        if self.cached and self.objective != "local":
            raise InputError(f"--cached with --objective {self.objective}: it needs the LM, which --cached leaves out")
        return Recipe(
            architecture=self.architecture,
            objective=self.objective,
            sparsity=self.sparsity or (48,),
            width=self.width,
            form=self.form,
            beta=self.beta,
            frozen_decoder=self.frozen_decoder,
            seed=self.seed,
        )


def main(config: Config) -> None:
    keep_programs()
    recipe = config.recipe()
    lm, text = jsaeval.load_lm(config.lm), split(PROSE if config.lm == "smollm2-135m" else MORE_PROSE)
    hook = parse_hook(config.hook, lm.n_blocks)
    check(recipe, hook, lm.n_blocks)
    if not 2 <= config.context <= (lm.card.context or config.context):
        raise InputError(f"--context {config.context}: between 2 and the LM's {lm.card.context} is needed")
    if config.cached:
        batch = config.batch or 1024
        source = activation_source(lm, hook, text.train, config.tokens, config.context, batch, config.seed)
    else:
        source = token_source(lm, text.train, config.tokens, config.context, config.batch or 32, config.seed)
    steps = config.steps or source.size // source.batch * (8 if config.cached else 1)
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
    trained = train(lm, hook, job)
    names = ", ".join(f"{name}.safetensors" for name in job.names())
    print(f"{config.out}: {names}, the same for SAELens in saelens/, curves.svg ({trained.seconds:.0f} s)")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        print(f"train_sae: {error}", file=sys.stderr)
        sys.exit(2)
