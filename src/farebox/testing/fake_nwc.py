"""A wallet service of Nostr Wallet Connect in front of a node of the sandbox; as a function, and over a relay.

Rules
1. Members, units and codes are those of NIP-47. As real wallets do, it shows the preimage of an unpaid invoice, and
   tells a payment that was made before as an error.
2. A request is done once, by its id, and not after its expiration; and only if it comes from the one key it knows.
3. Where the sandbox has lost a reply, or a payment stays in flight, there is no answer.
4. What the node was paid is told once, to whoever listens then; in both encryptions where it reads both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Final

from websockets.asyncio.client import ClientConnection, connect

from farebox.core.amount import NOTHING, Amount
from farebox.core.bolt11 import Invoice, decode
from farebox.core.conversation import HttpReply, ListenCall, RelayCall
from farebox.core.errors import MalformedInvoice
from farebox.core.exchange import Json
from farebox.core.ports import Clock, Failed, InvoiceState, Paid
from farebox.core.secret import Secret
from farebox.lightning.sandbox import SandboxNode
from farebox.lightning.sandbox.transfer import TransferState
from farebox.nostr import nip04, nip44
from farebox.nostr.call import accepts
from farebox.nostr.event import Event, read_event, sign_event
from farebox.nostr.keys import public_key, shared_x

RECEIVES: Final = ("get_info", "get_balance", "make_invoice", "lookup_invoice")
HOLDS: Final = ("make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice")
_LOOK_EVERY_S: Final = 0.05
EVERYTHING: Final = (*RECEIVES, *HOLDS, "pay_invoice")
_STATES: Final = {
    InvoiceState.OPEN: "pending",
    InvoiceState.HELD: "accepted",
    InvoiceState.PAID: "settled",
    InvoiceState.CANCELLED: "expired",
}


class _Refused(Exception):
    """A code, and what it says."""


class _Silence(Exception):
    """No answer comes."""


class FakeNwc:
    """One wallet, and the one connection to it.

    methods: what the connection allows. encryption: what it reads, or None for a wallet that says nothing of it.
    stateless: it tells no `state`, as LNbits. whole_sats: it leaves out what is less than a satoshi. informs: whether
    there is an event that says what it can do. notifies: whether it tells of payments that it received.
    answers: requests that it did, by their id.
    """

    def __init__(
        self,
        node: SandboxNode,
        clock: Clock,
        *,
        relays: tuple[str, ...] = ("wss://relay.test",),
        methods: tuple[str, ...] = EVERYTHING,
        encryption: str | None = "nip44_v2 nip04",
        stateless: bool = False,
        whole_sats: bool = False,
        informs: bool = True,
        notifies: bool = True,
    ) -> None:
        self.node = node
        self.methods = methods
        self.encryption = encryption
        self.stateless = stateless
        self.whole_sats = whole_sats
        self.informs = informs
        self.notifies = notifies
        self.answers: dict[str, Event | None] = {}
        self._clock = clock
        self._relays = relays
        self._secret_key = sha256(f"wallet of {node.name}".encode()).digest()
        self._client_key = sha256(f"client of {node.name}".encode()).digest()
        self.public_key = public_key(self._secret_key)
        self._client = public_key(self._client_key)
        self._shared_x = shared_x(self._secret_key, self._client)
        self._told: set[bytes] = set()
        self._pretended: list[bytes] = []

    @property
    def uri(self) -> str:
        """What a client is given."""
        relays = "&".join(f"relay={relay}" for relay in self._relays)
        return f"nostr+walletconnect://{self.public_key.hex()}?{relays}&secret={self._client_key.hex()}"

    def info(self) -> Event:
        """What it says of itself."""
        tags = [] if self.encryption is None else [["encryption", self.encryption]]
        tags += [["notifications", "payment_received payment_sent"]] if self.notifies else []
        return self._sign(13194, " ".join(self.methods), tags)

    def pretend(self, payment_hash: bytes) -> None:
        """Tell that this was paid, whether or not it was."""
        self._pretended.append(payment_hash)

    def notices(self) -> list[Event]:
        """What it has to tell since it was asked last, the oldest first."""
        paid = self.node.newest_paid(from_ms=0, to_ms=2**62, most=1_000, offset=0) if self.notifies else []
        untold = [payment_hash for payment_hash in reversed(paid) if payment_hash not in self._told]
        self._told.update(untold)
        pretended, self._pretended = self._pretended, []
        return [event for payment_hash in (*pretended, *untold) for event in self._notices_of(payment_hash)]

    def reply(self, call: RelayCall | ListenCall) -> HttpReply:
        """What a relay would bring back."""
        if not self.node.reachable:
            return HttpReply(status=0, sent=False, reason="connection refused")
        if isinstance(call, ListenCall):
            events = self.notices()
            assert all(accepts(call, event) for event in events)
            told = f"[{','.join(event.write() for event in events)}]"
            return HttpReply(status=200, body=told.encode()) if events else HttpReply(status=204)
        if call.event is None:
            return HttpReply(status=200, body=self.info().write().encode()) if self.informs else HttpReply(status=404)
        event = read_event(call.event)
        assert event is not None, "what was published is no event"
        answer = self.answer(event)
        if answer is None:
            return HttpReply(status=0, sent=True, reason="Timeout")
        assert accepts(call, answer)
        return HttpReply(status=200, body=answer.write().encode())

    def answer(self, event: Event) -> Event | None:
        """Do what a request asks for, once; None where it stays silent."""
        if event.id not in self.answers:
            self.answers[event.id] = self._answer(event)
        return self.answers[event.id]

    async def serve(self, relay: str, *, ready: asyncio.Event, slow: timedelta = timedelta(0)) -> None:
        """Answer over a relay until it is cancelled. slow: how long an answer takes."""
        async with connect(relay, proxy=None, compression=None) as socket:
            if self.informs:
                await socket.send(f'["EVENT",{self.info().write()}]')
            wanted: Json = {"kinds": [23194], "#p": [self.public_key.hex()]}
            await socket.send(json.dumps(["REQ", "requests", wanted]))
            telling = asyncio.create_task(self._tell(socket))
            try:
                async for message in socket:
                    match json.loads(message):
                        case ["EOSE", *_]:
                            ready.set()
                        case ["EVENT", _, dict(told)]:
                            event = read_event(told)
                            answer = None if event is None or event.id in self.answers else self.answer(event)
                            if answer is not None:
                                await asyncio.sleep(slow.total_seconds())
                                await socket.send(f'["EVENT",{answer.write()}]')
            finally:
                telling.cancel()

    # --- small print --------------------------------------------------------------------------------------------------

    def _notices_of(self, payment_hash: bytes) -> list[Event]:
        invoice = self.node.find_invoice(payment_hash)
        told: Json = {"payment_hash": payment_hash.hex()} if invoice is None else self._incoming(invoice)
        said = json.dumps({"notification_type": "payment_received", "notification": told})
        modern, known = "nip44_v2" in (self.encryption or ""), "nip04" in (self.encryption or "nip04")
        kinds = [(23197, nip44)] * modern + [(23196, nip04)] * known
        return [
            self._sign(kind, cipher.encrypt(cipher.conversation_key(self._shared_x), said), [["p", self._client.hex()]])
            for kind, cipher in kinds
        ]

    async def _tell(self, socket: ClientConnection) -> None:
        while True:
            for event in self.notices():
                await socket.send(f'["EVENT",{event.write()}]')
            await asyncio.sleep(_LOOK_EVERY_S)

    def _answer(self, event: Event) -> Event | None:
        expires_s = event.tagged("expiration")
        if event.author != self._client.hex() or event.tagged("p") != (self.public_key.hex(),):
            return None
        if expires_s and int(expires_s[0]) < self._clock().timestamp():
            return None
        modern = event.tagged("encryption") == ("nip44_v2",)
        if modern != (nip04.MARK not in event.content) or ("nip44_v2" if modern else "nip04") not in (
            self.encryption or "nip04"
        ):
            return None  # it can't read it
        cipher = nip44 if modern else nip04
        key = cipher.conversation_key(self._shared_x)
        asked = json.loads(cipher.decrypt(key, event.content) or "")
        said: dict[str, Json] = {"result_type": asked["method"]}
        try:
            if asked["method"] not in self.methods:
                raise _Refused("RESTRICTED", "this connection may not do that")
            said["result"] = _METHODS[asked["method"]](self, asked["params"])
        except _Refused as refused:
            said["error"] = {"code": refused.args[0], "message": refused.args[1]}
        except _Silence:
            return None
        tags = [["p", self._client.hex()], ["e", event.id]]
        return self._sign(23195, cipher.encrypt(key, json.dumps(said)), tags)

    def _sign(self, kind: int, content: str, tags: list[list[str]]) -> Event:
        return sign_event(self._secret_key, kind=kind, content=content, tags=tags, created_at=self._clock())

    def _get_info(self, params: Mapping[str, Json]) -> Json:
        return {
            "alias": self.node.name,
            "color": "#ff8800",
            "pubkey": self.node.public_key.hex(),
            "network": self.node.network.value,
            "block_height": 1,
            "block_hash": "00" * 32,
            "methods": list(self.methods),
            "notifications": ["payment_received", "payment_sent"] if self.notifies else [],
        }

    def _get_balance(self, params: Mapping[str, Json]) -> Json:
        return {"balance": self.node.funds().msat}

    def _make_invoice(self, params: Mapping[str, Json]) -> Json:
        invoice = self.node.issue(
            self._amount(params),
            description=str(params.get("description", "")),
            expires_in=timedelta(seconds=_integer(params, "expiry")),
        )
        return self._incoming(invoice)

    def _make_hold_invoice(self, params: Mapping[str, Json]) -> Json:
        invoice = self.node.issue_held(
            self._amount(params),
            payment_hash=bytes.fromhex(str(params["payment_hash"])),
            description=str(params.get("description", "")),
            expires_in=timedelta(seconds=_integer(params, "expiry")),
        )
        return self._incoming(invoice)

    def _settle(self, params: Mapping[str, Json]) -> Json:
        if not self.node.settle(Secret(bytes.fromhex(str(params["preimage"])))):
            raise _Refused("INTERNAL", "nothing is held for it")
        return {}

    def _cancel(self, params: Mapping[str, Json]) -> Json:
        if not self.node.cancel(bytes.fromhex(str(params["payment_hash"]))):
            raise _Refused("INTERNAL", "it is settled")
        return {}

    def _lookup_invoice(self, params: Mapping[str, Json]) -> Json:
        payment_hash = bytes.fromhex(str(params["payment_hash"]))
        invoice = self.node.find_invoice(payment_hash)
        if invoice is not None:
            return self._incoming(invoice)
        transfer = self.node.find_transfer(payment_hash)
        if transfer is None:
            raise _Refused("NOT_FOUND", "no such transaction")
        paid = transfer.state is TransferState.PAID
        states = {TransferState.PAID: "settled", TransferState.FAILED: "failed"}
        told: dict[str, Json] = {
            "type": "outgoing",
            "state": states.get(transfer.state, "pending"),
            "invoice": transfer.invoice,
            "preimage": None if transfer.preimage is None else transfer.preimage.reveal().hex(),
            "payment_hash": payment_hash.hex(),
            "amount": transfer.sent.msat,
            "fees_paid": transfer.fee.msat,
            "created_at": int(transfer.created_at.timestamp()),
            "settled_at": int(self._clock().timestamp()) if paid else None,
        }
        return self._shown(told)

    def _pay_invoice(self, params: Mapping[str, Json]) -> Json:
        try:
            invoice = decode(str(params.get("invoice")))
        except MalformedInvoice:
            raise _Refused("OTHER", "that is no invoice") from None
        earlier = self.node.find_transfer(invoice.payment_hash)
        if earlier is not None and earlier.state is not TransferState.FAILED:
            raise _Refused("OTHER", "this invoice was paid, or is being paid")
        if (invoice.amount or NOTHING) + self.node.fee > self.node.funds():
            raise _Refused("INSUFFICIENT_BALANCE", "there is not enough")
        match self.node.pay(invoice, fee_limit=None):
            case Paid(preimage=preimage, fee=fee):
                return {"preimage": preimage.reveal().hex(), "fees_paid": fee.msat}
            case Failed(reason=reason):
                raise _Refused("PAYMENT_FAILED", reason)
            case _:
                raise _Silence

    def _incoming(self, invoice: Invoice) -> Json:
        status = self.node.invoice_status(invoice.payment_hash)
        preimage = self.node.preimage_of(invoice)
        paid = status.state is InvoiceState.PAID
        return self._shown(
            {
                "type": "incoming",
                "state": _STATES.get(status.state, "pending"),
                "invoice": invoice.text,
                "description": invoice.description,
                "preimage": None if preimage is None else preimage.reveal().hex(),
                "payment_hash": invoice.payment_hash.hex(),
                "amount": (status.received if paid else invoice.amount or NOTHING).msat,
                "fees_paid": 0,
                "created_at": int(invoice.created_at.timestamp()),
                "expires_at": int(invoice.expires_at.timestamp()),
                "settled_at": int(self._clock().timestamp()) if paid else None,
            }
        )

    def _shown(self, told: dict[str, Json]) -> dict[str, Json]:
        """Without a state where the wallet knows none, but for a failure."""
        return {
            name: value for name, value in told.items() if name != "state" or not self.stateless or value == "failed"
        }

    def _amount(self, params: Mapping[str, Json]) -> Amount:
        amount = Amount.msats(_integer(params, "amount"))
        return Amount.sats(amount.in_sats_floor()) if self.whole_sats else amount


_Method = Callable[[FakeNwc, Mapping[str, Json]], Json]
_METHODS: Final[Mapping[str, _Method]] = {
    "get_info": FakeNwc._get_info,
    "get_balance": FakeNwc._get_balance,
    "make_invoice": FakeNwc._make_invoice,
    "lookup_invoice": FakeNwc._lookup_invoice,
    "pay_invoice": FakeNwc._pay_invoice,
    "make_hold_invoice": FakeNwc._make_hold_invoice,
    "settle_hold_invoice": FakeNwc._settle,
    "cancel_hold_invoice": FakeNwc._cancel,
}


def _integer(params: Mapping[str, Json], name: str) -> int:
    value = params.get(name)
    if not isinstance(value, int):
        raise _Refused("OTHER", f"{name} is missing")
    return value
