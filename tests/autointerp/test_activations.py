"""The table of activations against the plain way: every token through the LM and `jsaeval.encode`, in numpy."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsaeval.autointerp import activations
from jsaeval.autointerp.activations import sparse_activations
from jsaeval.autointerp.sparse import Entries
from jsaeval.autointerp.store import Store
from jsaeval.corpus.masks import make_masks
from jsaeval.corpus.rows import Rows
from jsaeval.errors import InputError
from jsaeval.forward.encode import encode
from jsaeval.forward.splice import prefix, read_at_hook
from jsaeval.hooks import parse_hook
from jsaeval.lm.card import LMCard
from jsaeval.lm.protocol import no_tap
from jsaeval.mesh import make_mesh
from tests.tiny import HOOK, tiny_sae


TRANSCODER = "blocks.1.hook_resid_mid:hook_mlp_out"


@pytest.fixture(scope="module")
def rows():
    """Seven rows of 20 tokens; the last row is padded, and some have an EOS inside."""
    tokens = np.random.default_rng(0).integers(2, 50, (7, 20)).astype(np.int32)
    tokens[:, 0], tokens[-1, 12:] = 1, 0
    return Rows("test", tokens, None, 0)


@pytest.fixture(scope="module")
def masks(rows):
    return make_masks(rows.tokens, (0, 1, 2), 0)


class Table(eqx.Module):
    """A host without blocks: a token is its embedding. It compiles fast, and its weights have a hash."""

    embedding: jax.Array
    card: LMCard = eqx.field(static=True, default=LMCard("table", sha256="aa"))
    n_blocks: int = eqx.field(static=True, default=3)
    d_model: int = eqx.field(static=True, default=16)
    vocab: int = eqx.field(static=True, default=50)

    def __init__(self, scale=1.0):
        self.embedding = scale * jax.random.normal(jax.random.key(0), (50, 16))

    @property
    def unembedding(self):
        return self.embedding

    def embed(self, tokens):
        return self.embedding[tokens]

    def run(self, residual, start, stop, tap=no_tap, state=None):
        return residual, state

    def final(self, residual):
        return residual


def plainly(lm, sae, hook, rows, masks):
    """z of every token, 0 where it does not count."""
    read = jax.jit(lambda lm, tokens: read_at_hook(lm, hook, prefix(lm, hook, tokens))[0])(lm, rows.tokens)
    return np.where(masks.metric[..., None], np.asarray(encode(sae, read)), 0.0)


@pytest.fixture(scope="module")
def dictionaries(lm, rows, masks):
    """SAEs, and the plain way to z of each."""
    saes = [tiny_sae("topk"), tiny_sae("gated", d_sae=37)]
    return saes, [plainly(lm, sae, parse_hook(HOOK), rows, masks) for sae in saes]


def check(table, z, latents):
    scale = np.abs(z).max()
    assert table.latents.tolist() == list(latents) and table.value.dtype == np.float32
    for latent in latents:
        own, (row, position) = table.of(latent), np.nonzero(z[..., latent])
        assert (own.row.tolist(), own.position.tolist()) == (row.tolist(), position.tolist())
        np.testing.assert_allclose(own.value, z[row, position, latent], atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("mesh", "batch"),
    [((2, 3), 3), *(pytest.param(*own, marks=pytest.mark.slow) for own in (((1, 1), 2), ((8, 1), 5)))],
)
def test_the_table_holds_what_is_not_zero(mesh, batch, lm, rows, masks, dictionaries):
    saes, plain = dictionaries
    some, hook = np.array([3, 20, 36], np.int32), parse_hook(HOOK)
    tables = sparse_activations(lm, saes, hook, rows, masks, [None, some], mesh=make_mesh(*mesh), batch=batch)
    for z, table, latents in zip(plain, tables, [range(40), some], strict=True):
        check(table, z, latents)
        assert table.n_tokens == masks.metric.sum() < rows.tokens.size
        np.testing.assert_array_equal(table.fires, (z != 0).sum(axis=(0, 1))[list(latents)])


@pytest.mark.parametrize(("devices", "batch"), [(1, 3), (8, 5)])
def test_batches_and_devices_change_nothing(devices, batch, rows, masks):
    lm, sae, hook = Table(), tiny_sae(), parse_hook(HOOK)
    (table,) = sparse_activations(lm, [sae], hook, rows, masks, mesh=make_mesh(devices), batch=batch)
    check(table, plainly(lm, sae, hook, rows, masks), range(40))


def test_slots_double_until_all_fit(rows, masks, monkeypatch):
    lm, sae, hook, compiled = Table(), tiny_sae(), parse_hook(HOOK), set()
    monkeypatch.setattr(activations, "_EXPECTED_L0", 1)  # 20 slots; a row has more than a hundred
    counted = activations.firing

    def spy(z, mask, chosen, capacity):
        compiled.add(capacity)
        return counted(z, mask, chosen, capacity)

    monkeypatch.setattr(activations, "firing", spy)
    (table,) = sparse_activations(lm, [sae], hook, rows, masks, mesh=make_mesh(1), batch=3)
    z = plainly(lm, sae, hook, rows, masks)
    check(table, z, range(40))
    assert min(compiled) == 20 < (z != 0).sum(axis=(1, 2)).max() <= max(compiled) and 2 <= len(compiled) <= 3
    assert all(capacity % 20 == 0 and (capacity // 20).bit_count() == 1 for capacity in compiled)


def test_a_transcoder_reads_what_it_reads(lm, rows, masks):
    sae, hook = tiny_sae(d_out=16, hook="blocks.1.hook_resid_mid"), parse_hook(TRANSCODER)
    (table,) = sparse_activations(lm, [sae], hook, rows, masks, mesh=make_mesh(2), batch=4)
    check(table, plainly(lm, sae, hook, rows, masks), range(40))


def test_nothing_is_computed_twice(rows, masks, tmp_path, monkeypatch):
    lm, hook, asked, whole = Table(), parse_hook(HOOK), [], activations._parts

    def spy(lm, hook, saes, chosen, *others):
        """One pass is real; of others it is enough to know what they are asked."""
        asked.append([(sae.card.name, int(own.sum())) for sae, own in zip(saes, chosen, strict=True)])
        if len(asked) == 1:
            return whole(lm, hook, saes, chosen, *others)
        nothing = np.zeros(0, np.int32)
        return [[Entries(nothing, nothing, nothing, np.zeros(0, np.float32)) for _ in saes]]

    monkeypatch.setattr(activations, "_parts", spy)

    def again(*saes, masks=masks, latents=None):
        n = len(asked)
        own = sparse_activations(
            lm, saes, hook, rows, masks, latents, mesh=make_mesh(1), batch=2, cache=tmp_path / "cache"
        )
        return own, asked[n:]

    (first,), made = again(tiny_sae())
    assert made == [[("tiny-relu", 40)]] and len(first.value)
    (same,), made = again(tiny_sae())
    assert not made and all(np.array_equal(getattr(same, name), own) for name, own in vars(first).items())
    other = tiny_sae(seed=2).renamed("other")
    assert again(tiny_sae(), other)[1] == [[("other", 40)]]
    assert not again(tiny_sae(), other)[1]
    assert again(tiny_sae(), masks=masks._replace(metric=masks.valid))[1] == [[("tiny-relu", 40)]]
    assert again(tiny_sae(), latents=[np.array([1])])[1] == [[("tiny-relu", 1)]]
    assert again(tiny_sae("jumprelu"))[1] == [[("tiny-jumprelu", 40)]]
    # Another decoder fires at the same tokens.
    sae = tiny_sae()
    assert not again(dataclasses.replace(sae, W_dec=2 * sae.W_dec, b_dec=3 * sae.b_dec))[1]


def test_a_stopped_pass_goes_on(rows, masks, tmp_path):
    lm, hook, saes, done = Table(), parse_hook(HOOK), [tiny_sae(), tiny_sae("topk")], []

    def stop():
        if len(done) == 2:
            raise KeyboardInterrupt

    def go(stop):
        done.clear()
        return sparse_activations(
            *(lm, saes, hook, rows, masks),
            **{"mesh": make_mesh(1), "batch": 2, "cache": tmp_path, "stop": stop},
            progress=lambda stage, tokens, total: done.append(tokens),
        )

    with pytest.raises(KeyboardInterrupt):
        go(stop)
    tables = go(lambda: None)
    assert sum(done) == 3 * 20  # four rows of seven were done
    for sae, table in zip(saes, tables, strict=True):
        check(table, plainly(lm, sae, hook, rows, masks), range(40))
    assert len(list(tmp_path.iterdir())) == 2  # a table each, no parts


def test_harmed_files_are_made_again_and_the_oldest_go(rows, masks, tmp_path):
    lm, hook, done = Table(), parse_hook(HOOK), []

    def go():
        done.clear()
        return sparse_activations(
            *(lm, [tiny_sae()], hook, rows, masks),
            **{"mesh": make_mesh(1), "batch": 4, "cache": tmp_path},
            progress=lambda stage, tokens, total: done.append(tokens),
        )

    (expected,) = go()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    with np.load(path) as arrays:
        partial = {name: arrays[name] for name in arrays.files if name != "offsets"}
    np.savez(tmp_path / "partial.npz", **partial)
    for harmed in (whole[:100], (tmp_path / "partial.npz").read_bytes()):
        path.write_bytes(harmed)
        np.testing.assert_array_equal(go()[0].value, expected.value)
        assert done
    # A part that ends where it starts would be read for ever.
    broken = Store(tmp_path / "broken")
    entries = Entries(*(np.zeros(0, np.int32) for _ in range(3)), np.zeros(0, np.float32))
    broken.add_part("k", 0, 4, [entries])
    broken.add_part("k", 4, 4, [entries])
    assert broken.parts("k", 1)[0] == 4 and len(broken.parts("k", 1)[1]) == 1
    store = Store(tmp_path / "small", limit=2 * len(whole))
    for key in "abc":
        store.save(key, expected)
    assert store.load("a") is None and store.load("c") is not None


def test_bad_input(rows, masks, tmp_path):
    lm, hook = Table(), parse_hook(HOOK)
    with pytest.raises(InputError, match="latents 3 to 40, but it has 40"):
        sparse_activations(lm, [tiny_sae()], hook, rows, masks, [np.array([3, 40])])
    with pytest.raises(InputError, match="NaN or Inf at"):
        sparse_activations(Table(jnp.nan), [tiny_sae()], hook, rows, masks, mesh=make_mesh(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists and is not a folder"):
        sparse_activations(lm, [tiny_sae()], hook, rows, masks, cache=tmp_path / "file")
    (table,) = sparse_activations(lm, [tiny_sae()], hook, rows, masks, [np.array([3, 5])], mesh=make_mesh(1))
    with pytest.raises(InputError, match="latent 4: the table holds 2 latents"):
        table.of(4)
