"""Tokenizers: the files written here, loaded by transformers, against SentencePiece itself."""

import base64
import io
import json
import re
import struct
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from backend.errors import WeightsError
from backend.weights.fast_tokenizer import AddedToken, tokenizer_json
from backend.weights.known_tokenizers import known_tokenizer
from backend.weights.sentencepiece_model import Kind, read_sentencepiece
from backend.weights.templates import find_template
from backend.weights.tokenizer import find_vocabulary, kept_template, write_tokenizer
from tests.backend.weights.make import TEXT, tokenizer_model

PIECES = 500
TEXTS = (
    *TEXT,
    "",
    " ",
    "  two  spaces  and\ttabs\n\nand lines ",
    "emoji 🦙🏽, accents éñ, Hangul 한국어, and \x00 control",
    "A chat. USER: Hi! ASSISTANT: Hello.</s>USER: 你是谁？ ASSISTANT: 我是 Cria。</s>",
    "</s></s> </s>x",
    "price: 1234567.89 €",
    "▁ the mark itself ▁▁",
)


def add_pieces(model: bytes, *pieces: tuple[str, float]) -> bytes:
    """Append pieces to a tokenizer.model; protobuf lets repeated fields follow later."""
    for text, score in pieces:
        raw = text.encode()
        body = b"\x0a" + bytes([len(raw)]) + raw + b"\x15" + struct.pack("<f", score)
        model += b"\x0a" + bytes([len(body)]) + body
    return model


