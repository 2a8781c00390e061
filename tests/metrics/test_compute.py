"""Metric values from tables: closed forms, the numpy statement of the peers' formulas, and shifts of the mean."""

import numpy as np
import pytest

from jsaeval.forward.sums import BUCKETS
from jsaeval.metrics.compute import Facts, block_values, position_values, scalar_values
from jsaeval.metrics.floors import run_controls
from jsaeval.metrics.registry import REGISTRY
from jsaeval.stats.table import Table
from tests.data import golden_variants


def buckets(per_token):
    return np.stack([per_token[:, a:b].sum(axis=1) for a, b in BUCKETS], axis=-1)


def table_of(x, xhat, mean):
    """The reconstruction columns of rows of activations, in float64."""
    error, dot = ((x - xhat) ** 2).sum(-1), (x * xhat).sum(-1)
    x_sq, out_sq, deviation = (x**2).sum(-1), (xhat**2).sum(-1), x - mean
    rows = {
        "n": buckets(np.ones(x.shape[:2], int)),
        "x_sq": x_sq.sum(1),
        "x_dev_sq": buckets((deviation**2).sum(-1)),
    }
    saes = {
        "sse": buckets(error),
        "xhat_sq": out_sq.sum(1),
        "x_xhat": dot.sum(1),
        "cosine": (dot / np.sqrt(x_sq * out_sq)).sum(1),
        "l2_ratio": np.sqrt(out_sq / x_sq).sum(1),
        "legacy": (error / (deviation**2).sum(-1)).sum(1),
    }
    vectors = {"x_dev": np.stack([deviation[:, a:b].sum((0, 1)) for a, b in BUCKETS])}
    return Table(rows, {name: column[None] for name, column in saes.items()}, vectors, ()).with_variance()


@pytest.mark.parametrize("massive", [True, False])
def test_peers_formulas(massive):
    """Ids whose formula a peer shares give the value of `golden_variants.py` on its fixture."""
    x, xhat = golden_variants.fixture(massive=massive)
    theirs = golden_variants.ev_variants(x, xhat)

    def golden(start):
        (value,) = (v for k, v in theirs.items() if k.startswith(start))
        return value

    table = table_of(x, xhat, x.mean((0, 1)))
    ours = {name: v.value for name, v in scalar_values(table, 0, Facts(8, 0)).items()}
    pairs = {
        "fvu": "fvu_global",
        "explained_variance_uncentred": "ev_uncentred",
        "explained_variance_saebench_0_6": "ev_saebench_0.6",
        "mse": "mse_sum_d",
        "mse_element": "mse_element",
        "cosine": "cossim",
        "l2_ratio": "l2_ratio",
        "relative_bias": "gamma",
    }
    for id, start in pairs.items():
        np.testing.assert_allclose(ours[id], golden(start), rtol=1e-5, err_msg=id)
    np.testing.assert_allclose(ours["explained_variance"], 1 - golden("fvu_global"), rtol=1e-5)
    error, spread = ((x - xhat) ** 2).sum(-1), ((x - x.mean((0, 1))) ** 2).sum(-1)
    np.testing.assert_allclose(ours["explained_variance_legacy"], (1 - error / spread).mean(), rtol=1e-9)


def test_variance_does_not_depend_on_the_fixed_shift():
    """Deviations from any fixed vector give the variance about the mean of the run, in total and by position."""
    x, xhat = golden_variants.fixture()
    x, xhat = (np.concatenate([a] * 6, axis=1)[:, :70] for a in (x, xhat))  # up to the last bucket
    mean = x.mean((0, 1))
    exact, shifted = (table_of(x, xhat, m) for m in (mean, mean + np.linspace(-3, 3, 8)))
    facts = Facts(8, 0)
    for id in ("explained_variance", "fvu"):
        a, b = (scalar_values(t, 0, facts)[id].value for t in (exact, shifted))
        np.testing.assert_allclose(a, b, rtol=1e-12)
    a, b = (position_values(t, 0, facts)["explained_variance"] for t in (exact, shifted))
    assert list(a) == ["0", "1-3", "4-15", "16-63", "64+"]
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-10)
    for (first, last), value in zip(BUCKETS, a.values(), strict=True):
        part, out = x[:, first:last], xhat[:, first:last]
        np.testing.assert_allclose(value, 1 - ((part - out) ** 2).sum() / ((part - mean) ** 2).sum(), rtol=1e-10)


def test_variance_of_the_residual_stream():
    """In total exactly that about the mean of the run, and nearly so in every row; rows have means of their own."""
    rng = np.random.default_rng(0)
    lengths = np.array([0, *rng.integers(20, 40, 11)])
    offset = 20 + rng.standard_normal((12, 2, 3, 1)) * 0.2
    parts = [rng.standard_normal((2, 3, n)) + offset[i] for i, n in enumerate(lengths)]  # (block, width, token)
    rows = {
        "n": lengths[:, None],
        "resid_sq": np.stack([np.square(a).sum((1, 2)) for a in parts]),
        "resid_sum_sq": np.stack([np.square(a.sum(2)).sum(1) for a in parts]),
    }
    table = Table(rows, {}, {"resid": sum(a.sum(2) for a in parts)}, ()).with_variance()
    mean = np.concatenate(parts, axis=2).mean(2, keepdims=True)
    exact = np.stack([np.square(a - mean).sum((1, 2)) for a in parts])
    np.testing.assert_allclose(table.rows["resid_sst"].sum(0), exact.sum(0), rtol=1e-12)
    np.testing.assert_allclose(table.rows["resid_sst"], exact, rtol=0.25, atol=1e-9)


