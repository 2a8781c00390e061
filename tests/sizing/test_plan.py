"""`jsaeval plan` on the command line."""

import json
import os
import sys

import pytest

import jsaeval.cli.plan as cli_plan
import jsaeval.report.sizing as report_sizing
from jsaeval.cli import main


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A folder with the configuration of a decoder and nothing else."""
    monkeypatch.chdir(tmp_path)
    shape = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 128, "vocab_size": 1000, "model_type": "anything", "tie_word_embeddings": True}
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text(json.dumps(shape))
    return tmp_path


def test_a_plan_from_a_config_alone(config, capsys):
    words = ["plan", "--topology", "v5e:2x4", "--lm", "lm", "--saes", "3", "--width", "256", "--tokens", "1000000"]
    assert main([*words, "--mesh", "4,2", "--batch", "8", "--out", "plan.json", "--no-compile"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for line in (
        "lm with 3 JumpReLU SAEs of 256 latents at blocks.2.hook_resid_post",
        "suggested: jsaeval run --lm lm --sae SAES --mesh 4,2 --batch 8 --context 128",
        "first rows, with controls",
        "Counted from the program, without a compiler.",
        "memory per chip",
        "sent per token and chip",
        "Arithmetic intensity",
        "chip-hours",
    ):
        assert line in printed, line
    made = json.loads((config / "plan.json").read_text())
    assert all(f'"{key}"' in report_sizing.__doc__ for key in made)
    assert made["mesh"] == {"data": 4, "model": 2} and made["chips"] == 8 and made["batch"] == 8
    assert made["tokens_per_step"] == 8 * 128
    assert made["limit"] == max(made["seconds_per_step"], key=made["seconds_per_step"].get)
    assert made["tokens_per_s"] == pytest.approx(1024 / max(made["seconds_per_step"].values()))
    steps = 977  # of 1,024 tokens, for a million
    assert made["chip_hours"] == pytest.approx(8 * steps * max(made["seconds_per_step"].values()) / 3600)
    assert 0 < sum(made["bytes_per_chip"].values()) < made["usable_bytes"]
    moved = sum(own["bytes_per_step"] for own in made["collectives"])
    assert moved == pytest.approx(2 * 128 * sum(part["sent_per_token"] for part in made["parts"].values()))


def test_without_a_compiler_it_says_so(config, capsys, monkeypatch):
    monkeypatch.setattr(cli_plan, "compiler_is_installed", lambda: False)
    assert main(["plan", "--topology", "v5e:2x4", "--lm", "lm", "--width", "64"]) == 0
    assert "without a compiler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--topology"),
        (["--topology", "v7:4x4"], "no such chip"),
        (["--topology", "v5e:4x4", "--lm", "gemma-2-3b"], "did you mean 'gemma-2-"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--hook", "blocks.9.hook_resid_post"], "there is no block 9"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--mesh", "3,2"], "16 chips; 16,1, 8,2, 4,4, 2,8, 1,16 would do"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--mesh", "a"], "DATA,MODEL was expected"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--k", "64", "--width", "32"], "has not so many"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--saes", "0"], "at least 1 is needed"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--metrics", "normes"], "did you mean 'norms'"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--context", "9000"], "the LM's context is 8192"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--out", "no/plan.json"], "there is no folder no"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--out", "lm"], "the name of a file was expected"),
        (["--topology", "v5e:4x4", "--lm", "lm", "--batch", "1000000000"], "larger than can be meant"),
        (["--topology", "v5e:4x4", "--lm", "bad.json"], "not the configuration of a decoder"),
        (["--topology", "v5e:4x4", "--lm", "moe.json"], "not a plain decoder (num_local_experts)"),
        (["--topology", "v5e:4x4", "--lm", "huge.json"], "not the configuration of a decoder"),
        (["--topology", "v5e:4x4", "--lm", "text.json"], "cannot be read as JSON"),
        (["--topology", "v5e:2x2", "--lm", "llama-3.1-70b"], "would fit: --topology v5e:"),
    ],
)
def test_bad_input_gets_one_line(config, capsys, flags, line):
    shape = json.loads((config / "lm" / "config.json").read_text())
    (config / "bad.json").write_text('{"num_hidden_layers": 3}')
    (config / "moe.json").write_text(json.dumps(shape | {"num_local_experts": 8}))
    (config / "huge.json").write_text(json.dumps(shape | {"vocab_size": float("inf")}))
    (config / "text.json").write_text("no JSON")
    assert main(["plan", *flags]) == 2
    printed, complaint = capsys.readouterr()
    assert line in complaint and complaint.count("\n") == 1 and not printed


def test_the_environment_is_left_alone(config):
    before = dict(os.environ)
    assert main(["plan", "--topology", "v5e:2x4", "--lm", "lm", "--width", "64", "--no-compile"]) == 0
    assert dict(os.environ) == before and "libtpu" not in sys.modules
