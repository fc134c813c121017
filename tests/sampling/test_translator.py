"""Tiny random translators of transformers: what comes out is what the model itself generates, and no cut text."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vilg.data.pairs import DataError
from vilg.sampling.translator import HubTranslator, TranslatorError

pytest.importorskip("transformers")

TEXTS = ["a red apple", "apple", "green green apple and a red one", "红苹果"]
LENGTH = 24


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def randomise(model: Any, seed: int, std: float) -> Any:
    """Give random weights; with the seeds below some translations end, some are empty or have no end."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed_positions" not in name:  # sines, which no file keeps
                weight.normal_(std=std)
    return model


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with a vocabulary of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = ["<pad>", "</s>", "<unk>", "a", "red", "green", "apple", "and", "one", "translate:"]
    words += list("红绿苹果")
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )
    with torch.random.fork_rng(devices=[]):
        config = T5Config(
            vocab_size=len(words),
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )
        model = randomise(T5ForConditionalGeneration(config), 6, 0.5)
    return save(tmp_path_factory.mktemp("t5") / "t5", model, tokenizer)


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Marian with SentencePiece models trained on a few sentences."""
    spm = pytest.importorskip("sentencepiece")
    pytest.importorskip("sacremoses")
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    sources = tmp_path_factory.mktemp("sources")
    stream = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=stream,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=9,
    )
    for name in ("source.spm", "target.spm"):
        (sources / name).write_bytes(stream.getvalue())
    processor = spm.SentencePieceProcessor(model_proto=stream.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    pieces = ["</s>", "<unk>", *(p for p in pieces if p not in ("<s>", "</s>", "<unk>")), "<pad>"]
    (sources / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    tokenizer = MarianTokenizer(
        *(str(sources / name) for name in ("source.spm", "target.spm", "vocab.json")),
        model_max_length=LENGTH,
    )
    pad = len(pieces) - 1
    with torch.random.fork_rng(devices=[]):
        config = MarianConfig(
            vocab_size=len(pieces),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_position_embeddings=300,
            pad_token_id=pad,
            eos_token_id=0,
            forced_eos_token_id=0,
            decoder_start_token_id=pad,
        )
        model = randomise(MarianMTModel(config), 8, 0.3)
        model.final_logits_bias[0, 0] = 2
        model.final_logits_bias[0, pad] = -100
    return save(tmp_path_factory.mktemp("marian") / "marian", model, tokenizer)


@pytest.fixture(params=["t5", "marian"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def own_translation(folder: Path, text: str) -> str | None:
    """Return what the model's own greedy search gives for one text, and None where it doesn't end."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([text], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    row = model.generate(**inputs, do_sample=False, max_new_tokens=256)[0].tolist()
    if len(row) > 256:  # the last may be an end that Marian's settings force
        return None
    return str(tokenizer.decode(row, skip_special_tokens=True)).strip()


def test_translations_are_the_models_own(folder: Path) -> None:
    found = HubTranslator.from_pretrained(str(folder), "zh")(TEXTS)
    assert sum(isinstance(text, str) for text in found) == 2
    for text, made in zip(TEXTS, found, strict=True):
        own = own_translation(folder, text)
        if own is None:
            assert str(made) == "no end after 256 tokens"
        else:
            assert (made == own) if own else (str(made) == "an empty translation")


def test_a_translation_is_that_of_its_text_and_not_of_the_batch(t5: Path) -> None:
    translator = HubTranslator.from_pretrained(str(t5), "zh")
    many = [str(text) for text in translator(TEXTS * 6)]  # over one batch
    assert many == [str(text) for text in translator(TEXTS)] * 6
    assert many[:4] == [str(translator([text])[0]) for text in TEXTS]
    assert translator([]) == []


def test_nothing_is_cut_off(t5: Path) -> None:
    translator = HubTranslator.from_pretrained(str(t5), "zh")
    first, long, last = translator([TEXTS[0], "red " * (LENGTH + 1), TEXTS[0]])
    assert isinstance(long, DataError)
    assert str(long).endswith(f"25 tokens, {t5} reads {LENGTH}")
    assert first == last and isinstance(first, str)


def test_a_prefix_stands_before_each_text(t5: Path) -> None:
    plain = HubTranslator.from_pretrained(str(t5), "zh")
    told = HubTranslator.from_pretrained(str(t5), "zh", "translate: ")
    assert [*map(str, told(["apple"]))] == [*map(str, plain(["translate: apple"]))]
    into_english = HubTranslator.from_pretrained(str(t5), "en")
    assert len({plain.fingerprint, told.fingerprint, into_english.fingerprint}) == 3
    assert HubTranslator.from_pretrained(str(t5), "zh").fingerprint == plain.fingerprint


def test_weights_in_a_pytorch_file(t5: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shutil.copytree(t5, tmp_path / "old")
    weights = load_file(tmp_path / "old" / "model.safetensors")
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    torch.save(weights, tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "model.safetensors").unlink()
    new, old = (HubTranslator.from_pretrained(str(f), "zh") for f in (t5, tmp_path / "old"))
    assert new.fingerprint == old.fingerprint


def test_what_is_no_translator(t5: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "empty").mkdir()
    for name in ("cut", "code"):
        shutil.copytree(t5, tmp_path / name)
    path = tmp_path / "cut" / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "code" / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "code" / "config.json").write_text(json.dumps(config | own))
    (tmp_path / "code" / "own.py").write_text("raise SystemExit('code of a model was run')")
    for name, reason in {
        "empty": "cannot load",
        "cut": "its weights lack encoder.block.0",
        "code": "cannot load",
        "owner/nobody": "no folder here, so a hub id",
    }.items():
        place = tmp_path / name if (tmp_path / name).is_dir() else name
        with pytest.raises(TranslatorError, match=reason):
            HubTranslator.from_pretrained(str(place), "zh")


class Words(dict[str, int]):
    """The part of a tokenizer of many languages that names them."""

    src_lang: str | None = "en_XX"

    def get_vocab(self) -> dict[str, int]:
        return self


def test_a_model_of_many_languages_is_told_which(t5: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(t5)
    for vocabulary, code in {
        ("eng_Latn", "fra_Latn", "zho_Hans"): "eng_Latn",
        ("__en__", "__fr__", "__zh__"): "en",
        ("ar_AR", "en_XX", "zh_CN"): "en_XX",
    }.items():
        words = Words({word: i for i, word in enumerate(vocabulary)})
        translator = HubTranslator("many", model, words, "zh")
        assert words.src_lang == code
        assert translator.settings["forced_bos_token_id"] == 2
    with pytest.raises(TranslatorError, match="en is none of them"):
        HubTranslator("many", model, Words(zho_Hans=0), "zh")
