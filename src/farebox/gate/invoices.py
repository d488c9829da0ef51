"""Invoices: the one that a caller has not paid yet, or a new one within the limits.

Rules (reliability, 3.4: admission)
1. A caller's own unpaid invoice for the same request and price comes first; asking for it twice at once makes one. Of a
   crowd that has no addresses of its own each gets another: who has been told an invoice knows its payment hash. So
   does each call that is paid on success: what is run for it is the very call that its invoice was made for.
2. Nothing is asked of the node that is going to be refused. While no more may be made, only those are looked for in the
   ledger who were given an invoice lately: they may have one still.
3. While every node is known to be away none is asked; which one makes an invoice is decided in `gate.nodes`.
4. The ledger has the last word on how many a client may owe. What it refuses was seen by nobody, and runs out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from typing import Final

from farebox.core.bolt11 import Invoice, decode
from farebox.core.client_prefix import LOCAL
from farebox.core.errors import GateOverloaded, TooManyUnpaidInvoices
from farebox.core.payment import Payment, PaymentState
from farebox.core.ports import Ledger
from farebox.core.secret import Keys
from farebox.gate.admission import Admission, Outstanding
from farebox.gate.escrow import new_seed, preimage_of
from farebox.gate.flights import Flights
from farebox.gate.nodes import Nodes, Order
from farebox.gate.terms import Terms, Visit

_MOST_CLIENTS: Final = 8192
_MOST_DESCRIPTION: Final = 120  # characters; phoenixd takes 128

_Wanted = tuple[str, bytes, int, int]  # client, digest and price; and a number for each of a crowd
_Found = tuple[Invoice, bool, Visit]  # whether the caller had it already, and for whom it was found or made


class Invoices:
    """Finds and makes invoices: `invoice, reused = await invoices.owed_for(visit)`.

    keys: what preimages of our own are made with; without any nothing is held. trust: whether a client may pay on
    success.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        nodes: Nodes,
        terms: Terms,
        admission: Admission,
        keys: Keys | None = None,
        trust: Callable[[str], bool] = lambda _: True,
    ) -> None:
        limits = terms.limits
        self._ledger = ledger
        self._nodes = nodes
        self._terms = terms
        self._admission = admission
        self._keys = keys
        self._trust = trust
        self._flights: Flights[_Wanted, _Found] = Flights(limits.waiting, _too_many_wait)
        self._outstanding = Outstanding(ledger.count_unpaid, limits.all_unpaid_invoices)
        self._of_crowd = count(1)
        self._asked_for: OrderedDict[str, None] = OrderedDict()  # clients that have been given an invoice

    async def owed_for(self, visit: Visit) -> tuple[Invoice, bool]:
        """The invoice for this call, and whether the caller had it already.

        Raises TooManyUnpaidInvoices, GateOverloaded, NodeUnavailable, StoreUnavailable.
        """
        client = visit.client
        own = client == LOCAL or self._may_hold(visit)
        number = next(self._of_crowd) if own else 0
        wanted = client, visit.quote.digest, visit.quote.amount.msat, number
        if wanted not in self._flights:
            may_make = self._admission.take_invoice(client, _now_s())
            try:
                if not may_make and client not in self._asked_for:
                    raise GateOverloaded("too many invoices are being made")
                self._admission.look(client, _now_s())
            except GateOverloaded:
                self._give_back(may_make)
                raise
        else:
            may_make = False
        invoice, reused, found_for = await self._flights.join(wanted, lambda: self._find_or_make(visit, may_make))
        if client != LOCAL:
            self._remember(client)
        return invoice, reused or found_for is not visit

    def _may_hold(self, visit: Visit) -> bool:
        """Whether an invoice for this call may be one that is held, which is never told to anybody else."""
        return visit.on_success and self._keys is not None and self._nodes.holds and self._trust(visit.client)

    async def is_held(self, visit: Visit, payment_hash: bytes) -> bool:
        """Whether what is paid for an invoice that was made for this call is held until it has succeeded."""
        return visit.on_success and await self._ledger.find_escrow(payment_hash) is not None

    async def close(self) -> None:
        """End what is under way."""
        await self._flights.close()

    async def _find_or_make(self, visit: Visit, may_make: bool) -> _Found:  # noqa: FBT001 - taken where this begins
        quote, client = visit.quote, visit.client
        made = False
        try:
            if client != LOCAL and not self._may_hold(visit):
                known = await self._ledger.reusable_payment(client=client, digest=quote.digest, price=quote.amount)
                if known is not None and self._nodes.may_tell_again(known.receiver):
                    return decode(known.invoice), True, visit
            if not may_make:
                raise GateOverloaded("too many invoices are being made")
            self._nodes.check()
            if client != LOCAL:  # a crowd, and no caller
                of_client, of_subnet = await self._ledger.count_unpaid_of(client)
                most, most_of_subnet = self._most
                if of_client >= most or of_subnet >= most_of_subnet:
                    raise TooManyUnpaidInvoices()
            await self._outstanding.begin(client, _now_s())
            made = True
            try:
                return await self._make(visit), False, visit
            finally:
                self._outstanding.end()
        finally:
            self._give_back(may_make and not made)

    def _give_back(self, unused: bool) -> None:  # noqa: FBT001 - says it
        if unused:
            self._admission.give_back_invoice()

    def _remember(self, client: str) -> None:
        self._asked_for[client] = None
        self._asked_for.move_to_end(client)
        if len(self._asked_for) > _MOST_CLIENTS:
            self._asked_for.popitem(last=False)

    @property
    def _most(self) -> tuple[int, int]:
        limits = self._terms.limits
        return limits.unpaid_invoices, limits.unpaid_invoices * limits.subnet

    async def _make(self, visit: Visit) -> Invoice:
        quote = visit.quote
        seed = new_seed(self._keys) if self._keys is not None and self._may_hold(visit) else None
        preimage = None if self._keys is None or seed is None else preimage_of(seed, self._keys)
        order = Order(
            amount=quote.amount,
            description=(quote.description or quote.resource)[:_MOST_DESCRIPTION],
            expires_in=self._terms.invoice_expires_in,
            preimage=preimage,
        )
        invoice, receiver = await self._nodes.mint(order)
        held = preimage is not None and sha256(preimage.reveal()).digest() == invoice.payment_hash
        payment = Payment(
            payment_hash=invoice.payment_hash,
            state=PaymentState.OPEN,
            price=quote.amount,
            digest=quote.digest,
            resource=quote.resource,
            client=visit.client,
            invoice=invoice.text,
            created_at=invoice.created_at,
            expires_at=invoice.expires_at,
            receiver=receiver,
        )
        most, most_of_subnet = self._most if visit.client != LOCAL else (None, None)
        opened = await self._ledger.open_payment(
            payment, most_unpaid=most, most_unpaid_of_subnet=most_of_subnet, seed=seed if held else None
        )
        if not opened:
            raise TooManyUnpaidInvoices()
        return invoice


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _too_many_wait() -> GateOverloaded:
    return GateOverloaded("too many callers wait for an invoice")
