"""Any translation model that the package transformers reads: Marian (opus-mt), NLLB, M2M100, mBART, T5.

Code that comes with a model is never run, and weights are numbers only: safetensors, or a PyTorch file that
is read as such.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch

from vilg.data.pairs import DataError
from vilg.device import HOST
from vilg.errors import VilgError, how_to_install
from vilg.sampling.batches import slices
from vilg.sampling.clip import quiet
from vilg.tokenizer.sources import download

BATCH = 16
LONGEST = 256  # tokens of a translation; a model that goes on has lost its thread
_FILES = ["*.json", "*.txt", "*.model", "*.spm", "model*.safetensors"]
# What models of many languages call these two.
_CODES = {
    "zh": (("zho_Hans", "zho_Hans"), ("zh_CN", "zh_CN"), ("zh", "__zh__")),
    "en": (("eng_Latn", "eng_Latn"), ("en_XX", "en_XX"), ("en", "__en__")),
}


class TranslatorError(VilgError):
    """A translation model that is not installed or cannot be loaded."""


class HubTranslator:
    """Translates by a sequence-to-sequence model of transformers: a `data.translate.Translator`.

    Args:
        prefix: stands before every text, where a model wants to be told so what to do: "translate English to
            Chinese: " of T5, ">>cmn_Hans<< " of Marian with several targets.

    Attributes:
        settings: of the search for a translation; the others are the model's own.

    Raises:
        TranslatorError: a model of many languages that has not these two.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, lang: str, prefix: str = ""):
        self.name, self.prefix = name, prefix
        self.model, self.tokenizer = model.eval(), tokenizer
        self.settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": LONGEST}
        if getattr(tokenizer, "src_lang", None) is not None:
            (other,) = set(_CODES) - {lang}
            tokenizer.src_lang = self._code(other)[0]
            self.settings["forced_bos_token_id"] = self._code(lang)[1]
        digest = hashlib.sha256(f"{lang}\0{prefix}".encode())
        for key, weight in sorted(model.state_dict().items()):
            digest.update(key.encode())
            digest.update(weight.contiguous().cpu().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def _code(self, lang: str) -> tuple[str, int]:
        """Return what a model of many languages calls one, and its token."""
        words = self.tokenizer.get_vocab()
        for code, token in _CODES[lang]:
            if token in words:
                return code, words[token]
        raise TranslatorError(f"{self.name} translates many languages, and {lang} is none of them")

    @classmethod
    def from_pretrained(
        cls, name: str, lang: str, prefix: str = "", device: torch.device = HOST
    ) -> Self:
        """Load a folder or a hub id "owner/name" that translates into a language.

        Raises:
            TranslatorError: no transformers, nothing of that name, no whole weights, or no translator.
        """
        if find_spec("transformers") is None:
            raise TranslatorError(
                f"translating needs the package transformers: {how_to_install('translate')}"
            )
        is_here = Path(name).is_dir()
        try:
            folder = Path(name) if is_here else download(name, _FILES)
            if not is_here and not [*folder.glob("model*.safetensors")]:
                folder = download(name, [*_FILES, "pytorch_model*.bin"])
            with quiet():
                translator = cls._load(name, folder, lang, prefix)
                translator.model.to(device)
                translator(["a"])
        except Exception as error:  # transformers names no class for what it cannot load
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            source = "" if is_here else " (no folder here, so a hub id)"
            raise TranslatorError(
                f"cannot load {name} as a translator{source}: {reason}"
            ) from error
        return translator

    @classmethod
    def _load(cls, name: str, folder: Path, lang: str, prefix: str) -> Self:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        # Left out, transformers asks on the terminal whether to run a model's own code.
        safe: dict[str, Any] = {"trust_remote_code": False}
        weights = {"weights_only": True, "dtype": torch.float32, "output_loading_info": True}
        model, report = AutoModelForSeq2SeqLM.from_pretrained(folder, **weights, **safe)
        # Where files lack weights or words, transformers makes up random ones, or goes without.
        if report["missing_keys"]:
            raise TranslatorError(f"its weights lack {min(report['missing_keys'])}")
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise TranslatorError("its tokenizer has no words")
        return cls(name, model, tokenizer, lang, prefix)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[str | DataError]:
        """Return each text's translation; nothing is cut, neither what goes in nor what comes out."""
        found: list[str | DataError] = []
        limit = self.tokenizer.model_max_length
        limit = min(limit, getattr(self.model.config, "max_position_embeddings", limit))
        for part in slices(len(texts), BATCH):
            given = [self.prefix + text for text in texts[part]]
            lengths = [len(ids) for ids in self.tokenizer(given, verbose=False)["input_ids"]]
            fitting = [text for text, n in zip(given, lengths, strict=True) if n <= limit]
            made = iter(self._generate(fitting) if fitting else [])
            for length in lengths:
                if length > limit:
                    found.append(DataError(f"{length} tokens, {self.name} reads {limit}"))
                else:
                    found.append(next(made))
        return found

    def _generate(self, texts: list[str]) -> list[str | DataError]:
        tokens = self.tokenizer(texts, return_tensors="pt", padding=True)
        tokens.pop("token_type_ids", None)  # which some tokenizers give and no translator takes
        rows = self.model.generate(**tokens.to(self.model.device), **self.settings)
        pad = self.tokenizer.pad_token_id
        made: list[str | DataError] = []
        for row in rows.cpu().tolist():
            text = self.tokenizer.decode(row, skip_special_tokens=True).strip()
            # The first token is where the decoder starts.
            if sum(id != pad for id in row[1:]) >= LONGEST:
                made.append(DataError(f"no end after {LONGEST} tokens"))
            else:
                made.append(text or DataError("an empty translation"))
        return made
