"""Challenges and credentials in HTTP authentication fields (RFC 9110, section 11).

Rules
1. A field value holds any number of challenges, and a comma may part two challenges, two parameters or nothing at all.
2. What can be read in two ways is refused: a parameter given twice, crumbs behind a value, a quote that does not close.
3. Reading takes time linear in the input, the input is bounded, and only MalformedChallenge is ever raised.
4. Writing refuses what would not come back as it was, control characters above all: nobody injects a header line.

One liberty: an unquoted value may hold any visible character but quote, comma and backslash, because base64 is sent
unquoted out there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from farebox.core.errors import MalformedChallenge
from farebox.core.exchange import Pairs

_MOST_CHARACTERS: Final = 64 * 1024
_MOST_CHALLENGES: Final = 64

# Every repetition is possessive (`++`, `*+`), so no input makes the scanner go back over what it has read.
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # what the RFC calls a token
_CONTROL: Final = r"\x00-\x08\x0a-\x1f\x7f"
_QUOTED: Final = rf'"((?:[^"\\{_CONTROL}]++|\\[^{_CONTROL}])*+)"'
_UNQUOTED: Final = r"([!#-+\--\[\]-~\x80-\U0010ffff]++)"
_END: Final = r"(?=[ \t]*+(?:,|\Z))"

_BETWEEN: Final = re.compile(r"[ \t,]*+")
_SCHEME: Final = re.compile(rf"({_WORD})(?:{_END}|[ \t]++)")
_TOKEN68: Final = re.compile(rf"([A-Za-z0-9\-._~+/]++=*+){_END}")
_PARAMETER: Final = re.compile(rf"({_WORD})[ \t]*+=[ \t]*+(?:{_QUOTED}|{_UNQUOTED}){_END}")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NAME: Final = re.compile(_WORD)
_WRITABLE: Final = re.compile(r"[ -~]*+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthChallenge:
    """One challenge of a `WWW-Authenticate` field.

    scheme: as it was spelt. token68: instead of parameters, or empty. parameters: names in lower case, in their order.
    """

    scheme: str
    token68: str = field(default="", repr=False)
    parameters: Pairs = field(default=(), repr=False)

    def get(self, name: str) -> str | None:
        """The value of a parameter; the name in lower case."""
        for present, value in self.parameters:
            if present == name:
                return value
        return None


def read_challenges(values: Iterable[str]) -> tuple[AuthChallenge, ...]:
    """Every challenge in the values of all `WWW-Authenticate` lines, in order. Raises MalformedChallenge."""
    found: list[AuthChallenge] = []
    size = 0
    for value in values:
        size += len(value)
        if size > _MOST_CHARACTERS:
            raise MalformedChallenge(f"more than {_MOST_CHARACTERS} characters of challenges")
        found += _read_value(value)
        if len(found) > _MOST_CHALLENGES:
            raise MalformedChallenge(f"more than {_MOST_CHALLENGES} challenges")
    return tuple(found)


def find_challenges(values: Iterable[str], *schemes: str) -> tuple[AuthChallenge, ...]:
    """The challenges of these schemes (in lower case), whatever nonsense stands in the lines of others.

    Raises MalformedChallenge when there are none, and a line that names one of the schemes can't be read.
    """
    found: list[AuthChallenge] = []
    trouble: MalformedChallenge | None = None
    for value in values:
        try:
            found += [challenge for challenge in read_challenges((value,)) if challenge.scheme.lower() in schemes]
        except MalformedChallenge as error:
            if any(scheme in value[:_MOST_CHARACTERS].lower() for scheme in schemes):
                trouble = trouble or error
        if len(found) > _MOST_CHALLENGES:
            raise MalformedChallenge(f"more than {_MOST_CHALLENGES} challenges")
    if trouble and not found:
        raise trouble
    return tuple(found)


def write_challenge(scheme: str, parameters: Pairs) -> str:
    """One challenge with every value quoted and one space behind each comma. Raises MalformedChallenge."""
    for name in (scheme, *(name for name, _ in parameters)):
        if not _NAME.fullmatch(name):
            raise MalformedChallenge("a scheme or parameter name is no token")
    return f"{scheme} " + ", ".join(f'{name}="{_escape(name, value)}"' for name, value in parameters)


def split_credential(value: str) -> tuple[str, str]:
    """The scheme of an `Authorization` value, in lower case, and what follows it; never raises."""
    scheme, _, rest = value.strip(" \t").partition(" ")
    return scheme.lower(), rest.lstrip(" ")


def _escape(name: str, value: str) -> str:
    if not _WRITABLE.fullmatch(value):
        raise MalformedChallenge(f"the value of `{name}` has characters that no header may carry")
    return value.replace("\\", "\\\\").replace('"', '\\"')


@lru_cache(maxsize=16)  # each dialect reads the same lines of a 402
def _read_value(text: str) -> tuple[AuthChallenge, ...]:
    found: list[AuthChallenge] = []
    at = _skip(text, 0)
    while at < len(text):
        if len(found) == _MOST_CHALLENGES:
            raise MalformedChallenge(f"more than {_MOST_CHALLENGES} challenges")
        scheme = _SCHEME.match(text, at)
        if scheme is None:
            raise MalformedChallenge("neither a scheme nor a parameter", at=at)
        at = scheme.end()
        token68 = _TOKEN68.match(text, at)
        if token68 is not None:
            parameters: Pairs = ()
            at = token68.end()
        else:
            alone = at == len(text) or text[at] in " \t,"  # such as `Negotiate`
            parameters, at = _read_parameters(text, _skip(text, at))
            if not (parameters or alone):
                raise MalformedChallenge("no parameter where one should be", at=at)
        found.append(AuthChallenge(scheme=scheme[1], token68=token68[1] if token68 else "", parameters=parameters))
        at = _skip(text, at)
    return tuple(found)


def _read_parameters(text: str, at: int) -> tuple[Pairs, int]:
    parameters: dict[str, str] = {}
    while (match := _PARAMETER.match(text, at)) is not None:
        name = match[1].lower()
        if name in parameters:
            raise MalformedChallenge("a parameter is given twice", at=at)
        quoted = match[2]
        parameters[name] = match[3] if quoted is None else _unescape(quoted)
        at = _skip(text, match.end())
    return tuple(parameters.items()), at


def _unescape(quoted: str) -> str:
    return _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted


def _skip(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return match.end() if match else at
