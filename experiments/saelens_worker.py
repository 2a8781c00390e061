"""The SAELens side of `compare_saelens.py`, run by the Python of the peer's own environment.

    python saelens_worker.py export GGUF FOLDER      the GGUF file as a float32 Hugging Face folder
    python saelens_worker.py serve FOLDER TOKENS     one JSON request a line in, one JSON answer a line out

A request is {"saes": [folder, ...], "rows": n, "batch": n}; the answer has the seconds that `run_evals` took for each
SAE, with every metric on, and what it found.
"""

import json
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers


def export(gguf: Path, folder: Path) -> None:
    load = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = transformers.AutoModelForCausalLM.from_pretrained(**load, dtype=torch.float32)
    config = transformers.AutoConfig.from_pretrained(**load)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # one that may be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**load).save_pretrained(folder)


def serve(folder: Path, tokens: Path) -> None:
    from sae_lens import SAE, ActivationsStore
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.load_model import load_model
    from sae_lens.training.activation_scaler import ActivationScaler

    rows = np.load(tokens)
    data = datasets.Dataset.from_dict({"input_ids": rows.tolist()})
    model = None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds, found = [], []
        n_batches = request["rows"] // request["batch"]
        for path in request["saes"]:
            sae = SAE.load_from_disk(path, device="cpu")
            if model is None:
                hooks = [sae.cfg.metadata.hook_name]
                kwargs = {"dtype": torch.float32}
                model = load_model("AutoModelForCausalLM", str(folder), "cpu", kwargs, hook_names=hooks)
            store = ActivationsStore.from_sae(
                model, sae, data.select(range(request["rows"])), context_size=rows.shape[1], total_tokens=1
            )
            config = get_eval_everything_config(request["batch"], n_batches, n_batches)
            start = time.perf_counter()
            metrics, _ = run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=False)
            seconds.append(time.perf_counter() - start)
            found.append({name: value for group in metrics.values() for name, value in group.items()})
        print(json.dumps({"seconds": seconds, "metrics": found}), flush=True)


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"export": export, "serve": serve}[command](*map(Path, paths))
