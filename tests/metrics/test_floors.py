"""Controls in numbers: paired differences, metrics that need a control, and the identity check. Closed forms."""

import numpy as np
import pytest

from jsaeval.forward.controls import control_names
from jsaeval.metrics.compute import Facts
from jsaeval.metrics.floors import IDENTITY_LIMIT, run_controls, sae_controls
from jsaeval.stats.bootstrap import row_counts
from jsaeval.stats.table import Table


N_SAES, ROWS, FACTS = 2, 8, Facts(4, 1)
STREAMS = N_SAES + len(control_names(N_SAES))


@pytest.fixture
def table():
    """Sums of a loss-only run; stream i has a KL of about i + 1 nats a token, but identity has none."""
    rng = np.random.default_rng(0)
    n = rng.integers(3, 9, (ROWS, 5))
    total = n.sum(axis=1)
    kl = np.arange(1.0, STREAMS + 1)[:, None, None] * n * rng.uniform(0.8, 1.2, (ROWS, 5))
    ce = kl.sum(axis=-1) + 2.0 * total
    identity = N_SAES + control_names(N_SAES).index(("identity", -1))
    kl[identity], ce[identity] = 0.0, 2.0 * total
    rows = {"n": n, "n_ce": total, "ce_clean": 2.0 * total, "ce_zero": 50.0 * total, "kl_zero": 48.0 * total}
    return Table(rows, {"kl": kl, "ce": ce, "top1": total * np.ones((STREAMS, 1))}, {}, ())


def stream(name, owner):
    return N_SAES + control_names(N_SAES).index((name, owner))


def mean_kl(table, i):
    return table.saes["kl"][i].sum() / table.n_tokens


@pytest.mark.parametrize("sae", [0, 1])
def test_each_sae_is_compared_with_its_own_controls(table, sae):
    got = sae_controls(table, sae, N_SAES, FACTS, seed=3)
    assert set(got.floors) == {"random_error", "random_sae", "permuted_decoder", "pca"}
    counts = row_counts(ROWS, 3)
    for name, floor in got.floors.items():
        theirs = stream(name, sae)
        np.testing.assert_allclose(floor.metrics["downstream_loss"].value, mean_kl(table, theirs))
        difference = floor.difference["downstream_loss"]
        np.testing.assert_allclose(difference.value, mean_kl(table, sae) - mean_kl(table, theirs))
        per_row = (table.saes["kl"][sae] - table.saes["kl"][theirs]).sum(axis=-1)
        paired = counts @ per_row / (counts @ table.rows["n"].sum(axis=-1))
        np.testing.assert_allclose(difference.ci95, np.quantile(paired, [0.025, 0.975]))
        assert "ce_clean" not in floor.difference  # the same on both sides
    expected = mean_kl(table, sae) / mean_kl(table, stream("random_error", sae))
    np.testing.assert_allclose(got.compared["kl_vs_random_error"].value, expected)
    mean, own = (table.saes["ce"][i].sum() for i in (stream("mean", -1), sae))
    clean = table.rows["ce_clean"].sum()
    np.testing.assert_allclose(got.compared["ce_recovered_mean"].value, (mean - own) / (mean - clean))
    assert not set(got.compared) & set(got.on_control_rows)


def test_a_paired_difference_is_narrower_than_its_sides(table):
    got = sae_controls(table, 0, N_SAES, FACTS, seed=0)
    floor = got.floors["pca"]

    def width(value):
        return value.ci95[1] - value.ci95[0]

    # Rows are easy or hard for both sides alike, so most of the spread between rows cancels.
    assert width(floor.difference["ce_spliced"]) < width(floor.metrics["ce_spliced"])


def test_controls_of_the_run(table):
    got = run_controls(table, N_SAES, FACTS, seed=0)
    assert set(got.metrics) == {"zero", "mean", "identity"} and (got.rows, got.n) == (ROWS, table.n_tokens)
    np.testing.assert_allclose(got.metrics["zero"]["downstream_loss"].value, 48.0)
    np.testing.assert_allclose(got.metrics["zero"]["ce_increase"].value, 48.0)
    np.testing.assert_allclose(got.metrics["mean"]["downstream_loss"].value, mean_kl(table, stream("mean", -1)))
    assert got.identity_holds()


@pytest.mark.parametrize(("column", "size"), [("kl", 2.0), ("ce", 2.0), ("ce", -2.0)])
def test_a_broken_splice_is_found(table, column, size):
    share = size * IDENTITY_LIMIT / table.saes[column].shape[-1] ** (column == "kl")
    broken = table.saes[column][stream("identity", -1)]
    broken += (
        share * (table.rows["n"].sum(axis=-1) if column == "ce" else table.rows["n"]) * (5 if column == "kl" else 1)
    )
    assert not run_controls(table, N_SAES, FACTS, seed=0).identity_holds()


def test_a_run_without_controls_has_zero_ablation_only(table):
    plain = Table(table.rows, {name: column[:N_SAES] for name, column in table.saes.items()}, {}, ())
    assert set(run_controls(plain, N_SAES, FACTS, seed=0).metrics) == {"zero"}
