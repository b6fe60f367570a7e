"""A command as it may stand in a log: secrets masked; and the script in it, as far as one can be found.

Masked is what stands behind a word that names a secret (`--token x`, `--password=x`, `api_key=x`, `HF_TOKEN=x`), the
user part of a URL, the login that curl takes (`-u name:password`), and what is spelled as the tokens of well-known
services are. A secret under an innocent name is not known for one, and neither is what stands behind a letter that
means many things (`-k`, `-p`): give secrets by the environment, which is not recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

MASK = "***"
MAX_WORDS = 400
MAX_WORD = 2_000  # characters
_LOOKED_AT = 4 * MAX_WORD  # of a longer word nothing behind is shown, so nothing behind is searched
_NAME = (
    r"(?:[A-Za-z0-9_.-]{0,64}?(?:password|passwd|passphrase|secret|token|credential|signature|passin|passout"
    r"|api[_-]?key|access[_-]?key|private[_-]?key)s?"
    r"|(?:[A-Za-z0-9_.-]{0,64}[_.-])?(?:key|auth|pass|pwd|pat|bearer|authorization|sig|jwt|cookie))"
)
_VALUE = r"""\"[^"]*"?|'[^']*'?|(?:(?:bearer|basic|digest|token)\s+)?[^\s'",;&]+"""
_OPTION = re.compile(rf"--?{_NAME}", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?P<name>[-+~]{{0,3}}{_NAME})(?P<sign>[=:]\s*)(?P<value>.+)", re.IGNORECASE | re.DOTALL)
_INSIDE = re.compile(rf"(?P<name>\b{_NAME})(?P<sign>['\"]?\]?\s*[=:]\s*)(?P<value>{_VALUE})", re.IGNORECASE)
_BEHIND = re.compile(rf"(?P<name>(?<!\S)--?{_NAME})(?P<sign>\s+)(?P<value>(?!--[a-z])(?:{_VALUE}))", re.IGNORECASE)
# A name and a password in one word, as `curl -u` and `--user` take them; two numbers are a user and a group.
_LOGIN = r"(?!\d+:\d+(?:\s|$))[^\s:'\"]{1,200}:[^\s'\"]+"
_PAIR = re.compile(rf"(?P<name>(?<!\S)(?:--(?:proxy-)?user[=\s]|-[uU]\s?)\s*['\"]?)(?:{_LOGIN})")
_CURL = re.compile(r"\bcurl\b|--(?:proxy-)?user\b")
_USER_OPTION = re.compile(r"--(?:proxy-)?user|-[uU]")
_NEXT_OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9_.-]*(?:=.*)?", re.DOTALL)
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/\s]+|[^\s/@:]+:(?!\d+/)[^\s@]*)@")
_KNOWN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_COUNTS = re.compile(
    r"--?(?:[A-Za-z0-9_-]*(?:num|max|min|n|new|pad|eos|bos|unk|mask|total|add)[_-])[A-Za-z0-9_-]*tokens?[A-Za-z0-9_-]*"
)
_TAKES_LOGIN = frozenset(("curl", "curl.exe", "http", "https", "xh"))
_PYTHON = re.compile(r"python[0-9.]*(?:\.exe)?")
_WITH_VALUE = frozenset(("-W", "-X", "--check-hash-based-pycs"))


def mask(words: Sequence[str]) -> tuple[str, ...]:
    """Return a command without what names itself a secret; long words and endless commands are cut, visibly."""
    found, hide, user = [], False, False
    curl = any(Path(word).name in _TAKES_LOGIN for word in words[:MAX_WORDS] if len(word) <= MAX_WORD)
    for word in words[:MAX_WORDS]:
        # a password may begin with a dash; what is spelled as an option is taken for one
        if (hide and not _NEXT_OPTION.fullmatch(word)) or (user and re.fullmatch(_LOGIN, word[:_LOOKED_AT])):
            found.append(MASK)
            hide = user = False
            continue
        hide = bool(_OPTION.fullmatch(word)) and not _COUNTS.fullmatch(word)
        user = bool(_USER_OPTION.fullmatch(word)) and (curl or word.startswith("--"))
        attached = _PAIR.fullmatch(word) if word.startswith("--user=") or curl else None
        if attached:
            found.append(f"{attached['name']}{MASK}")
        else:
            found.append(word if hide else mask_text(word))
    if len(words) > MAX_WORDS:
        found.append(f"… {len(words) - MAX_WORDS} more words")
    return tuple(found)


def mask_text(word: str) -> str:
    """Return one word or line with the secrets in it masked. Bytes that are no text are spelled as `\\x…`."""
    word, whole = word.encode(errors="backslashreplace").decode()[:_LOOKED_AT], len(word) <= _LOOKED_AT
    if (assigned := _ASSIGNED.fullmatch(word)) and not _COUNTS.fullmatch(assigned["name"]):
        return f"{assigned['name']}{assigned['sign']}{MASK}"
    word = _KNOWN.sub(MASK, _USER.sub(rf"\g<scheme>{MASK}@", word))
    if any(letter in word for letter in " \n\"'&;?") and not _COUNTS.match(word):
        word = _INSIDE.sub(rf"\g<name>\g<sign>{MASK}", word)
        if _CURL.search(word):
            word = _PAIR.sub(rf"\g<name>{MASK}", word)
        word = _BEHIND.sub(lambda m: m[0] if _COUNTS.fullmatch(m["name"]) else f"{m['name']}{m['sign']}{MASK}", word)
    return word if whole and len(word) <= MAX_WORD else word[:MAX_WORD] + "…"


def is_python(program: str) -> bool:
    """Say whether a program is called as Python is."""
    return bool(_PYTHON.fullmatch(Path(program).name))


def script_of(words: Sequence[str], folder: Path) -> Path | None:
    """Return the script that a command runs: the first word, after the program, that is a file of source code.

    None for `python -m module`, `python -c`, and a program without one.
    """
    rest = list(words[1:])
    if words and is_python(words[0]):
        while rest and rest[0].startswith("-"):
            option = rest.pop(0)
            if option in ("-m", "-c", "-"):
                return None
            if option in _WITH_VALUE and rest:
                rest.pop(0)
        path = folder / rest[0] if rest else None
        return path if path is not None and path.is_file() else None
    for word in rest:
        if word.endswith((".py", ".sh")) and (folder / word).is_file():
            return folder / word
    first = folder / words[0] if words and "/" in words[0] else None
    return first if first is not None and first.is_file() and first.suffix in (".py", ".sh") else None


def value_of(word: str) -> str:
    """Return what a word of a command gives: itself, or what stands behind the sign of an option."""
    option, sign, value = word.partition("=")
    return value if sign and option.startswith("-") else word
