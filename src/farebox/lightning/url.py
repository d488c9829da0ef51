"""Read the URL of a node or wallet: where it is, and what opens it.

A URL holds a key or a password, so no message quotes more of it than the names of its parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from farebox.core.errors import WalletError
from farebox.core.secret import Secret

_KEY: Final = re.compile(r"[!-~]+")
_MOST_FILE: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUrl:
    """base_url: as it is asked, without a slash at its end. given: what stands behind the question mark."""

    base_url: str
    given: Mapping[str, str]
    password: Secret[str] | None = None

    def key(self, form: str) -> Secret[str]:
        """The `key` behind the question mark, fit for a header. Raises WalletError, which tells the form."""
        if self.password is not None or not _KEY.fullmatch(self.given["key"]):
            raise WalletError(f"it has a password, or characters that no key has; it is written as {form}")
        return Secret(self.given["key"])


def read_url(url: str, form: str, schemes: Mapping[str, str], *given: str, port: int | None = None) -> NodeUrl:
    """Read a node's URL. Raises WalletError, which tells the form.

    form: as the URL is written. schemes: the URL's to the one that it is asked by. given: the names that may stand
    behind the question mark, of which those that end in `!` have to. port: where the URL names none.
    """
    wrong = WalletError(f"it is written as {form}")
    try:
        parts = urlsplit(url.strip())
        port = parts.port or port
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise wrong from None
    scheme, host = schemes.get(parts.scheme.lower()), parts.hostname
    if scheme is None or not host or parts.fragment or parts.username:
        raise wrong
    if strange := query.keys() - {name.rstrip("!") for name in given}:
        raise WalletError(f"{', '.join(sorted(strange))} is not known in it; {wrong.detail}")
    for name in given:
        if name.endswith("!") and not query.get(name.rstrip("!")):
            raise WalletError(f"it has no {name.rstrip('!')}; {wrong.detail}")
    address = f"[{host}]" if ":" in host else host
    if port is not None:
        address += f":{port}"
    return NodeUrl(
        base_url=f"{scheme}://{address}{quote(unquote(parts.path)).rstrip('/')}",
        given=query,
        password=Secret(unquote(parts.password)) if parts.password else None,
    )


def read_file(path: str, what: str) -> bytes:
    """The file that a URL names. Raises WalletError."""
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(_MOST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such path"
        raise WalletError(f"the {what} can't be read from {path}: {reason}") from None


def read_certificate(path: str | None) -> str | None:
    """The certificate that a URL names, as PEM; None where it names none. Raises WalletError."""
    if not path:
        return None
    text = read_file(path, "certificate").decode("ascii", "replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise WalletError(f"{path} is no certificate (PEM)")
    return text
