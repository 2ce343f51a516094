"""What people paste where a source is asked for."""

import pytest

from backend.recipes import custom_recipe, typed_lora, understood

REPO = "https://huggingface.co/lmsys/vicuna-13b-delta-v1.1"


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        (f"git clone {REPO}", REPO),
        (f"  $ git lfs clone {REPO}.git ", REPO),
        (f"GIT_LFS_SKIP_SMUDGE=0 git clone --depth 1 -b main {REPO} ./there", REPO),
        ("git clone git@hf.co:lmsys/vicuna-13b-delta-v1.1", REPO),
        ("huggingface.co/lmsys/vicuna-13b-delta-v1.1", REPO),
        ("!huggingface-cli download --resume-download a/b --local-dir ./x/y --token hf_secret", "a/b"),
        ("HF_ENDPOINT=https://hf-mirror.com hf download a/b model.safetensors --revision v1", "a/b@v1"),
        ("modelscope download --model a/b --local_dir c/d", "modelscope:a/b"),
        ("modelscope download a/b --revision=master", "modelscope:a/b@master"),
        ("/data/my models/7B", "/data/my models/7B"),
        ("/data/it's mine", "/data/it's mine"),
        ("a/b@main", "a/b@main"),
        ("rm -rf /", "rm -rf /"),
        ("git clone", "git clone"),
        ("x " * 4000, ("x " * 4000).strip()),
        ("", ""),
    ],
)
def test_only_the_place_is_taken_over(pasted: str, meant: str) -> None:
    assert understood(pasted) == meant
    assert understood(meant) == meant


def test_it_is_understood_in_every_field() -> None:
    recipe = custom_recipe("x", base=f"git clone {REPO}", delta="hf download a/b", loras=["hf download c/d", "e/f:0.5"])
    assert [part.source for part in recipe.parts] == [REPO, "a/b", "c/d", "e/f"]
    assert recipe.with_sources(base="hf download g/h").base.source == "g/h"
    assert typed_lora(REPO).scale is None
