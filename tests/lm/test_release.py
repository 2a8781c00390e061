"""Names of language models, as people write them."""

import pytest

from jsaeval.lm.release import differ, release_of


# Each line has names of one release.
SAME = (
    ("gemma-2b", "google/gemma-2b", "gemma-2b-it"),
    ("gemma-2-2b", "google/gemma-2-2b", "gemma-2-2b-it", "/models/gemma2-2b/", "unsloth/gemma-2-2b-bnb-4bit"),
    ("google/gemma-3-270m", "gemma-3-270m", "gemma-3-270m-it", "files/gemma-3-270m-Q4_K_M.gguf"),
    ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m", "SmolLM2-135M-Instruct", "smollm2_135m.gguf"),
    ("HuggingFaceTB/SmolLM-135M", "smollm-135m"),
    ("gpt2", "gpt2-small", "openai-community/gpt2", "models--openai-community--gpt2/snapshots/607a30d783df"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("pythia-70m-deduped", "EleutherAI/pythia-70m", "pythia-70m-v0"),
    ("pythia-1b",),
    ("meta-llama/Meta-Llama-3-8B", "Llama-3-8B-Instruct", "llama3-8b"),
    ("meta-llama/Llama-3.1-8B", "Meta-Llama-3.1-8B-Instruct", "~/.cache/models--meta-llama--Llama-3.1-8B/snapshots/ab"),
    ("Qwen/Qwen3-8B-Base", "qwen3-8b"),
    ("Qwen/Qwen2.5-7B-Instruct",),
    ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
)
UNKNOWN = ("", "LM", "tiny", "lm", "model.gguf", "gemma-2-2b/checkpoint-100", "google/gemma-1.1-2b-it", "codegemma-2b")
UNKNOWN += ("TinyLlama-1.1B", "open_llama_3b", "DeepSeek-R1-Distill-Llama-8B", "DeepSeek-R1-Distill-Qwen-1.5B")
UNKNOWN += ("openai/gpt-oss-20b", "distilgpt2", "gpt2-1.5b", "gpt2large", "gpt2-10k-steps")


def test_names_of_one_release():
    for names in SAME:
        assert None not in map(release_of, names), names
        assert not any(differ(names[0], other) for other in names), names
    firsts = [names[0] for names in SAME]
    assert all(differ(one, other) for one in firsts for other in firsts if one != other)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_name_that_is_not_understood_differs_from_none(name):
    assert release_of(name) is None and not any(differ(name, names[0]) for names in SAME)
