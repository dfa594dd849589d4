"""Captions without markup, addresses, file names and numbers of files, in lower case."""

import html
import re
import urllib.parse
import warnings
from collections.abc import Callable

_Rule = tuple[re.Pattern[str], str]


def clean_twice(text: str) -> str:
    """The cleaning that published weights were sampled with: the second pass finds more."""
    return clean_caption(clean_caption(text))


def clean_caption(text: str) -> str:
    """One pass of the cleaning."""
    for step in _STEPS:
        text = step(text)
    return text


def _decode(text: str) -> str:
    return urllib.parse.unquote_plus(text).strip().lower()


def _strip_markup(text: str) -> str:
    from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        return BeautifulSoup(text, features="html.parser").text


def _split_joined_words(text: str) -> str:
    """Hyphens and underscores are spaces where there are many: a file name, most likely."""
    return re.sub(r"[-_]", " ", text) if len(re.findall(r"[-_]", text)) > 3 else text


def _repair(text: str) -> str:
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _rules(*rules: tuple[str, str]) -> Callable[[str], str]:
    compiled: list[_Rule] = [(re.compile(pattern), new) for pattern, new in rules]

    def apply(text: str) -> str:
        for pattern, new in compiled:
            text = pattern.sub(new, text)
        return text

    return apply


def _address(start: str) -> str:
    """An address: its start alone, or a host under a common domain with its path."""
    host = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/\-]*\b/?(?!@)"
    return rf"\b(?:{start}:(?:/{{1,3}}|[a-zA-Z0-9%])|{host})"


_DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_CHINESE = (
    "\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff"
)
_FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"

_STEPS: tuple[Callable[[str], str], ...] = (
    _decode,
    _rules(("<person>", "person"), (_address("https?"), ""), (_address("www"), "")),
    _strip_markup,
    _rules(
        (r"@\w+", ""),
        (f"[{_CHINESE}]", ""),
        (f"[{_DASHES.replace('-', chr(92) + '-', 1)}]+", "-"),
        ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
        ("[\u2018\u2019]", "'"),
        ("&quot;?", ""),
        ("&amp", ""),
        (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
        (r"\d:\d\d\s+$", ""),
        (r"\\n", " "),
        (r"#\d{1,3}\b", ""),
        (r"#\d{5,}\b", ""),
        (r"\b\d{6,}\b", ""),
        (rf"\S+\.(?:{_FILE_TYPES})", ""),
        ("[\"']{2,}", '"'),
        (r"\.{2,}", " "),
        (
            "[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~)(\\]\\[}{|\\\\/*]+",
            " ",
        ),
        (r"\s+\.\s+", " "),
    ),
    _split_joined_words,
    _repair,
    _rules(
        (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
        (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
        (r"\b\d+[a-zA-Z]+\d+\b", ""),
        (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
        (r"(?:free\s)?download(?:\sfree)?", ""),
        (r"\bclick\b\s(?:for|on)\s\w+", ""),
        (rf"\b(?:{_FILE_TYPES})(?:\simages?)?", ""),
        (r"\bpage\s+\d+\b", ""),
        (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
        (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),
        (r"\b\s+:\s+", ": "),
        (r"(\D[,./])\b", r"\1 "),
        (r"\s+", " "),
        (r"^[\"'](.+)[\"']$", r"\1"),
        (r"^['_,\-:;]", ""),
        (r"['_,\-:+]$", ""),
        (r"^\.\S+$", ""),
    ),
    str.strip,
)
