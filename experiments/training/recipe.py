"""What to train: architecture, objective and sparsity of SAEs that share everything else."""

import math
from dataclasses import dataclass
from typing import Literal

from jsaeval.errors import InputError


Architecture = Literal["relu", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"]
Objective = Literal["local", "e2e", "e2e+ds"]
# Braun et al. 2024 print one thing and run another; see `experiments.training.losses`.
Form = Literal["paper", "code"]

BY_COUNT = ("topk", "batch_topk", "matryoshka")


@dataclass(frozen=True)
class Recipe:
    """SAEs of one architecture, trained with one objective, one for each value of `sparsity`.

    Attributes:
        architecture: relu with an L1 penalty; topk (Gao et al. 2024, arXiv 2406.04093); batch_topk (Bussmann et al.
            2024, arXiv 2412.06410); jumprelu (Rajamanoharan et al. 2024, arXiv 2407.14435); gated (the same, arXiv
            2404.16014); matryoshka, which is batch_topk with nested dictionaries (Bussmann et al. 2025, arXiv
            2503.17547).
        objective: what the reconstruction is for (Braun et al. 2024, arXiv 2405.12241).
        sparsity: k, for those that count active latents; else the coefficient λ of the penalty.
        width: number of latents.
        form: of the objective.
        beta: of e2e+ds.
        frozen_decoder: leave the decoder as it was drawn (Korznikov et al. 2026, arXiv 2602.14111).
        seed: of the weights.
    """

    architecture: Architecture = "topk"
    objective: Objective = "local"
    sparsity: tuple[float, ...] = (32,)
    width: int = 1024
    form: Form = "paper"
    beta: float = 1.0
    frozen_decoder: bool = False
    seed: int = 0

    def __post_init__(self):
        if not self.sparsity:
            raise InputError("no sparsity given: k, or the coefficient of the penalty")
        if len(set(self.sparsity)) < len(self.sparsity):
            raise InputError(f"sparsity {self.sparsity}: a value is there twice")
        for value in self.sparsity:
            if not math.isfinite(value):
                raise InputError(f"sparsity {value}: a finite number was expected")
            if self.counted and (value != int(value) or not 1 <= value <= self.width):
                raise InputError(f"sparsity {value:g}: {self.architecture} counts latents, 1..{self.width} of them")
            if not self.counted and value < 0:
                raise InputError(f"sparsity {value:g}: the coefficient of a penalty is not negative")

    @property
    def counted(self) -> bool:
        """Whether sparsity is a number of latents."""
        return self.architecture in BY_COUNT

    def names(self) -> tuple[str, ...]:
        """One for each SAE, fit for a file name."""
        rest = (".frozen-decoder" if self.frozen_decoder else "") + (f".seed-{self.seed}" if self.seed else "")
        return tuple(f"{self.architecture}-{value:g}.{self.objective}{rest}" for value in self.sparsity)
