"""Evaluate sparse autoencoders in JAX: faithfulness and interpretability, with exact names and error bars.

lm = jsaeval.load_lm("smollm2-135m")
sae = jsaeval.load_sae("smollm2-135m")
results = jsaeval.evaluate(lm, [sae], rows=4)
"""

from jsaeval.corpus.tasks import open_tasks
from jsaeval.errors import InputError
from jsaeval.forward.batch import BatchStatistics, batch_statistics
from jsaeval.forward.encode import Norms, encode, norms
from jsaeval.lm.adapters import BlockwiseLM
from jsaeval.lm.card import LMCard
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.lm.protocol import HostLM
from jsaeval.mesh import make_mesh
from jsaeval.metrics.objectives import downstream_loss, downstream_reconstruction, l1, mse
from jsaeval.probes.evaluate import probe
from jsaeval.run.evaluate import Results, evaluate, summarise
from jsaeval.sae.load import load_sae, save_sae
from jsaeval.sae.module import SAE, SAECard


__all__ = [
    "SAE",
    "BatchStatistics",
    "BlockwiseLM",
    "HostLM",
    "InputError",
    "LMCard",
    "Norms",
    "Results",
    "SAECard",
    "batch_statistics",
    "downstream_loss",
    "downstream_reconstruction",
    "encode",
    "evaluate",
    "l1",
    "load_lm",
    "load_sae",
    "load_tokenizer",
    "make_mesh",
    "mse",
    "norms",
    "open_tasks",
    "probe",
    "save_sae",
    "summarise",
]
