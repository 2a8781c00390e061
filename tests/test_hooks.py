import pytest

from jsaeval.errors import InputError
from jsaeval.hooks import SITES, Hook, parse_hook


@pytest.mark.parametrize("site", SITES)
def test_every_site_parses_and_prints(site):
    hook = parse_hook(f"blocks.4.{site}", n_blocks=5)
    assert hook == Hook(4, site)
    assert parse_hook(hook.name) == hook


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("model.layers.9", "blocks.9.hook_resid_post"),
        ("layers.9", "blocks.9.hook_resid_post"),
        ("gpt_neox.layers.3.mlp", "blocks.3.hook_mlp_out"),
        ("transformer.h.0.attn", "blocks.0.hook_attn_out"),
        ("model.layers.2.self_attn.o_proj", "blocks.2.attn.hook_z"),
        ("model.layers.2.self_attn.o_proj.input", "blocks.2.attn.hook_z"),
        ("model.layers.2.self_attn.o_proj.output", "blocks.2.hook_attn_out"),
        ("model.layers.9.output", "blocks.9.hook_resid_post"),
        ("model.layers.9.input", "blocks.9.hook_resid_pre"),
        ("model.layers.9.mlp.input", "blocks.9.mlp.hook_in"),
        ("model.layers.9.mlp.down_proj.input", "blocks.9.mlp.hook_post"),
        ("model.language_model.layers.9.pre_feedforward_layernorm.output", "blocks.9.mlp.hook_in"),
        ("model.layers.9.post_feedforward_layernorm.output", "blocks.9.hook_mlp_out"),
        ("transformer.h.1.ln_2.output", "blocks.1.mlp.hook_in"),
    ],
)
def test_module_paths_are_translated(path, name):
    assert parse_hook(path).name == name


def test_transcoders_name_what_they_read_and_what_they_predict():
    hook = parse_hook("blocks.4.hook_resid_mid:hook_mlp_out", n_blocks=5)
    assert hook == Hook(4, "hook_mlp_out", reads="hook_resid_mid") and hook.at(2).block == 2
    assert hook.prefix_stop == 4 and not hook.whole_residual and not hook.between_blocks
    assert parse_hook(hook.name) == hook == parse_hook("blocks.4.hook_resid_mid:blocks.4.hook_mlp_out")
    assert parse_hook("blocks.4.hook_mlp_out:hook_mlp_out") == Hook(4, "hook_mlp_out")
    assert parse_hook("model.layers.4.mlp.input:model.layers.4.mlp") == Hook(4, "hook_mlp_out", "mlp.hook_in")
    for i, written in enumerate(SITES[1:-1], 1):
        for read in SITES[:i]:
            assert parse_hook(Hook(4, written, read).name) == Hook(4, written, read)


@pytest.mark.parametrize(
    ("path", "family", "name"),
    [
        ("model.layers.2.post_attention_layernorm.output", "llama", "blocks.2.mlp.hook_in"),
        ("model.layers.2.post_attention_layernorm.output", "gemma", "blocks.2.mlp.hook_in"),
        ("model.layers.2.post_attention_layernorm", "gemma2", "blocks.2.hook_attn_out"),
        ("model.layers.2.post_attention_layernorm.input", "qwen3", "blocks.2.hook_resid_mid"),
        ("model.layers.2.pre_feedforward_layernorm.input", "gemma3", "blocks.2.hook_resid_mid"),
        ("hook_embed", "gemma2", "blocks.0.hook_resid_pre"),
    ],
)
def test_names_that_need_the_family(path, family, name):
    assert parse_hook(path, family=family).name == name


@pytest.mark.parametrize(
    ("path", "family", "words"),
    [
        ("model.layers.2.post_attention_layernorm.output", None, "'hook_attn_out', elsewhere 'mlp.hook_in'"),
        ("model.layers.2.post_attention_layernorm.input", "gemma2", "no site of that name"),
        ("model.layers.2.mlp", "gemma3", "after that norm it is 'hook_mlp_out'"),
        ("model.layers.2.pre_feedforward_layernorm.output", "llama", "no site of that name"),
        ("hook_embed", None, "they are 'blocks.0.hook_resid_pre'"),
        ("hook_embed", "gpt2", "they are 'blocks.0.hook_resid_pre'"),
    ],
)
def test_names_that_a_family_does_not_have(path, family, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        parse_hook(path, family=family)


def test_what_runs_before_the_hook():
    assert parse_hook("blocks.4.hook_resid_post").prefix_stop == 5
    assert parse_hook("blocks.4.hook_resid_pre").prefix_stop == 4
    assert parse_hook("blocks.4.hook_mlp_out").prefix_stop == 4
    assert parse_hook("blocks.4.hook_resid_pre").between_blocks
    assert not parse_hook("blocks.4.hook_resid_mid").between_blocks
    assert parse_hook("blocks.4.hook_resid_mid").whole_residual


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blocks.30.hook_resid_post", "blocks 0..29"),
        ("blocks.3.hook_resid_pst", "did you mean 'hook_resid_post'"),
        ("model.layers.3.self_atn", "did you mean 'model.layers.3.self_attn'"),
        ("resid_post_9", "an example is"),
        ("blocks.3.hook_mlp_out:hook_resid_mid", "a transcoder reads a site of one block and predicts a later one"),
        ("blocks.3.hook_resid_mid:blocks.4.hook_mlp_out", "a transcoder reads"),
        ("blocks.3.hook_resid_mid:hook_resid_post", "a transcoder reads"),
        ("blocks.3.hook_resid_mid:", "not a hook name"),
        ("blocks.3.hook_resid_mid:hook_mlp", "did you mean 'hook_mlp_out'"),
    ],
)
def test_bad_names_say_what_would_work(name, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        parse_hook(name, n_blocks=30)
