"""In a notebook, treescope (Penzai's viewer) shows models and SAEs as they are: shapes, cards, places, no weights."""

import treescope

import jsaeval
from jsaeval.mesh import make_mesh, place
from tests.tiny import tiny_sae


def test_text_has_the_shapes_and_the_card(lm):
    text = treescope.render_to_text(lm)
    for fact in ("Decoder(", "qkv=<jax.Array float32(3, 16, 2, 4, 6)", "n_kv_heads=2", "LMCard(name='tiny'"):
        assert fact in text
    text = treescope.render_to_text(tiny_sae("topk"))
    for fact in ("SAE(", "W_enc=<jax.Array float32(16, 40)", "activation='topk'", "k=5", "hook='blocks.1.hook_resid"):
        assert fact in text


def test_pictures_say_how_weights_are_split(lm):
    with treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer()):
        split = treescope.render_to_html(place(lm, make_mesh(2, 2)), compressed=False)
        whole = treescope.render_to_html(lm, compressed=False)
    assert "Sharded across 4 CPU devices" in split and "Replicated across 4 CPU devices" in split
    assert "Sharded across" not in whole


def test_a_page_is_much_smaller_than_the_weights():
    lm = jsaeval.load_lm("tiny")
    with treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer()):
        page = treescope.render_to_html(lm)
    assert len(page) < 200_000 < lm.embedding.nbytes
    assert len(treescope.render_to_text(lm)) < 10_000
