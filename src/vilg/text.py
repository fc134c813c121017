"""Words in and out: how a text is normalised, and how it becomes token ids and text again.

One vocabulary serves Chinese and English. Chinese characters, digits and punctuation are one
token each, words in Latin letters are WordPiece tokens, and whatever the alphabet lacks is
spelled in UTF-8 bytes, so nothing is ever unknown and `decode(encode(x)) == normalise(x)`.
"""

import hashlib
import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

from tokenizers import Encoding, Regex, Tokenizer, models, pre_tokenizers, trainers

from vilg.errors import VilgError
from vilg.files import write_whole

LANGUAGES: tuple[str, ...] = ("zh", "en")

# The order is the id: checkpoints depend on it.
_SPECIALS = ("[PAD]", "[UNK]", "[BOI]", "[EOS]", *(f"[{lang}]" for lang in LANGUAGES))

# Bytes live in the vocabulary as private-use characters, because the library's models see
# characters only. A private-use character of the user is outside the alphabet, so it becomes
# bytes itself and cannot be mistaken for one of these.
_BYTES = tuple(chr(0xE000 + byte) for byte in range(256))
_NUM_RESERVED = len(_SPECIALS) + len(_BYTES)

_SPACE = "\u2581"
_LETTERS = "a-z\u00df-\u00f6\u00f8-\u024f"  # lower-case Latin; \u00f7 is the division sign
_MAX_WORD = 64  # greedy matching is quadratic in the word, and a prompt may be one long word
_UNIT = f"{_SPACE}?[{_LETTERS}]{{1,{_MAX_WORD}}}|{_SPACE}?[0-9]|."
_WORD_START = re.compile(f"[{_LETTERS}0-9]")

_CHINESE_PUNCTUATION = "、。〇〈〉《》「」『』【】〔〕！％（）＋，－．／：；？～￥·×–—‘’“”…"
_COMMA = re.compile(r"\s*(?:(?<![0-9]),|,(?![0-9])|，)\s*")
_LATIN = re.compile(f"[{_LETTERS}]{{2}}|^,$")  # of words, and the comma of texts without Chinese
IDEOGRAPH = re.compile("[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")

# The commonest whole words become pieces outright, up to this share; the others are word parts.
# On the emoji texts with 4,000 pieces a share of 1/2 leaves 58% of the keywords' words in parts
# (3/4: 34%), and without parts words that training never met take 40% more tokens.
_SHARE_OF_WHOLE_WORDS = 0.75


class TextError(VilgError):
    """A text, a language or a tokenizer file that cannot be used."""


def _cleaning_table() -> dict[int, int | None]:
    """Return what `normalise` does to single characters, as a table for `str.translate`."""
    table: dict[int, int | None] = {}
    for code in (*range(0x20), *range(0x7F, 0xA0)):
        if not chr(code).isspace():
            table[code] = None
    # Soft hyphen, zero-width space, direction marks, word joiner, byte order mark: they come
    # with copy and paste. The joiners 200C and 200D stay, words and emoji need them.
    invisible = (0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060)
    table.update(dict.fromkeys((*invisible, *range(0x2066, 0x206A), 0xFEFF)))
    table.update(dict.fromkeys(range(0xD800, 0xE000), 0xFFFD))  # surrogates have no UTF-8
    for character in string.ascii_letters + string.digits:
        table[ord(character) + 0xFEE0] = ord(character)
    return table


_CLEANING = _cleaning_table()


def normalise(text: str) -> str:
    """Return the one form of a text that the models see; a second pass changes nothing.

    In this order:

    1. Control characters other than white space are removed, and so are invisible format
       characters (soft hyphen, zero-width space, direction marks, word joiner, byte order
       mark); a lone surrogate becomes U+FFFD; full-width Latin letters and digits become ASCII.
       Full-width punctuation stays, Chinese is written with it.
    2. Lower case.
    3. Unicode NFC. After lower case, which can leave a letter and its mark apart.
    4. Every run of white space becomes one space; none at either end.
    """
    lowered = text.translate(_CLEANING).lower()
    return " ".join(unicodedata.normalize("NFC", lowered).split())


