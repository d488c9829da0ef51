"""Admission: how much callers without a payment may ask for.

Rules (reliability, 3.4: admission)
1. Nobody who shows a good proof is asked about any of this; whoever shows a false one counts as showing none. So does
   whoever asks more often than once a second whether an invoice was paid.
2. What is cheap to refuse is refused first, and before anything is asked of the ledger or the node.
3. Each client, and each /48 of IPv6, has a bucket of its own; everyone together has one as well. Whoever has no address
   of its own is a crowd and no caller, so only the common bucket binds it, and it leaves half of that to the others.
4. Everything here is bounded, and this process' own. What has to hold for many processes is counted in the ledger.
5. Seconds are those of the event loop, which nobody can set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from farebox.core.client_prefix import LOCAL, subnet_of
from farebox.core.errors import GateOverloaded, TooManyUnpaidCalls
from farebox.gate.terms import Limits

_MOST_CLIENTS: Final = 16_384  # lately seen, and as many before
_LOOKS: Final = 4  # into the ledger for callers without a payment, for each invoice that may be made
_POLLS: Final = 3  # of one invoice, at once
_COUNT_EVERY_S: Final = 1.0


class Pace:
    """So many in a second on average, and so many in a burst: the generic cell rate algorithm (ITU-T I.371)."""

    __slots__ = ("_apart_s", "_burst_s", "_due_s")

    def __init__(self, *, per_second: float, at_once: float) -> None:
        self._apart_s = 1 / per_second
        self._burst_s = (at_once - 1) * self._apart_s
        self._due_s = float("-inf")

    def take(self, now_s: float, *, reserve: float = 0.0) -> bool:
        """Whether one more is within the pace now; takes it if so. reserve: the part of a burst that is for others."""
        if self._due_s - now_s > self._burst_s * (1 - reserve):
            return False
        self._due_s = max(self._due_s, now_s) + self._apart_s
        return True

    def give_back(self) -> None:
        """One that was taken was not needed."""
        self._due_s -= self._apart_s


class Paces:
    """A pace for each of many keys, in a number a key; who has not been seen for long begins anew."""

    def __init__(self, *, per_second: float, at_once: float, most: int = _MOST_CLIENTS) -> None:
        self._apart_s = 1 / per_second
        self._burst_s = (at_once - 1) * self._apart_s
        self._most = most
        self._due_s: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._due_s) + len(self._before)

    def take(self, key: str, now_s: float) -> bool:
        """Whether one more is within this key's pace now; takes it if so."""
        due_s = self._due_s.get(key)
        if due_s is None:
            due_s = self._before.get(key, now_s)
        if due_s - now_s > self._burst_s:
            return False
        if len(self._due_s) >= self._most and key not in self._due_s:
            self._due_s, self._before = {}, self._due_s
        self._due_s[key] = max(due_s, now_s) + self._apart_s
        return True


class Admission:
    """The doorkeeper for callers without a payment."""

    def __init__(self, limits: Limits) -> None:
        rate, burst = limits.calls_per_s, limits.calls_at_once
        self._clients = Paces(per_second=rate, at_once=burst)
        self._subnets = Paces(per_second=rate * limits.subnet, at_once=burst * limits.subnet)
        self._polls = Paces(per_second=1, at_once=_POLLS)
        self._crowd = Pace(per_second=rate * limits.subnet, at_once=burst * limits.subnet)
        a_second = max(2.0, limits.invoices_per_s)
        self._looks = Pace(per_second=limits.invoices_per_s * _LOOKS, at_once=a_second * _LOOKS)
        self._invoices = Pace(per_second=limits.invoices_per_s, at_once=a_second)

    def enter(self, client: str, now_s: float) -> None:
        """A caller without a payment asks. Raises TooManyUnpaidCalls."""
        if client == LOCAL:
            return
        subnet = subnet_of(client)
        if not self._clients.take(client, now_s) or not (subnet is None or self._subnets.take(subnet, now_s)):
            raise TooManyUnpaidCalls()

    def reject(self, client: str, now_s: float) -> None:
        """A caller shows a proof that is none. Raises TooManyUnpaidCalls."""
        if client != LOCAL:
            self.enter(client, now_s)
        elif not self._crowd.take(now_s):
            raise TooManyUnpaidCalls()

    def poll(self, client: str, payment_hash: bytes, now_s: float) -> None:
        """A caller asks whether an invoice was paid; it counts when that is more often than once a second.

        Raises TooManyUnpaidCalls.
        """
        if not self._polls.take(payment_hash.hex(), now_s):
            self.reject(client, now_s)

    def look(self, client: str, now_s: float) -> None:
        """The ledger is going to be asked about a caller without a payment. Raises GateOverloaded."""
        if not self._looks.take(now_s, reserve=_reserve(client)):
            raise GateOverloaded("too many callers ask without a payment")

    def take_invoice(self, client: str, now_s: float) -> bool:
        """Whether an invoice may be made now; then it counts, unless it is given back."""
        return self._invoices.take(now_s, reserve=_reserve(client))

    def give_back_invoice(self) -> None:
        """An invoice that might have been made was not."""
        self._invoices.give_back()


def _reserve(client: str) -> float:
    return 0.5 if client == LOCAL else 0.0


class Outstanding:
    """How many invoices of everyone's are unpaid: counted once a second at most, plus all that were begun since.

    So it is never too low for one gateway. Of several with one ledger, each learns within a second what the others
    made, so they may be over the cap by what they make in a second.
    """

    def __init__(self, count: Callable[[], Awaitable[int]], most: int) -> None:
        self._count = count
        self._most = most
        self._counted: int | None = None
        self._counted_at_s = float("-inf")
        self._begun = self._ended = self._ended_before = 0

    async def begin(self, client: str, now_s: float) -> None:
        """One more is going to be made, until `end` tells that it was, or will not be. Raises GateOverloaded."""
        if self._counted is None or now_s - self._counted_at_s >= _COUNT_EVERY_S:
            self._counted_at_s = now_s
            # What is being made while this is counted may be in it or not, so it is added all the same.
            ended_before = self._ended
            counted = await self._count()
            self._counted, self._ended_before = counted, ended_before
        most = self._most * (1 - _reserve(client))
        if self._counted + self._begun - self._ended_before >= most:
            raise GateOverloaded("too many invoices are unpaid")
        self._begun += 1

    def end(self) -> None:
        """It was made, or not."""
        self._ended += 1
