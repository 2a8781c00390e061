"""Run by the Python of SAEBench's environment: its own core evaluation, and what its loaders make of our files.

python saebench_reference.py core LM TOKENS CASES     result files of SAEBench; see `core`
python saebench_reference.py read FOLDER OUT          what it reads from FOLDER/{core,sparse_probing}, and its plots
"""

import json
import sys
from pathlib import Path


# SAEBench asks for torchvision and never imports it. transformers does where it can, and a build of it for CUDA breaks
# beside a torch for the CPU.
sys.modules["torchvision"] = None

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402
from sae_bench.evals.core import main as core_eval  # noqa: E402
from sae_bench.evals.core.eval_config import CoreEvalConfig  # noqa: E402
from sae_bench.evals.core.eval_output import CoreEvalOutput  # noqa: E402
from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput  # noqa: E402
from sae_bench.sae_bench_utils import general_utils, graphing_utils  # noqa: E402
from sae_lens import SAE  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights  # noqa: E402


OUTPUTS = {"core": CoreEvalOutput, "sparse_probing": SparseProbingEvalOutput}
COMPUTED = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
COMPUTED += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
SPECIAL = {0, 1, 2}


def hooked(folder: Path) -> HookedTransformer:
    """A Llama folder in TransformerLens, as it is, by TransformerLens's own conversion."""
    llama = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    own = llama.config
    config = HookedTransformerConfig(
        n_layers=own.num_hidden_layers,
        d_model=own.hidden_size,
        n_ctx=own.max_position_embeddings,
        d_head=own.head_dim,
        n_heads=own.num_attention_heads,
        n_key_value_heads=own.num_key_value_heads,
        d_mlp=own.intermediate_size,
        d_vocab=own.vocab_size,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        eps=own.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=own.head_dim,
        rotary_base=own.rope_parameters["rope_theta"],
        final_rms=True,
        dtype=torch.float32,
        device="cpu",
    )
    model = HookedTransformer(config)
    model.load_state_dict(convert_llama_weights(llama, config), strict=False)
    return model


class Store:
    """The part of SAELens's store of activations that the evaluation uses: rows of tokens, from the first again."""

    def __init__(self, rows: np.ndarray):
        self.rows, self.context_size, self.next = torch.from_numpy(rows).long(), rows.shape[1], 0

    def get_batch_tokens(self, n: int) -> torch.Tensor:
        self.next += n
        return self.rows[self.next - n : self.next]

    def reset_input_dataset(self) -> None:
        self.next = 0


def core(lm: str, tokens: str, cases: str) -> None:
    """CASES: a JSON list of {"sae": a SAELens folder, "rows": how many, "batch": rows at a time, "exclude": whether
    special tokens keep their activation, "out": file}."""
    model, all_rows = hooked(Path(lm)), np.load(tokens)
    for case in json.loads(Path(cases).read_text()):
        rows = all_rows[: case["rows"]]
        name, sae, _ = general_utils.load_and_format_sae("tiny", SAE.load_from_disk(case["sae"], device="cpu"), "cpu")
        n_batches = len(rows) // case["batch"]
        config = CoreEvalConfig(
            model_name="tiny",
            batch_size_prompts=case["batch"],
            n_eval_reconstruction_batches=n_batches,
            n_eval_sparsity_variance_batches=n_batches,
            exclude_special_tokens_from_reconstruction=case["exclude"],
            **{f"compute_{name}": True for name in COMPUTED},
        )
        with torch.no_grad():
            metrics, features = core_eval.run_evals(sae, Store(rows), model, config, ignore_tokens=SPECIAL)
            metrics["misc_metrics"] = core_eval.calculate_misc_metrics(features)
        found = {"metrics": metrics, "feature_metrics": features, "eval_cfg": config, "sae_id": name, "sae_set": "tiny"}
        found = core_eval.replace_nans_with_negative_one(found)
        core_eval.save_single_eval_result(found, "none", "none", "none", case["out"], sae)


def read(folder: str, out: str) -> None:
    matplotlib.use("Agg")
    found = {}
    for kind, output in OUTPUTS.items():
        for path in sorted(Path(folder, kind).iterdir()):
            made = TypeAdapter(output).validate_json(path.read_text(), strict=True)
            found[f"{kind}/{path.name}"] = json.loads(made.to_json())
    measured, probed = (graphing_utils.find_eval_results_files([str(Path(folder, kind))]) for kind in OUTPUTS)
    found |= {"eval": graphing_utils.get_eval_results(probed), "core": graphing_utils.get_core_results(measured)}
    graphing_utils.plot_results(probed, measured, "sparse_probing", str(Path(out).parent / "plot"), k=1)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"core": core, "read": read}[command](*arguments)