def tidy(text: str, alphabet: Container[str]) -> str:
    """Return a prompt as captions are written, so that how it was typed decides nothing.

    1. `normalise`.
    2. A comma, half or full width, with the white space round it, becomes "，" in a text with a Chinese
       character and ", " in any other; a comma between two digits stays.
    3. A Chinese character that the alphabet lacks becomes its simplified form (OpenCC's t2s, character by
       character) where the alphabet has that.
    """
    text = normalise(text)
    comma = "，" if guess_language(text) == "zh" else ", "
    text = _COMMA.sub(comma, text).strip()
    strangers = {c for c in text if c not in alphabet and IDEOGRAPH.match(c)}
    if strangers:
        from opencc import OpenCC  # loads tables, and few prompts need them

        convert = OpenCC("t2s").convert
        simple = {c: convert(c) for c in strangers}
        text = "".join(simple[c] if simple.get(c, "") in alphabet else c for c in text)
    return text


def guess_language(text: str) -> str:
    """Return "zh" for a text with at least one Chinese character, else "en"."""
    return "zh" if IDEOGRAPH.search(text) else "en"


def _marked(text: str) -> str:
    """Normalise, and put a space before a first word so that it is spelled as in mid-sentence."""
    text = normalise(text)
    return f" {text}" if _WORD_START.match(text) else text


