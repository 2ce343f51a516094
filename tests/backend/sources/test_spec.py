"""What people write and paste, and what it means."""

import pytest

from backend.errors import SourceError
from backend.sources.spec import Local, Repository, WebFile, parse

SUM = "ab" * 32


@pytest.mark.parametrize(("text", "meaning"), [
    ("huggyllama/llama-7b", Repository("hf", "huggyllama/llama-7b")),
    (" lmsys/vicuna-7b-delta-v1.1@main ", Repository("hf", "lmsys/vicuna-7b-delta-v1.1", "main")),
    ("hf:a/b@refs/pr/1", Repository("hf", "a/b", "refs/pr/1")),
    ("modelscope:a/b.c@v1", Repository("modelscope", "a/b.c", "v1")),
    ("https://huggingface.co/a/b", Repository("hf", "a/b", None, "https://huggingface.co")),
    ("https://hf.co/a/b/", Repository("hf", "a/b", None, "https://huggingface.co")),
    ("https://huggingface.co/a/b/tree/main", Repository("hf", "a/b", "main", "https://huggingface.co")),
    ("https://hf-mirror.com/a/b/tree/v1/7B?x=1#y", Repository("hf", "a/b", "v1", "https://hf-mirror.com", "7B")),
    ("https://huggingface.co/a/b/blob/refs%2Fpr%2F2/w.bin",
     Repository("hf", "a/b", "refs/pr/2", "https://huggingface.co")),
    ("https://huggingface.co/a/b/resolve/main/x/lora.zip?download=true",
     Repository("hf", "a/b", "main", "https://huggingface.co", "x", "lora.zip")),
    ("https://modelscope.cn/models/a/b", Repository("modelscope", "a/b", None, "https://www.modelscope.cn")),
    ("https://www.modelscope.cn/models/a/b/files?revision=v2",
     Repository("modelscope", "a/b", "v2", "https://www.modelscope.cn")),
    ("https://www.modelscope.cn/models/a/b/file/view/master/config.json",
     Repository("modelscope", "a/b", "master", "https://www.modelscope.cn")),
    ("https://example.org/x/weights.pth?sig=1", WebFile("https://example.org/x/weights.pth?sig=1")),
    (f"http://lab/x.zip#sha256={SUM.upper()}", WebFile("http://lab/x.zip", SUM)),
    ("http://127.0.0.1:8990/files/x.zip", WebFile("http://127.0.0.1:8990/files/x.zip")),
    ("./a/b", Local("./a/b")),
    ("~/a/b", Local("~/a/b")),
    ("/data/llama", Local("/data/llama")),
    ("builtin:demo/base", Local("builtin:demo/base")),
    ("loras/alpaca.zip", Local("loras/alpaca.zip")),
    ("llama", Local("llama")),
    ("a/b/c", Local("a/b/c")),
])  # fmt: skip
def test_a_spec_is_understood(text: str, meaning: object) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(("text", "key"), [
    ("hf:llama", "bad_repository"),
    ("hf:../..", "bad_repository"),
    ("a/b@../x", "bad_revision"),
    ("a/b@", "bad_revision"),
    ("https://huggingface.co/a/b/tree/..%2f..%2fx", "bad_revision"),
    ("https://huggingface.co/a/b/tree/main/..%2f..", "bad_repository"),
    ("https://huggingface.co/datasets/a/b", "not_a_model_page"),
    ("https://huggingface.co", "not_a_model_page"),
    ("http://example.org/x.zip", "plain_http"),
    ("https://", "bad_address"),
    ("https://x:port/", "bad_address"),
    ("https://me:secret@example.org/x", "bad_address"),
    ("https://exa mple.org/x", "bad_address"),
])  # fmt: skip
def test_what_cannot_be_is_named_and_shows_no_secret(text: str, key: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(text)
    assert caught.value.key == f"download.{key}"
    assert caught.value.hint is not None
    assert "secret" not in caught.value.text()
