"""Payments over real channels as no ordinary buyer or seller makes them: held, in part, too little, too much."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from typing import Final, TypeVar

from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice
from farebox.core.ports import Conversation
from farebox.core.secret import Secret
from farebox.lightning.lnd import Lnd
from farebox.testing.regtest import Lightning, Refused, Regtest

T = TypeVar("T")

PATIENCE_S: Final = 30.0
_BETWEEN_S: Final = 0.02
_PAGE: Final = 1000


class HoldingLnd(Lnd):
    """An lnd node whose every invoice is held when it is paid. preimages: what settles each, by payment hash."""

    preimages: dict[bytes, Secret[bytes]]

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        """A new hold invoice for exactly this amount."""
        preimage = secrets.token_bytes(32)
        payment_hash = sha256(preimage).digest()
        self.preimages[payment_hash] = Secret(preimage)
        return (
            yield from self.create_hold_invoice(
                amount, payment_hash=payment_hash, description=description, expires_in=expires_in
            )
        )


def holding(node: Lightning) -> HoldingLnd:
    """A node as one that holds whatever it is paid."""
    opened = HoldingLnd.from_url(node.url())
    opened.preimages = {}
    return opened


def until(true: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """Ask until it is so; what it then is. Raises AssertionError."""
    ends = time.monotonic() + within_s
    while not (result := true()):
        assert time.monotonic() < ends, f"it took too long until {what}"
        time.sleep(_BETWEEN_S)
    return result


def funds(node: Lightning) -> Amount:
    """What is a node's own in its channels, once nothing is on its way in them."""
    until(lambda: not under_way(node), "nothing was on its way")
    return Amount.msats(int(node.ask("/v1/balance/channels")["local_balance"]["msat"]))


def under_way(node: Lightning) -> list[bytes]:
    """The payment hashes of what is on its way through a node's channels, in no order."""
    channels = node.ask("/v1/channels")["channels"]
    return [base64.b64decode(each["hash_lock"]) for channel in channels for each in channel["pending_htlcs"]]


def bring_back(regtest: Regtest, node: Lightning) -> None:
    """Start a node that was killed; returns when there are all channels again."""
    node.node.start()
    for opener, other in ((regtest.buyer, regtest.hub), (regtest.hub, regtest.seller)):
        with suppress(Refused):  # because they have found each other by themselves
            opener.ask("/v1/peers", {"addr": {"pubkey": other.key, "host": f"127.0.0.1:{other.peer}"}, "timeout": "5"})
    regtest.wait_for_channels()


def attempts(node: Lightning) -> dict[str, str]:
    """All that a node ever tried to pay: the state of each by its payment hash, in hexadecimal digits."""
    found: dict[str, str] = {}
    offset = 0
    while True:
        page = node.ask(f"/v1/payments?include_incomplete=true&max_payments={_PAGE}&index_offset={offset}")
        if not page["payments"]:
            return found
        found.update((each["payment_hash"], each["status"]) for each in page["payments"])
        offset = int(page["last_index_offset"])


def pay_along(regtest: Regtest, invoice: Invoice, amount: Amount, *, of: Amount) -> bool:
    """The buyer pays so much along the one route there is, as a part of so much; whether it arrived.

    Waits until the seller has decided, which for a part may last for two minutes.
    """
    buyer = regtest.buyer
    route = buyer.ask(
        "/v2/router/route",
        {
            "amt_msat": str(amount.msat),
            "final_cltv_delta": invoice.min_final_cltv,
            "hop_pubkeys": [_base64(bytes.fromhex(key)) for key in (regtest.hub.key, regtest.seller.key)],
            "payment_addr": _base64(invoice.payment_secret),
        },
    )["route"]
    route["hops"][-1]["mpp_record"]["total_amt_msat"] = str(of.msat)
    told = buyer.ask("/v2/router/route/send", {"payment_hash": _base64(invoice.payment_hash), "route": route})
    arrived: bool = told["status"] == "SUCCEEDED"
    return arrived


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
