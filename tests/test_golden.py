"""The real LM against numbers of an independent implementation, through the command line (tests/data/README.md)."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.cli import main
from jsaeval.lm.load import load_lm
from jsaeval.sae.load import save_sae
from jsaeval.sae.module import SAE, SAECard


DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())
KINDS = ("relu", "topk", "jumprelu")


def dictionary(layer: int, kind: str) -> SAE:
    arrays = {name: jnp.asarray(array) for name, array in np.load(DATA / f"dict_L{layer}.npz").items()}
    w, b_dec, b_enc = arrays["W_dec"], arrays["b_dec"], arrays["b_enc"]
    return SAE(
        W_enc=w.T,
        b_enc=b_enc if kind == "relu" else jnp.zeros_like(b_enc),
        W_dec=w,
        b_dec=b_dec,
        b_pre=b_dec,
        threshold=arrays["threshold"] if kind == "jumprelu" else None,
        activation=kind,
        k=32 if kind == "topk" else None,
        card=SAECard(kind, f"blocks.{layer}.hook_resid_post", "smollm2-135m"),
    )


@pytest.fixture(scope="module", params=[6, 18])
def run(request, tmp_path_factory):
    """Three dictionaries at one hook, written as SAELens folders and run with both masks `all`."""
    layer, folder = request.param, tmp_path_factory.mktemp("golden")
    flags = ["run", "--tokens", str(DATA / GOLDEN["tokens"]), "--metric-mask", "all", "--splice-mask", "all"]
    flags += ["--no-controls"]
    for kind in KINDS:
        save_sae(dictionary(layer, kind), folder / kind, format="saelens")
        flags += ["--sae", str(folder / kind)]
    assert main([*flags, "--mesh", "1,1", "--out", str(folder / "out")]) == 0
    return layer, json.loads((folder / "out" / "report.json").read_text())


NAMES = {
    "l0": "l0",
    "l1": "l1",
    "mse_sum": "mse",
    "mse_element": "mse_element",
    "ev_global": "explained_variance",
    "ev_legacy": "explained_variance_legacy",
    "cossim": "cosine",
    "l2_ratio": "l2_ratio",
    "gamma": "relative_bias",
    "kl": "downstream_loss",
    "ce_sae": "ce_spliced",
}


def test_every_golden_number(run):
    layer, report = run
    assert report["masks"]["metric_tokens"] == report["masks"]["spliced_tokens"] == 512
    zero = {id: m["value"] for id, m in report["controls"]["zero"]["metrics"].items()}
    for kind, sae in zip(KINDS, report["saes"], strict=True):
        golden = GOLDEN["cases"][f"L{layer}_{kind}"]
        metrics = {name: m["value"] for name, m in sae["metrics"].items()}
        for name, id in NAMES.items():
            np.testing.assert_allclose(metrics[id], golden[name], rtol=1e-4, err_msg=f"{kind} {name}")
        np.testing.assert_allclose(metrics["ce_clean"], GOLDEN["ce_clean"], rtol=1e-4)
        np.testing.assert_allclose(metrics["alive"] * sae["d_sae"], golden["alive"])
        np.testing.assert_allclose(
            [zero["downstream_loss"], zero["ce_spliced"]], [golden["kl_zero"], golden["ce_zero"]], rtol=1e-4
        )
        for name, curve in (("dr_mse_sum_by_layer", "downstream_mse"), ("dr_fvu_by_layer", "downstream_fvu")):
            assert list(sae["by_block"][curve]) == list(golden[name])
            np.testing.assert_allclose(
                list(sae["by_block"][curve].values()), list(golden[name].values()), rtol=1e-4, err_msg=name
            )
        by_block = golden["dr_mse_sum_by_layer"].values()
        np.testing.assert_allclose(metrics["downstream_reconstruction"], np.mean(list(by_block)), rtol=1e-4)


def test_clean_pass():
    lm, tokens = load_lm("smollm2-135m"), jnp.asarray(np.load(DATA / GOLDEN["tokens"]))

    def norms(site, block, activation, state):
        if site == "hook_resid_post":
            state = state.at[block].set(jnp.linalg.norm(activation, axis=-1).mean())
        return activation, state

    residual, seen = lm.run(lm.embed(tokens), 0, lm.n_blocks, norms, jnp.zeros(lm.n_blocks))
    np.testing.assert_allclose(seen, GOLDEN["resid_norm_by_layer"], rtol=1e-4)
    logits = jnp.einsum("btd,vd->btv", lm.final(residual), lm.unembedding)
    probe = GOLDEN["clean_logit_probe"]
    assert logits[:, -1].argmax(-1).tolist() == probe["argmax_last"]
    top = logits.max(-1, keepdims=True)
    lse = jnp.log(jnp.exp(logits - top).sum(-1)) + top[..., 0]
    np.testing.assert_allclose(lse.mean(), probe["logsumexp_mean"], rtol=1e-5)
