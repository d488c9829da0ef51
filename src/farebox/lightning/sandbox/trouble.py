"""Trouble: what is to go wrong in the sandbox, scripted beforehand and never random."""

from __future__ import annotations

import threading
from enum import Flag, auto


class Trouble(Flag):
    """What goes wrong with a payment; join several with `|`."""

    NONE = 0
    FAIL = auto()  # no route: nothing moves, and the wallet says so
    LOSE_REPLY = auto()  # it does whatever it does, and the caller does not learn of it
    STAY_IN_FLIGHT = auto()  # it is held until `Sandbox.release`, or until the payee cancels
    PAY_LATE = auto()  # it arrives although the invoice has expired
    PAY_TWICE = auto()  # the payee receives the amount twice


class Script:
    """The troubles that are still to come, each for the payment of one hash or for the next of any; once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: dict[bytes | None, Trouble] = {}

    def add(self, payment_hash: bytes | None, trouble: Trouble) -> None:
        """Let this happen to the payment of that hash, or with None to the next payment."""
        with self._lock:
            self._coming[payment_hash] = trouble

    def take(self, payment_hash: bytes) -> Trouble:
        """What was to happen to this payment; it is then forgotten."""
        with self._lock:
            return self._coming.pop(payment_hash, Trouble.NONE) | self._coming.pop(None, Trouble.NONE)
