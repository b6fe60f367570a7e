"""The words that a program is started with, as far as they can be known before it runs.

A shell's script is cut into the commands that it may run, without running anything. What cannot be known (a variable
from elsewhere, a substitution, a script in a file) becomes `UNKNOWN`, never nothing: whoever reads takes it for bad.
Comments are read as if they were commands.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from genealog.policy.kubernetes.workloads import UNKNOWN, Container

_SHELLS = frozenset({"ash", "bash", "busybox", "dash", "ksh", "sh", "zsh"})
_SCRIPT = re.compile(r"-[A-Za-z]*c[A-Za-z]*\Z")
_TAKING = ("--init-file", "--rcfile")  # of a shell's long options, those with a value
_INTERPRETER = re.compile(r"(node|perl|pypy3?|python[0-9.]*|ruby)\Z")
_CODE = re.compile(r"-[A-Za-z]*[ce]\Z|-c.|--eval")  # of these, that an argument is code
_SPLIT = re.compile(r"-[A-Za-z0-9]*S|--s")  # of `env`, that an argument is a command
_DEEPEST = 4  # shells in shells that are read
_LIVE = frozenset({".", "alias", "eval", "read", "source", "trap", "xargs"})  # what they run is in no word here
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=")
_BRACES = re.compile(r"\{[^{}]*(,|\.\.)[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Given:
    """One flag: its name with dashes for underscores, and its values; `shown` is how it was written."""

    name: str
    values: tuple[str, ...]
    shown: str

    @property
    def value(self) -> str:
        """Its first value."""
        return self.values[0] if self.values else UNKNOWN


def commands_of(container: Container) -> list[tuple[str, ...]]:
    """Return the commands that a container may run, each as its words. The first may be the image's own, left out."""
    words = (*container.command, *container.args)
    return _commands(words, container, _DEEPEST) if words else []


def assigned_in(words: tuple[str, ...], names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield which of these variables a command sets, and to what; `UNKNOWN` where one is only named."""
    for word in words:
        found = _ASSIGNED.match(word)
        if found and found[1] in names:
            yield found[1], UNKNOWN if "+=" in found[0] else word[found.end() :]
        elif word in names:
            yield word, UNKNOWN


def _commands(words: tuple[str, ...], container: Container, deep: int) -> list[tuple[str, ...]]:
    for index, word in enumerate(words):
        program = PurePosixPath(word).name
        if program in _SHELLS:
            script = _script_of(words[index + 1 :])
            if script is None or not deep:  # a file, or what comes on its standard input
                return [words, (UNKNOWN,)]
            return [each for line in _script(script, container) for each in _commands(line, container, deep - 1)]
        code = _SPLIT if program == "env" else _CODE if _INTERPRETER.match(program) else None
        options = itertools.takewhile(lambda each: not each.startswith("-m"), words[index + 1 :])
        if code is not None and any(code.match(each) for each in options):
            return [words, (UNKNOWN,)]
    return [words]


def _script_of(words: Sequence[str]) -> str | None:
    """Return the script that a shell is given with `-c`, among its other options."""
    given, skip = False, False
    for word in words:
        if skip:
            skip = False
        elif word.startswith(("-", "+")) and len(word) > 1:
            given = given or bool(_SCRIPT.match(word))
            skip = word in _TAKING if word.startswith("--") else word.endswith(("o", "O"))
        elif word not in _SHELLS:
            return word if given else None
    return None


def flags_of(words: tuple[str, ...]) -> list[Given]:
    """Return every flag among words, as `--flag value …` and as `--flag=value`."""
    found = []
    for index, word in enumerate(words):
        if not word.startswith("-") or len(word) < 2:
            continue
        name, equals, value = word.partition("=")
        values = [value] if equals else []
        if not equals:
            for following in words[index + 1 :]:
                if following.startswith("-") and len(following) > 1:
                    break
                values.append(following)
        found.append(Given(name.replace("_", "-"), tuple(values), word))
    return found


def adapters_in(value: str) -> Iterator[str]:
    """Yield the path of `name=path`, of its JSON form, or of a bare path (several with commas)."""
    if value.startswith(("{", "[")):
        try:
            said = json.loads(value)
        except ValueError:
            said = None
        for each in said if isinstance(said, list) else [said]:
            path = each.get("path") if isinstance(each, dict) else None
            yield path if isinstance(path, str) else UNKNOWN
        return
    for each in value.split(","):
        yield each.partition("=")[2] or each


def drafts_in(values: Sequence[str]) -> Iterator[str]:
    """Yield the draft model of `--speculative-config JSON`; a method without a model has none."""
    try:
        said = json.loads(values[0]) if values else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        yield UNKNOWN
        return
    if isinstance(said.get("model"), str):
        if said["model"] not in ("ngram", "[ngram]"):
            yield said["model"]
    elif said.get("method") not in ("ngram", "mtp", "suffix"):
        yield UNKNOWN


def _script(text: str, container: Container) -> list[tuple[str, ...]]:
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    try:
        tokens = list(lexer)
    except ValueError:
        return [(UNKNOWN,)]
    assigned = {found[1] for token in tokens if (found := _ASSIGNED.match(token))}
    env = {name: value for name, value in container.env.items() if name not in assigned}
    commands: list[list[str]] = [[]]
    skip = False
    for token in tokens:
        if token and set(token) <= set(";&|()<>\n"):
            skip = bool(set(token) & set("<>"))
            if skip and commands[-1] and commands[-1][-1].isdecimal() and len(commands[-1][-1]) == 1:
                commands[-1].pop()  # of `2>&1`
            if not skip:
                commands.append([])
            elif "<<" in token or "(" in token:
                commands[-1].append(UNKNOWN)
            continue
        if skip:  # a file that is read or written
            skip = False
            continue
        commands[-1] += _expanded(token, env)
    lines = [tuple(command) for command in commands if command]
    return [*lines, (UNKNOWN,)] if any(word in _LIVE for line in lines for word in line) else lines


def _expanded(token: str, env: Mapping[str, str]) -> list[str]:
    """Return what a word of a shell becomes. Quotes are gone by here, so that it may be more than the shell makes."""
    if _BRACES.search(token) and not _is_json(token):
        return [UNKNOWN]
    if "$" not in token and "`" not in token:
        return [token]
    text = _VARIABLE.sub(lambda found: env.get(found[1] or found[2], UNKNOWN), token)
    if "`" in text or "$" in text:
        head = re.match(r"--?[A-Za-z][A-Za-z0-9_.-]*=", text)
        return [(head[0] if head else "") + UNKNOWN]
    return text.split() or []


def _is_json(token: str) -> bool:
    try:
        json.loads(token[token.find("{") : token.rfind("}") + 1])
    except ValueError:
        return False
    return True