def loss_table(rows=40, seed=0):
    rng = np.random.default_rng(seed)
    n = rng.integers(3, 9, (rows, 5))
    total = n.sum(1)
    base = {
        "n": n,
        "n_ce": total - 1,
        "ce_clean": 3.0 * (total - 1) + rng.standard_normal(rows),
        "ce_zero": 11.0 * (total - 1) + rng.standard_normal(rows),
        "kl_zero": 8.0 * total,
        "resid_sq": rng.uniform(50, 60, (rows, 4)) * total[:, None],
        "resid_sum_sq": 16 * (0.5 * total[:, None] * np.ones(4)) ** 2,
    }
    saes = {
        "ce": base["ce_clean"] + 0.5 * (total - 1),
        "kl": 0.4 * n,
        "top1": total - 2,
        "total_variation": 0.1 * total,
        "l0": 7 * n,
        "l1": 20.0 * total,
        "l1_scaled": 30.0 * total,
        "downstream_sse": np.array([0.0, 0.0, 2.0, 6.0]) * total[:, None],
    }
    vectors = {"resid": np.full((4, 16), 0.5) * total.sum()}
    return Table(base, {k: v[None] for k, v in saes.items()}, vectors, ()).with_variance()


def test_closed_forms():
    table, facts = loss_table(), Facts(16, 2)
    values = scalar_values(table, 0, facts)
    clean = table.rows["ce_clean"].sum() / table.rows["n_ce"].sum()
    zero = table.rows["ce_zero"].sum() / table.rows["n_ce"].sum()
    spread = table.rows["resid_sq"].sum(0) / table.n_tokens - 16 * 0.25
    expected = {
        "ce_clean": clean,
        "ce_spliced": clean + 0.5,
        "ce_increase": 0.5,
        "ce_recovered_zero": (zero - clean - 0.5) / (zero - clean),
        "kl_recovered_zero": 1 - 0.4 / 8,
        "downstream_loss": 0.4,
        "downstream_reconstruction": 4.0,
        "downstream_fvu": (2 / spread[2] + 6 / spread[3]) / 2,
        "total_variation": 0.1,
        "l0": 7,
        "l1": 20,
        "l1_scaled": 30,
    }
    for id, value in expected.items():
        np.testing.assert_allclose(values[id].value, value, rtol=1e-12, err_msg=id)
    # ratios that are the same in every row have intervals of no width; CE_clean has a real one
    np.testing.assert_allclose(values["ce_increase"].ci95, (0.5, 0.5), rtol=1e-9)
    low, high = values["ce_clean"].ci95
    assert low < clean < high and high - low < 0.2
    assert values["l0"].n == table.n_tokens and values["ce_clean"].n == table.rows["n_ce"].sum()
    blocks = block_values(table, 0, facts)
    assert list(blocks["downstream_mse"]) == ["2", "3"]
    np.testing.assert_allclose(list(blocks["downstream_mse"].values()), [2, 6])
    np.testing.assert_allclose(list(blocks["downstream_fvu"].values()), [2 / spread[2], 6 / spread[3]])
    np.testing.assert_allclose(values["downstream_fvu"].value, np.mean(list(blocks["downstream_fvu"].values())))
    of_zero = run_controls(table, 1, facts, 0)
    assert set(of_zero.metrics) == {"zero"} and of_zero.rows == table.n_rows and of_zero.identity_holds()
    np.testing.assert_allclose(of_zero.metrics["zero"]["ce_increase"].value, zero - clean)
    np.testing.assert_allclose(of_zero.metrics["zero"]["downstream_loss"].value, 8)
    assert set(position_values(table, 0, facts)) == {"l0", "downstream_loss"}


def test_a_single_row_has_no_interval():
    assert all(v.ci95 is None for v in scalar_values(loss_table(rows=1), 0, Facts(16, 2)).values())


def test_what_was_not_measured_is_absent():
    values = scalar_values(loss_table(), 0, Facts(16, 2))
    assert "mse" not in values and "alive" not in values


def test_every_declaration_is_complete():
    assert len(REGISTRY) == 43
    for metric in REGISTRY.values():
        assert metric.formula and metric.source and metric.unit and 1 <= metric.tier <= 5
        # everything about x̂, CE, KL and agreement is faithfulness; everything about z alone is interpretability
        of_latents = metric.needs in ("norms", "latents", "probes", "explanations", "ratings")
        assert metric.axis == ("interpretability" if of_latents else "faithfulness")
    assert {m.id for m in REGISTRY.values() if m.unit == "known wrong"} == {"explained_variance_saebench_0_6"}
