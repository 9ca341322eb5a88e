"""Published tokenizer folders of every family and kind, made on the spot, and the 500 strings they are tried on.

The vocabularies are made by rules, not learnt, so that they are the same in every environment and version.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.families import config_of, family_of

POSITIONS = 256  # tokens of the longest input
CUT = 48  # tokens of the longest row in the goldens
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLED = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = [
    "the",
    "a",
    "line",
    "of",
    "data",
    "read",
    "write",
    "set",
    "to",
    "and",
    "file",
    "index",
    "name",
    "mode",
    "caf\u00e9",
    "na\u00efve",
    "\u00fcber",
    "state",
    "menu",
]
LETTERS = [chr(code) for code in (*range(0x21, 0x7F), *range(0xC0, 0x180), *range(0x391, 0x3CA), *range(0x410, 0x450))]
WIDE = [chr(code) for code in (0x4E2D, 0x6587, 0x3042, 0x30A2, 0xAC00, 0x1F600, 0x200D, 0x301, 0x308, 0xFE0F)]


def strings() -> dict[str, list[str]]:
    """Returns 500 texts by kind."""
    draw = random.Random(16)
    codes = [draw.randrange(start, start + 0x280) for start in range(0x80, 0x20000, 0x500)]
    blocks = [chr(c) for c in codes if not 0xD800 <= c < 0xE000]
    emoji = [
        "\U0001f600",
        "\U0001f44d\U0001f3fd",
        "\U0001f469\u200d\U0001f4bb",
        "\U0001f1e9\U0001f1ea",
        "1\ufe0f\u20e3",
    ]
    marks = ["\u0301", "\u0308", "\u0327", "\u0323\u0302", "\u20d7", "\u0338", "\u3099"]
    blanks = [" ", "  ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003", "\u2009"]
    blanks += ["\u200b", "\u2028", "\u202f", "\u3000", "\ufeff"]
    sizes = (19, 20, 21, 39, 40, 99, 100, 101, 200, 900)
    control = [chr(code) for code in (*range(0x20), 0x7F, 0x80, 0x9F, 0xAD, 0x200E, 0x202E, 0x2060, 0xFFFD, 0xFFFF)]
    literal = [*SPECIAL, *ANGLED, "[unused1]", "<new>", "[NEW]"]
    accented = [
        "\u00e9",
        "\u00fc",
        "\u00df",
        "\u0130",
        "\u01c5",
        "\ufb01",
        "\u1e9e",
        "\u00c5",
        "\u212b",
        "\u1ed9",
        "\u0141",
    ]
    texts = {
        "plain": [" ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 12))) for _ in range(60)],
        "cased": [" ".join(draw.choice(WORDS).title() for _ in range(5)) + draw.choice(".!?,;") for _ in range(30)],
        "blocks": [f"a{c}b {c} {c}{c} The{c}" for c in blocks],
        "emoji": [f"{w} {e}{e} x{e}" for e in emoji for w in WORDS[:6]],
        "accents": [f"{w}{a} {a.upper()} {w.title()}{a}x" for a in accented for w in WORDS[:3]],
        "marks": [f"e{m} {m} a{m}{m}b" for m in marks] + [f"{c}{m}" for m in marks for c in "aE\u4e2d"],
        "blanks": [f"{b}the{b}{b}line{b}" for b in blanks] + [f"a{b}" for b in blanks],
        "long": [letter * size for letter in ("a", "\u00e9", "Z", "\u4e2d") for size in sizes],
        "control": [f"x{c}y {c}" for c in control],
        "literal": [f"the {t} line {t}{t} x{t}" for t in literal] + [f" {t.lower()} " for t in literal],
        "empty": ["", " ", "\n", "\u3000"],
    }  # fmt: skip
    parts = [text for some in texts.values() for text in some]
    left = 500 - len(parts)
    assert left > 20, left
    texts["mixed"] = [" ".join(draw.sample(parts, 3)) for _ in range(left)]
    return texts


def wordpieces(special: list[str] = SPECIAL) -> dict[str, int]:
    """Returns a WordPiece vocabulary of letters, continued letters and words."""
    pieces = [
        *special,
        *LETTERS,
        *WIDE,
        *(f"##{letter}" for letter in (*LETTERS, *WIDE)),
        *WORDS,
        "##ing",
        "##ed",
        "The",
    ]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def byte_pairs(special: list[str] = ANGLED) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns a vocabulary of bytes in GPT-2's letters with the merges of some words, with and without a blank."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letter = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    pieces, merges = [*special, *letter.values()], []
    for word in (*WORDS, *(f" {word}" for word in WORDS)):
        letters = [letter[byte] for byte in word.encode()]
        built = letters[0]
        for following in letters[1:]:
            merges.append((built, following))
            built += following
            pieces.append(built)
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, list(dict.fromkeys(merges))


def unigrams() -> list[tuple[str, float]]:
    """Returns pieces with made-up logarithms of probabilities."""
    pieces = ["\u2581", *(f"\u2581{word}" for word in WORDS), *WORDS, *LETTERS, *WIDE]
    return [(piece, 0.0) for piece in ANGLED] + [(p, -1.0 - 0.01 * i) for i, p in enumerate(dict.fromkeys(pieces))]


def record(content: str, **flags: bool) -> dict[str, Any]:
    """Returns an added token as tokenizer_config.json has it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


