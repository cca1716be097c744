r"""How byte-level vocabularies in GGUF files cut a text before merging: `tokenizer.ggml.pre` to regular expressions.

The names are llama.cpp's; the expressions are those of the models' own tokenizers (Oniguruma syntax). Each expression
splits the pieces that the one before it left; what lies between two matches is a piece as well. Where llama.cpp
approximates an expression for want of Unicode classes (gpt-4o, tekken, kimi-k2), the original stands here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting. `ignore_merges` and `add_bos` are what llama.cpp assumes for the name."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    add_sep: bool = False
    normalize_spaces: bool = False
    """Not byte-level: spaces are written as U+2581 and unknown characters as <0xNN> tokens"""


_CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_KANA_HAN = "[一-龥぀-ゟ゠-ヿ]+"
_HANGUL_HAN = "[一-龥ࠀ-一가-퟿]+"
_CODE_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_SENTENCE = " ?[^(\\s|.,!?…。，、।۔،)]+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = f"{_CONTRACTION}|{_WORD}|\\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = f"{_CONTRACTION}|{_WORD}|\\p{{N}}|{_SYMBOLS}|{_SPACES}"
_DEEPSEEK = rf"{_CODE_WORD}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"


def _cased(numbers: str, contraction: str = "", symbols: str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*", han: str = "") -> str:
    """Words cut where lower case is followed by upper case; `han` is taken out of the letters."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{han}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{han}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = f"{lead}{upper}*{lower}+{contraction}|{lead}{upper}+{lower}*{contraction}"
    return f"{words}|{numbers}|{symbols}|{_SPACES}"


_GPT4O = _cased(r"\p{N}{1,3}", f"{_CONTRACTION}?")

# The cased letters that DeepSeek LLM's tokenizer lists one by one. Escapes: letters that Unicode normalisation changes.
_DEEPSEEK_LLM_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
    "ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻"
    "𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
# The scripts without spaces between words that AFMoE's tokenizer splits off.
_AFMOE_SCRIPTS = "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
_FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"

_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_GPT2_KIND = PreTokenizer((_GPT2,))
_DIGITS_KIND = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_KIND = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_LLAMA3_PLAIN = PreTokenizer((_LLAMA3,))
_QWEN2_KIND = PreTokenizer((_QWEN2,))
_GPT4O_KIND = PreTokenizer((_GPT4O,))
_DEEPSEEK3_KIND = PreTokenizer((r"\p{N}{1,3}", _KANA_HAN, _DEEPSEEK))
_SENTENCE_KIND = PreTokenizer((_SENTENCE,))
_BAILING_KIND = PreTokenizer(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    )
)
_TINY_AYA_KIND = PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O))
_LINES_KIND = PreTokenizer((r"[^\n]+|[\n]+",), normalize_spaces=True)

_KINDS: tuple[tuple[str, PreTokenizer], ...] = (
    ("default", _DEFAULT),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", _LLAMA3_KIND),
    ("dbrx smaug-bpe glm4 chatglm-bpe", _LLAMA3_PLAIN),
    ("gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert", _GPT2_KIND),
    ("mpt olmo jais trillion granite-docling exaone4", _GPT2_KIND),
    ("jina-v1-en jina-v2-code roberta-bpe", PreTokenizer((_GPT2,), add_sep=True)),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _DIGITS_KIND),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2", _QWEN2_KIND),
    (
        "qwen35",
        PreTokenizer(
            (
                f"{_CONTRACTION}|[^\\r\\n\\p{{L}}\\p{{N}}]?[\\p{{L}}\\p{{M}}]+|\\p{{N}}"
                f"| ?[^\\s\\p{{L}}\\p{{M}}\\p{{N}}]+[\\r\\n]*|{_SPACES}",
            )
        ),
    ),
    ("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    (
        "deepseek-llm",
        PreTokenizer(
            (
                "[\r\n]",
                rf"\s?[{_DEEPSEEK_LLM_LETTERS}]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"\s+$",
                _HANGUL_HAN,
                r"\p{N}+",
            )
        ),
    ),
    ("deepseek-coder", PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HANGUL_HAN, r"\p{N}"))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _DEEPSEEK3_KIND),
    (
        "spark2_5",
        PreTokenizer(
            (
                r"\p{N}{1,3}",
                _KANA_HAN,
                rf"{_CODE_WORD}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
                r"\p{N}",
            )
        ),
    ),
    (
        "youtu",
        PreTokenizer(
            (
                f"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|{_KANA_HAN}",
                _cased(r"\p{N}", f"{_CONTRACTION}?"),
            ),
            ignore_merges=True,
        ),
    ),
    ("poro-chat bloom gpt3-finnish", _SENTENCE_KIND),
    ("viking", PreTokenizer((_SENTENCE, r"\p{N}"))),
    ("tekken", PreTokenizer((_cased(r"\p{N}"),), ignore_merges=True, add_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O_KIND),
    ("granite-embed-multi-97m", PreTokenizer((_GPT4O,), ignore_merges=True)),
    ("tiny_aya cohere2moe", _TINY_AYA_KIND),
    (
        "kimi-k2",
        PreTokenizer(
            (r"\p{Han}+|" + _cased(r"\p{N}{1,3}", f"{_CONTRACTION}?", symbols=_SYMBOLS, han=r"&&[^\p{Han}]"),),
        ),
    ),
    ("superbpe", PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))"))),
    ("bailingmoe bailingmoe2 llada-moe", _BAILING_KIND),
    ("seed-coder", PreTokenizer((f"{_CONTRACTION}|{_WORD}|\\p{{N}}{{1}}| ?[^\\s\\p{{L}}\\p{{N}}\\r\\n]+|{_SPACES}",))),
    ("ufakzeka", PreTokenizer((f"{_WORD}|\\p{{N}}|{_SYMBOLS}|{_SPACES}",))),
    ("laguna", PreTokenizer((r"[^\n]+|[\n]+", _QWEN2))),
    ("minicpm5", PreTokenizer((r"\p{N}{1,3}", _QWEN2.replace(r"|\p{N}|", r"|\p{N}+|")), ignore_merges=True)),
    (
        "jais-2",
        PreTokenizer(
            (
                f"{_CONTRACTION}|{_WORD}|\\p{{N}}{{1,3}}|{_SYMBOLS}|\\s*[\\r\\n]+|"
                + "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
                + r"|\s{1}",
            )
        ),
    ),
    (
        "exaone-moe",
        PreTokenizer(
            (
                f"{_CONTRACTION}|[^\\r\\n\\p{{L}}\\p{{N}}]?(?:\\p{{L}}\\p{{M}}*(?: \\p{{L}}\\p{{M}}*)*)+|\\p{{N}}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    ("afmoe", PreTokenizer((_FROM_THE_RIGHT, _AFMOE_SCRIPTS, _DEEPSEEK))),
    (
        "chameleon",
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                "([\\t\\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    ),
    ("gemma4 granite-embed-multi-311m", PreTokenizer(_LINES_KIND.patterns, add_bos=True, normalize_spaces=True)),
    ("sarvam-moe", _LINES_KIND),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: kind for names, kind in _KINDS for name in names.split()}
"""Every name that `tokenizer.ggml.pre` may have."""
