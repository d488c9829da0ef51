"""Names: how an operation that was kept, although nobody could tell, is known again.

A database that goes away while it commits leaves two possibilities. Whoever asks again says the same name, and finds
what it did itself instead of somebody else's in its way.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Hold

_NAME_BYTES: Final = 16
_MOST: Final = 10_000


def claiming(payment_hash: bytes, digest: bytes) -> bytes:
    """The operation that claims a payment for one request: what was won for it is no other request's."""
    return payment_hash + digest


def capturing(hold: Hold) -> bytes:
    """The operation that captures a hold."""
    return b"%b capture %d" % (hold.payment_hash, hold.epoch)


class Names:
    """Random names of operations; one that ended in doubt gets the same name when it is asked for again."""

    def __init__(self) -> None:
        self._doubtful: OrderedDict[bytes, bytes] = OrderedDict()

    @contextmanager
    def name(self, operation: bytes, given: bytes | None = None) -> Iterator[bytes]:
        """The name to use for this operation now; that which is `given` by somebody who remembers it himself."""
        if given is not None:
            yield given
            return
        known = operation in self._doubtful
        name = self._doubtful.pop(operation) if known else secrets.token_bytes(_NAME_BYTES)
        try:
            yield name
        except StoreUnavailable:
            self._doubtful[operation] = name
            if len(self._doubtful) > _MOST:
                self._doubtful.popitem(last=False)
            raise
