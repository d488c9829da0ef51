"""Backend: what an entry point of the group `farebox.lightning` offers, and how it is found.

Rules
1. The URL scheme is the name of the entry point; a package that is installed beside farebox adds schemes by itself. A
   Lightning Address has no scheme: it is `name@domain`.
2. A URL holds a password or a key, so no message quotes more of it than its scheme.
"""

from __future__ import annotations

import re
from typing import Final, Protocol, Self, cast

from farebox.core.errors import WalletError
from farebox.core.ports import Receiver, Wallet

GROUP: Final = "farebox.lightning"
_ADDRESS: Final = "lightning-address"
_IS_ADDRESS: Final = re.compile(r"[a-z0-9._+-]+@[a-z0-9.-]+(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)


class Backend(Protocol):
    """A kind of node or wallet. One that can't be paid, or can't pay, raises WalletError when it is opened for that."""

    @classmethod
    def open_receiver(cls, url: str) -> Receiver:
        """The node of this URL, to be paid; nothing is asked of it yet. Raises WalletError."""

    @classmethod
    def open_wallet(cls, url: str) -> Wallet:
        """The wallet of this URL, to pay; nothing is asked of it yet. Raises WalletError."""


class TwoPorts:
    """What a Backend inherits whose one class can be paid and can pay: it is opened in the same way for either."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The node or wallet of this URL; nothing is asked of it yet. Raises WalletError."""
        raise NotImplementedError

    @classmethod
    def open_receiver(cls, url: str) -> Self:
        """The node or wallet, to be paid. Raises WalletError."""
        return cls.from_url(url)

    @classmethod
    def open_wallet(cls, url: str) -> Self:
        """The node or wallet, to pay. Raises WalletError."""
        return cls.from_url(url)


def open_receiver(url: str) -> Receiver:
    """The node of a URL such as `phoenixd+http://:password@127.0.0.1:9740`, to be paid. Raises WalletError."""
    return _find(url).open_receiver(url)


def open_wallet(url: str) -> Wallet:
    """The wallet of a URL such as `phoenixd+http://:password@127.0.0.1:9740`, to pay. Raises WalletError."""
    return _find(url).open_wallet(url)


def _find(url: str) -> type[Backend]:
    from importlib.metadata import entry_points  # here, for it costs more to load than all of this room

    known = entry_points(group=GROUP)
    schemes = ", ".join(sorted(known.names - {_ADDRESS}))
    match = _SCHEME.match(url)
    if _IS_ADDRESS.fullmatch(url):
        scheme = _ADDRESS
    elif match is not None:
        scheme = match[1].lower()
    else:
        raise WalletError(f"a wallet is a URL with one of the schemes {schemes}; to be paid, name@domain will do")
    for entry in known.select(name=scheme):
        return cast("type[Backend]", entry.load())
    raise WalletError(f"no wallet has the scheme {scheme}; known are {schemes}")