def added(content: str, number: int, **flags: bool) -> dict[str, Any]:
    """Returns an added token as tokenizer.json has it."""
    return {"id": number} | record(content, **flags)


def word_file(special: list[str] = SPECIAL, **parts: Any) -> dict[str, Any]:
    """Returns the tokenizer.json of a BERT."""
    vocab = wordpieces(special)
    model = {"type": "WordPiece", "unk_token": special[1], "continuing_subword_prefix": "##"}
    template = {"type": "BertProcessing", "sep": [special[3], 3], "cls": [special[2], 2]}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(token, number) for number, token in enumerate(special)],
        "normalizer": {**normalizer, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template,
        "decoder": None,
        "model": {**model, "max_input_chars_per_word": 100, "vocab": vocab},
        **parts,
    }


def byte_file(**parts: Any) -> dict[str, Any]:
    """Returns the tokenizer.json of a RoBERTa."""
    vocab, merges = byte_pairs()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    template = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(token, number, lstrip=token == "<mask>") for number, token in enumerate(ANGLED)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {**template, "trim_offsets": True, "add_prefix_space": False},
        "decoder": None,
        "model": {**model, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": merges},
        **parts,
    }


def unigram_file(**parts: Any) -> dict[str, Any]:
    """Returns the tokenizer.json of an XLM-RoBERTa without its table of characters."""
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    single = [_special("<s>"), {"Sequence": {"id": "A", "type_id": 0}}, _special("</s>")]
    pair = [*single, _special("</s>"), {"Sequence": {"id": "B", "type_id": 0}}, _special("</s>")]
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (("<s>", 0), ("</s>", 2))}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(token, number, lstrip=token == "<mask>") for number, token in enumerate(ANGLED)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens},
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": False, "vocab": unigrams()},
        **parts,
    }


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def files(file: Mapping[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """Returns the files of a folder: contents of JSON, or texts."""
    return ({} if file is None else {"tokenizer.json": file}) | {
        name.replace("__", "."): v for name, v in others.items()
    }


def lines(pieces: Mapping[str, int]) -> str:
    return "".join(f"{piece}\n" for piece in pieces)


def merges_text() -> str:
    return "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in byte_pairs()[1])


CASED = {"do_lower_case": False, "strip_accents": False}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
OTHER = ["<blank>", "<oov>", "<begin>", "<end>", "<hole>"]
OTHER_ROLES = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), OTHER, strict=True))
NFC = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
DECODER = {str(n): record(t) for n, t in enumerate(SPECIAL)} | {"9": record("[NEW]", lstrip=True, rstrip=True)}
DECODER["7"] = record("line", special=False, normalized=True, single_word=True)