class TextTokenizer:
    """Text to ids and back, for one fixed vocabulary.

    Ids are, in this order: the special tokens, the 256 bytes, the alphabet by code point, the
    word pieces. A space is the mark U+2581 at the head of the next word. Special tokens are
    added by who builds sequences, never by `encode`: "[EOS]" in a text is five characters.
    """

    pad_id: ClassVar[int] = _SPECIALS.index("[PAD]")
    boi_id: ClassVar[int] = _SPECIALS.index("[BOI]")
    eos_id: ClassVar[int] = _SPECIALS.index("[EOS]")

    def __init__(self, alphabet: Iterable[str], word_pieces: Iterable[str]) -> None:
        """Number the vocabulary; the alphabet is completed with what word pieces rest on."""
        letters = set(alphabet) | set(string.ascii_lowercase)
        letters -= {" ", _SPACE, *_BYTES}
        pieces = [*_SPECIALS, *_BYTES, *sorted(letters | {_SPACE}), *word_pieces]
        ids = {piece: id for id, piece in enumerate(pieces)}
        if len(ids) != len(pieces):
            raise TextError("The vocabulary names a token twice; every token needs one id.")
        self._pieces = pieces
        self._letters = frozenset(letters)
        # No "##" on inner pieces: the space mark already tells a word's head from its inside.
        self._model = Tokenizer(
            models.WordPiece(
                vocab=ids,
                unk_token="[UNK]",
                continuing_subword_prefix="",
                max_input_chars_per_word=1 + _MAX_WORD,
            )
        )
        self._model.pre_tokenizer = pre_tokenizers.Split(Regex(_UNIT), behavior="isolated")

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read a `tokenizer.json` that `save` wrote."""
        try:
            ids = json.loads(Path(path).read_text(encoding="utf-8"))["model"]["vocab"]
            pieces = _in_id_order(ids)
        except OSError as error:
            raise TextError(f"Cannot read the tokenizer {path}: {error.strerror}.") from error
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            MemoryError,
        ) as error:
            raise TextError(
                f"{path} is not a text tokenizer of this package; "
                "give the tokenizer.json that lies beside the model's weights."
            ) from error
        learned = pieces[_NUM_RESERVED:]
        tokenizer = cls((p for p in learned if len(p) == 1), (p for p in learned if len(p) > 1))
        if tokenizer._pieces != pieces:
            raise TextError(f"{path} numbers its tokens in another order than this package does.")
        return tokenizer

    def save(self, path: Path | str) -> None:
        """Write the vocabulary in the JSON form of the `tokenizers` library."""
        try:
            write_whole(Path(path), self._model.to_str(pretty=True) + "\n")
        except OSError as error:
            raise TextError(f"Cannot write the tokenizer {path}: {error.strerror}.") from error

    def __len__(self) -> int:
        """Return the vocabulary size."""
        return len(self._pieces)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that two tokenizers share only if they give the same ids."""
        canonical = json.dumps([_UNIT, self._pieces], ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ids: list[int] = self._encoding(text).ids
        return ids

    def tidy(self, text: str) -> str:
        """Return a prompt as captions are written (`tidy`), in this vocabulary's alphabet.

        Raises:
            TextError: none of its characters is in the alphabet, so that the model knows nothing of it.
        """
        tidied = tidy(text, self._letters)
        if tidied and not self._letters.intersection(tidied):
            raise TextError(
                f"this model knows none of the characters of {text!r}: write other words"
            )
        return tidied

    def read(self, text: str, longest: int) -> list[int]:
        """Return the ids of a prompt, tidied before.

        Raises:
            TextError: no text, an empty one, one of unknown characters only, or one of more tokens.
        """
        if not isinstance(text, str):
            raise TextError(f"a {type(text).__name__} is no text: give one text, in quotes")
        ids = self.encode(self.tidy(text))
        if len(ids) > longest:
            raise TextError(
                f"the text has {len(ids)} tokens and this model reads {longest}: shorten it"
            )
        return ids

    def words(self, text: str) -> list[range]:
        """Return where the words of a text stand among its ids: a word's pieces, a character's bytes."""
        encoding = self._encoding(text)
        units = list(zip(encoding.ids, encoding.word_ids, strict=True))
        # A byte from 0x80 to 0xBF goes on with a character; a space goes with what follows it.
        inside = range(len(_SPECIALS) + 0x80, len(_SPECIALS) + 0xC0)
        starts = [0] + [
            i
            for i, ((before, last), (id, unit)) in enumerate(pairwise(units), start=1)
            if unit != last and id not in inside and self._pieces[before] != _SPACE
        ]
        return [range(*ends) for ends in zip(starts, [*starts[1:], len(units)], strict=True)]

    def unknown_characters(self, text: str) -> str:
        """Return the characters of a prompt that have no place in the alphabet, each once, in order."""
        return "".join(dict.fromkeys(self.spelled(self.tidy(text))))

    def spelled(self, text: str) -> list[str]:
        """Return the characters of a text that are spelled in bytes, for want of a place in the alphabet."""
        return [c for c in _marked(text) if c != " " and c not in self._letters]

    def _encoding(self, text: str) -> Encoding:
        spelled = "".join(self._spell(character) for character in _marked(text))
        if not spelled:
            raise TextError("The text is empty; write at least one visible character.")
        return self._model.encode(spelled)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids; special tokens are left out.

        A model may generate bytes that are no UTF-8: each such stretch becomes U+FFFD.
        """
        encoded = bytearray()
        for id, piece in self._look_up(ids):
            if id >= _NUM_RESERVED:
                encoded += piece.replace(_SPACE, " ").encode("utf-8")
            elif id >= len(_SPECIALS):
                encoded.append(id - len(_SPECIALS))
        return encoded.decode("utf-8", errors="replace").removeprefix(" ")

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        """Return one printable string for each id; a byte is shown as <0xE4>."""
        return [
            f"<0x{id - len(_SPECIALS):02X}>" if len(_SPECIALS) <= id < _NUM_RESERVED else piece
            for id, piece in self._look_up(ids)
        ]

    def latin_words(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the Latin pieces of two letters or more in Chinese texts, and a half-width comma in them."""
        ids = sorted({id for text in texts for id in self.encode(text)})
        return tuple(self._pieces[id] for id in ids if _LATIN.search(self._pieces[id]))

    def foreign_ids(self, lang: str, latin_words: Collection[str] = ()) -> list[int]:
        """Return the ids that no caption in a language may have.

        In English those are Chinese characters and punctuation; in Chinese, Latin pieces of two letters or
        more and the half-width comma, but for `latin_words`. Digits, signs, single letters and bytes are of both languages.
        """
        self.language_id(lang)
        specials = [id for id in range(len(_SPECIALS)) if id != self.eos_id]
        words = self._pieces[_NUM_RESERVED:]
        if lang == "zh":
            foreign = [bool(_LATIN.search(p)) and p not in latin_words for p in words]
        else:
            marks = frozenset(_CHINESE_PUNCTUATION) - frozenset("‘’“”…·×–—")
            foreign = [bool(IDEOGRAPH.search(p)) or p in marks for p in words]
        return specials + [id for id, is_foreign in enumerate(foreign, _NUM_RESERVED) if is_foreign]

    def language_id(self, lang: str) -> int:
        """Return the special token that opens a target text in this language."""
        if lang not in LANGUAGES:
            known = ", ".join(LANGUAGES)
            raise TextError(f"The language {lang!r} is unknown; choose one of: {known}.")
        return _SPECIALS.index(f"[{lang}]")

    def _spell(self, character: str) -> str:
        """Return a character of the alphabet as it is, a space as its mark, others as bytes."""
        if character in self._letters:
            return character
        if character == " ":
            return _SPACE
        return "".join(_BYTES[byte] for byte in character.encode("utf-8"))

    def _look_up(self, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
        for id in ids:
            if not 0 <= id < len(self):
                raise TextError(f"There is no token {id}; the ids are 0 to {len(self) - 1}.")
            yield id, self._pieces[id]


def _in_id_order(ids: Mapping[str, int]) -> list[str]:
    """Turn a vocabulary round; raise ValueError if it has holes or lacks the reserved tokens."""
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise ValueError("ids are not 0, 1, 2, ...")
    if tuple(pieces[:_NUM_RESERVED]) != (*_SPECIALS, *_BYTES):
        raise ValueError("the reserved tokens are missing")
    return pieces


def train_vocabulary(texts: Iterable[str], num_word_pieces: int = 4000) -> TextTokenizer:
    """Make a vocabulary for these texts: same texts in any order, same vocabulary.

    The alphabet is printable ASCII, the 3,755 characters of GB2312 level 1, Chinese punctuation
    and every character of the texts. So a model can be fine-tuned on new captions.

    Args:
        texts: Captions, names, keywords. A text counts as often as it is given.
        num_word_pieces: At most this many tokens of two characters or more.
    """
    if num_word_pieces < 0:
        raise TextError(f"The number of word pieces is {num_word_pieces}; give 0 or more.")
    alphabet = {chr(code) for code in range(0x21, 0x7F)} - set(string.ascii_uppercase)
    alphabet |= set(_gb2312_level_1()) | set(_CHINESE_PUNCTUATION)
    counts: Counter[str] = Counter()
    for text in texts:
        marked = _marked(text)
        alphabet |= set(marked)
        # A literal mark in the text would become bytes; it must not look like a space here.
        unit_text = marked.replace(_SPACE, _BYTES[0]).replace(" ", _SPACE)
        counts.update(unit for unit in re.findall(_UNIT, unit_text) if len(unit) > 1)
    return TextTokenizer(alphabet, _learn_pieces(counts, num_word_pieces))


def _gb2312_level_1() -> str:
    """Return the 3,755 commonest simplified characters: rows 16 to 55 of the standard."""
    rows = range(0xA0 + 16, 0xA0 + 56)
    codes = (bytes((row, cell)) for row in rows for cell in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", errors="ignore") for code in codes)  # row 55 has gaps


def _learn_pieces(counts: Mapping[str, int], num_pieces: int) -> list[str]:
    """Return the commonest whole words, then the library's word parts; ties by spelling."""
    words = sorted(counts, key=lambda word: (-counts[word], word))
    whole = words[: int(num_pieces * _SHARE_OF_WHOLE_WORDS)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=num_pieces + len(set().union(*words)),
        min_frequency=1,
        special_tokens=[],
        continuing_subword_prefix="",
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]", continuing_subword_prefix=""))
    learner.train_from_iterator((w for w in words for _ in range(counts[w])), trainer)
    learned: dict[str, int] = learner.get_vocab()
    parts = sorted(learned.keys() - set(whole), key=learned.__getitem__)
    return (whole + [part for part in parts if len(part) > 1])[:num_pieces]