def folder_with(folder: Path, model: bytes | None = None, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        (folder / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def legacy_ids(model: bytes, text: str) -> list[int]:
    """What LLaMA's first tokenizer does: cut at special tokens, give every stretch to SentencePiece."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [1]
    for part in re.split("(<s>|</s>|<unk>)", text):
        if part in ("<unk>", "<s>", "</s>"):
            ids.append(("<unk>", "<s>", "</s>").index(part))
        elif part:
            ids.extend(processor.encode(part))
    return ids


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tok")
    source = folder_with(folder / "source", tokenizer_model(), tokenizer_config={"tokenizer_class": "LLaMATokenizer"})
    out = folder / "out"
    out.mkdir()
    vocabulary = find_vocabulary([source], PIECES)
    write_tokenizer(vocabulary, out, template=find_template("vicuna-v1.1"), context=2048)
    (out / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return out


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_training(written: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(written)
    encoded = tokenizer(text)
    assert encoded["input_ids"] == legacy_ids(tokenizer_model(), text)
    assert set(encoded) == {"input_ids", "attention_mask"}  # token_type_ids would make generate() complain
    if "</s>" not in text:
        assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text.replace("▁", " ")


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_ids_for_any_text(text: str) -> None:
    text = text.replace("<s>", "").replace("</s>", "").replace("<unk>", "")
    tokenizer, model = _fast_and_model()
    assert tokenizer.encode(text).ids == legacy_ids(model, text)


_KEPT: list[tuple[Tokenizer, bytes]] = []


def _fast_and_model() -> tuple[Tokenizer, bytes]:
    if not _KEPT:
        model = tokenizer_model()
        path = Path(__file__)  # only a name to blame
        assert path.exists()
        pieces = _read_bytes(model)
        bos = AddedToken(1, "<s>")
        added = [AddedToken(0, "<unk>"), bos, AddedToken(2, "</s>")]
        _KEPT.append((Tokenizer.from_str(json.dumps(tokenizer_json(pieces, added, bos=bos))), model))
    return _KEPT[0]


def _read_bytes(model: bytes) -> object:
    from backend.weights import sentencepiece_model

    return sentencepiece_model._model(model)


def test_settings_that_transformers_reads(written: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(written)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert (tokenizer.pad_token, len(tokenizer), tokenizer.model_max_length) == ("<unk>", PIECES, 2048)
    assert tokenizer.chat_template == find_template("vicuna-v1.1").jinja
    assert (written / "tokenizer.model").read_bytes() == tokenizer_model()


def test_the_reader_agrees_with_the_library(tmp_path: Path) -> None:
    model = read_sentencepiece(folder_with(tmp_path, tokenizer_model()) / "tokenizer.model")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model())
    assert len(model.pieces) == processor.get_piece_size()
    for number, piece in enumerate(model.pieces):
        assert piece.text == processor.id_to_piece(number)
        assert piece.score == pytest.approx(processor.get_score(number))
        assert (piece.kind is Kind.CONTROL) == processor.is_control(number)
        assert (piece.kind is Kind.BYTE) == processor.is_byte(number)
    assert model.is_bpe
    assert (model.dummy_prefix, model.remove_extra_spaces, model.charsmap) == (True, False, b"")


def test_appended_words_are_used_before_learned_ones(tmp_path: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model())
    words = ["".join(processor.encode(text, out_type=str)[:2]) for text in ("brown fox", "lazy dog")]
    model = add_pieces(tokenizer_model(), *((word, 0.0) for word in words), ("[PAD]", 0.0))
    vocabulary = find_vocabulary([folder_with(tmp_path / "lora", model)], PIECES + 3)
    write_tokenizer(vocabulary, tmp_path, template=find_template("plain"), context=64)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("brown fox", "the brown lazy dog", "模型 lazy"):
        assert tokenizer.encode(text).ids == legacy_ids(model, text)
    assert vocabulary.pad == AddedToken(PIECES + 2, "[PAD]")
    assert tokenizer.encode("[PAD]").ids == [1, PIECES + 2]


def test_one_row_more_is_the_pad_token(tmp_path: Path) -> None:
    vocabulary = find_vocabulary([folder_with(tmp_path / "base", tokenizer_model())], PIECES + 1)
    assert vocabulary.pad == AddedToken(PIECES, "[PAD]")
    write_tokenizer(vocabulary, tmp_path, template=find_template("vicuna-v0"), context=64)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id("[PAD]") == PIECES
    assert "weights.found.pad_added" in [note.key for note in vocabulary.notes]


@pytest.mark.parametrize("stated", ["<PAD>", {"content": "<PAD>", "lstrip": False}])
@pytest.mark.parametrize("file", ["special_tokens_map", "tokenizer_config"])
def test_a_folder_may_call_its_pad_token_as_it_likes(tmp_path: Path, file: str, stated: object) -> None:
    added = {"added_tokens": {"<PAD>": PIECES, "[PAD]": PIECES + 1}}
    source = folder_with(tmp_path / "a", tokenizer_model(), **added, **{file: {"pad_token": stated}})
    assert find_vocabulary([source], PIECES + 2).pad == AddedToken(PIECES, "<PAD>")
    piece = add_pieces(tokenizer_model(), ("<PAD>", 0.0))  # as some training scripts add it: an ordinary piece
    source = folder_with(tmp_path / "b", piece, **{file: {"pad_token": stated}})
    vocabulary = find_vocabulary([source], PIECES + 1)
    assert vocabulary.pad == AddedToken(PIECES, "<PAD>")
    write_tokenizer(vocabulary, tmp_path, template=find_template("plain"), context=64)
    (source / "tokenizer.model").unlink()
    (source / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    assert find_vocabulary([source], PIECES + 1).pad.text == "<PAD>"


def test_a_pad_token_that_the_tokenizer_lacks_is_passed_over(tmp_path: Path) -> None:
    source = folder_with(tmp_path, tokenizer_model(), tokenizer_config={"pad_token": "<PAD>"})
    assert find_vocabulary([source], PIECES).pad.text == "<unk>"


def test_one_of_several_templates_is_the_default(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "tools"}, "x", {"name": "default", "template": "{{ messages }}"}]
    source = folder_with(tmp_path, tokenizer_model(), tokenizer_config={"chat_template": several})
    assert kept_template(find_vocabulary([source], PIECES)) == "{{ messages }}"
    folder_with(tmp_path, tokenizer_config={"chat_template": several[:2]})
    assert kept_template(find_vocabulary([source], PIECES)) is None


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"])
def test_what_would_be_copied_may_be_no_link_out_of_the_folder(tmp_path: Path, name: str) -> None:
    source = folder_with(tmp_path / "source", tokenizer_model())
    (tmp_path / "secret").write_text('{"token": "secret"}')
    (source / name).symlink_to(tmp_path / "secret")
    with pytest.raises(WeightsError) as refused:
        kept_template(find_vocabulary([source], PIECES))
    assert refused.value.key == "weights.link_outside"
    (source / name).unlink()
    (source / "tokenizer.model").rename(tmp_path / "tokenizer.model")
    (source / "tokenizer.model").symlink_to(tmp_path / "tokenizer.model")  # one for all sizes; only a tokenizer passes
    assert find_vocabulary([source], PIECES).size == PIECES


def test_a_hub_cache_links_to_its_blobs_from_folders_inside_too(tmp_path: Path) -> None:
    original = folder_with(tmp_path / "models--a--b" / "snapshots" / "abc" / "original", tokenizer_model())
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "h").write_text("{{ messages }}")
    (original / "chat_template.jinja").symlink_to("../../../blobs/h")
    assert kept_template(find_vocabulary([original], PIECES)) == "{{ messages }}"


def test_added_tokens_json_is_read(tmp_path: Path) -> None:
    source = folder_with(tmp_path, tokenizer_model(), added_tokens={"[PAD]": PIECES, "<im>": PIECES + 1})
    vocabulary = find_vocabulary([source], PIECES + 2)
    assert vocabulary.id_of("<im>") == PIECES + 1
    (source / "added_tokens.json").write_text(json.dumps({"x": PIECES + 5}))
    with pytest.raises(WeightsError, match="added_tokens"):
        find_vocabulary([source], PIECES + 6)


def test_the_tokenizer_that_names_every_row_wins(tmp_path: Path) -> None:
    bigger = add_pieces(tokenizer_model(), ("▁zq", 0.0))
    sources = [folder_with(tmp_path / "delta", tokenizer_model()), folder_with(tmp_path / "lora", bigger)]
    assert find_vocabulary(sources, PIECES + 1).place.name == "lora"
    assert find_vocabulary(sources, PIECES).place.name == "delta"
    assert find_vocabulary(sources[::-1], PIECES + 40).place.name == "lora"  # rows left over: the preferred one


def test_meta_keeps_its_tokenizer_beside_the_size_folder(tmp_path: Path) -> None:
    folder_with(tmp_path, tokenizer_model())
    (tmp_path / "7B").mkdir()
    (tmp_path / "7B" / "params.json").write_text("{}")
    assert find_vocabulary([tmp_path / "7B"], PIECES).place == tmp_path


def test_early_mistakes_are_named(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "LLaMATokenizer", "bos_token": "", "eos_token": "", "unk_token": ""}
    source = folder_with(tmp_path, tokenizer_model(), tokenizer_config=settings, special_tokens_map={})
    keys = [note.key for note in find_vocabulary([source], PIECES).notes]
    assert {"weights.found.old_tokenizer_class", "weights.found.empty_tokens"} <= set(keys)


def test_a_good_fast_tokenizer_is_kept_and_a_wrong_one_is_not(tmp_path: Path, written: Path) -> None:
    fast = json.loads((written / "tokenizer.json").read_text())
    fast["decoder"] = {"type": "Fuse"}  # a difference to recognise it by
    source = folder_with(tmp_path / "good", tokenizer_model(), tokenizer=fast)
    assert find_vocabulary([source], PIECES).fast == fast
    fast["model"]["vocab"]["extra"] = 9999
    source = folder_with(tmp_path / "bad", tokenizer_model(), tokenizer=fast)
    assert find_vocabulary([source], PIECES).fast is None


def test_a_folder_with_tokenizer_json_alone(tmp_path: Path, written: Path) -> None:
    fast = json.loads((written / "tokenizer.json").read_text())
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "", "chat_template": "{{ messages }}"}
    vocabulary = find_vocabulary([folder_with(tmp_path, tokenizer=fast, tokenizer_config=settings)], PIECES)
    assert (vocabulary.bos.id, vocabulary.eos.id, vocabulary.size) == (1, 2, PIECES)
    assert kept_template(vocabulary) == "{{ messages }}"
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(vocabulary, out, template=find_template("plain"), context=64)
    assert json.loads((out / "tokenizer.json").read_text()) == fast
    assert not (out / "tokenizer.model").exists()


BAD = {
    "empty": b"",
    "html": b"<html>Sign in",
    "cut off": tokenizer_model()[: len(tokenizer_model()) // 2 + 3],
    "a long field": b"\x0a\xff\xff\xff\xff\x7f",
    "endless number": b"\x0a" + b"\xff" * 30,
    "no pieces": b"\x12\x00",
    "a piece twice": b"\x0a\x03\x0a\x01a\x0a\x03\x0a\x01a",
    "strange wire": b"\x0b\x00",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_damaged_models(tmp_path: Path, content: bytes) -> None:
    path = folder_with(tmp_path, content) / "tokenizer.model"
    with pytest.raises(WeightsError):
        read_sentencepiece(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_an_error(data: bytes) -> None:
    from backend.weights import sentencepiece_model

    try:
        found = sentencepiece_model._model(b"\x0a" + data)
    except (ValueError, IndexError, struct.error):
        return
    assert found.pieces


def test_unigram_and_other_kinds_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 9), model_writer=out, model_type="unigram", vocab_size=120, minloglevel=2
    )
    with pytest.raises(WeightsError) as refused:
        find_vocabulary([folder_with(tmp_path / "t5", out.getvalue())], 120)
    assert refused.value.key == "weights.tokenizer_kind"
    with pytest.raises(WeightsError, match="looked in"):
        find_vocabulary([tmp_path], 120)
    with pytest.raises(WeightsError) as refused:
        find_vocabulary([folder_with(tmp_path / "big", tokenizer_model())], 499)
    assert refused.value.key == "weights.tokenizer_too_large"


def test_a_llama_3_list_is_not_mistaken_for_sentencepiece(tmp_path: Path) -> None:
    folder_with(tmp_path, base64.b64encode(b"hello") + b" 0\n")
    with pytest.raises(WeightsError):
        find_vocabulary([tmp_path], 500)


def test_a_tokenizer_of_another_generation(tmp_path: Path) -> None:
    source = folder_with(tmp_path, tokenizer_model())
    assert find_vocabulary([source], PIECES + 1000).size == PIECES
    with pytest.raises(WeightsError) as refused:
        find_vocabulary([source], 128256)
    assert refused.value.key == "finish.tokenizer_too_small"


def test_known_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_with(tmp_path, b"anything") / "tokenizer.model"
    assert known_tokenizer(path, 500) is None
    changed = known_tokenizer(path, 49954)
    assert changed is not None
    assert (changed.key, changed.params["name"]) == ("finish.found.tokenizer_changed", "Chinese-Alpaca")
    sha256 = "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
    monkeypatch.setattr("backend.weights.known_tokenizers.hash_file", lambda _: sha256)
    known = known_tokenizer(path, 32000)
    assert known is not None
    assert (known.key, known.params["name"]) == ("finish.found.tokenizer_known", "LLaMA 1, Llama 2")