# (family, kind): the files of the folder.
FOLDERS: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
    ("bert", "tokenizer.json alone"): lambda: files(word_file()),
    ("bert", "few letters of a word in tokenizer.json"): lambda: files(
        word_file(model=word_file()["model"] | {"max_input_chars_per_word": 20}, added_tokens=[])
    ),
    ("bert", "cased by config"): lambda: files(word_file(), tokenizer_config__json=CASED),
    ("bert", "accents kept"): lambda: files(word_file(), tokenizer_config__json={"strip_accents": False}),
    ("bert", "accents cut in cased text"): lambda: files(
        word_file(), tokenizer_config__json={"do_lower_case": False, "strip_accents": True}
    ),
    ("bert", "Chinese in words"): lambda: files(word_file(), tokenizer_config__json={"tokenize_chinese_chars": False}),
    ("bert", "vocab.txt alone"): lambda: files(vocab__txt=lines(wordpieces())),
    ("bert", "vocab.txt, CRLF, cased"): lambda: files(
        vocab__txt=lines(wordpieces()).replace("\n", "\r\n"), tokenizer_config__json=CASED
    ),
    ("bert", "other special tokens"): lambda: files(word_file(OTHER), tokenizer_config__json=OTHER_ROLES),
    ("bert", "other special tokens in special_tokens_map.json"): lambda: files(
        vocab__txt=lines(wordpieces(OTHER)), special_tokens_map__json=OTHER_ROLES
    ),
    ("bert", "added tokens decoder"): lambda: files(
        word_file(), tokenizer_config__json={"added_tokens_decoder": DECODER, "extra_special_tokens": ["<new>"]}
    ),
    ("bert", "added_tokens.json"): lambda: files(
        word_file(),
        added_tokens__json={"<new>": 990, "the line": 991},
        special_tokens_map__json={
            "additional_special_tokens": ["<new>"],
            "mask_token": {"content": "[MASK]", "lstrip": True},
        },
    ),
    ("bert", "a special token in added_tokens.json"): lambda: files(
        word_file(),
        added_tokens__json={"[NEW]": 990},
        special_tokens_map__json={"additional_special_tokens": ["[NEW]"]},
    ),
    ("bert", "a token of a role of its own in added_tokens.json"): lambda: files(
        word_file(), added_tokens__json={"[NEW]": 990}, special_tokens_map__json={"x_token": "[NEW]"}
    ),
    ("bert", "special tokens of two files"): lambda: files(
        word_file(),
        tokenizer_config__json={"extra_special_tokens": ["<new>"]},
        special_tokens_map__json={"additional_special_tokens": ["[NEW]"]},
    ),
    ("bert", "additional tokens of the config in added_tokens.json"): lambda: files(
        word_file(), added_tokens__json={"[NEW]": 990}, tokenizer_config__json={"additional_special_tokens": ["[NEW]"]}
    ),
    ("bert", "objects in special_tokens_map.json"): lambda: files(
        vocab__txt=lines(wordpieces()),
        special_tokens_map__json={
            "mask_token": {"content": "[MASK]", "lstrip": True},
            "extra_special_tokens": [{"content": "[NEW]"}],
        },
    ),
    ("bert", "an added tokens decoder without tokens"): lambda: files(
        word_file(), tokenizer_config__json={"added_tokens_decoder": {}}, added_tokens__json={"[NEW]": 990}
    ),
    ("bert", "PreTrainedTokenizerFast"): lambda: files(word_file(normalizer=NFC), tokenizer_config__json=FAST),
    ("bert", "cut on the left"): lambda: files(word_file(), tokenizer_config__json={"truncation_side": "left"}),
    ("bert", "cut on the left by tokenizer.json"): lambda: files(
        word_file(truncation={"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0})
    ),
    ("bert", "XLMRobertaTokenizer"): lambda: files(
        unigram_file(), tokenizer_config__json={"tokenizer_class": "XLMRobertaTokenizer"}
    ),
    ("bert", "ElectraTokenizerFast, cased"): lambda: files(
        word_file(), tokenizer_config__json=CASED | {"tokenizer_class": "ElectraTokenizerFast"}
    ),
    ("distilbert", "tokenizer.json alone"): lambda: files(word_file()),
    ("distilbert", "vocab.txt alone"): lambda: files(vocab__txt=lines(wordpieces())),
    ("distilbert", "DistilBertTokenizer, cased"): lambda: files(
        word_file(), tokenizer_config__json=CASED | {"tokenizer_class": "DistilBertTokenizer"}
    ),
    ("roberta", "tokenizer.json alone"): lambda: files(byte_file()),
    ("roberta", "vocab.json and merges.txt"): lambda: files(vocab__json=byte_pairs()[0], merges__txt=merges_text()),
    ("roberta", "a blank before each text"): lambda: files(
        byte_file(), tokenizer_config__json={"add_prefix_space": True}
    ),
    ("roberta", "mask with blanks before it"): lambda: files(
        vocab__json=byte_pairs()[0],
        merges__txt=merges_text(),
        special_tokens_map__json={"mask_token": record("<mask>", lstrip=True)},
    ),
    ("roberta", "a normalizer that the class drops"): lambda: files(byte_file(normalizer=NFC)),
    ("roberta", "BertTokenizer"): lambda: files(
        word_file(), tokenizer_config__json={"tokenizer_class": "BertTokenizerFast"}
    ),
    ("xlm-roberta", "tokenizer.json alone"): lambda: files(unigram_file()),
    ("xlm-roberta", "no blank before each text"): lambda: files(
        unigram_file(), tokenizer_config__json={"add_prefix_space": False, "tokenizer_class": "XLMRobertaTokenizerFast"}
    ),
    ("modernbert", "tokenizer.json alone"): lambda: files(byte_file(normalizer={"type": "NFC"})),
    ("modernbert", "added tokens"): lambda: files(
        byte_file(),
        tokenizer_config__json=FAST
        | {"added_tokens_decoder": {"4": record("<mask>", lstrip=True), "700": record("   ", special=False)}},
    ),
    ("modernbert", "BertTokenizer is not taken"): lambda: files(
        word_file(normalizer=NFC), tokenizer_config__json={"tokenizer_class": "BertTokenizer"}
    ),
}


def config(family: str) -> dict[str, Any]:
    """Returns the config.json of a family, with room for every token."""
    offset = {"roberta": 2, "xlm-roberta": 4}.get(family, 0)
    return config_of(family) | {"vocab_size": 2000, "max_position_embeddings": POSITIONS + offset}


def write_folder(folder: Path, family: str, kind: str) -> Path:
    """Writes a folder of config.json and tokenizer files."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = FOLDERS[family, kind]() | {"config.json": config(family)}
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_bytes(text.encode())
    return folder


def imported(folder: Path, family: str):
    """Returns the tokenizer as an import makes it, and its notes."""
    from backbone.exchange.importing import read_tokenizer

    known, content = family_of(family), config(family)
    return read_tokenizer(folder, content, known, known.spec(content, set()))


def digest(rows: list[list[int]]) -> str:
    """Returns a short hash of rows of ids."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
