"""Connection: the two keys and the relays of one Nostr Wallet Connect URI, and what is said over them (NIP-47).

Rules
1. The secret goes nowhere: it signs, and makes the key that both sides know.
2. An answer is read in the encryption that it is written in, whichever was asked for: it is signed by the wallet.
3. An answer without a code and without a result is none: the wallet may have done what it was asked, or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs, urlsplit

from farebox.core.amount import NOTHING, Amount
from farebox.core.conversation import HttpReply, ListenCall, RelayCall
from farebox.core.errors import WalletError
from farebox.core.exchange import HASH_BYTES, Json
from farebox.core.ports import Failed, InvoiceState, Paid, PayOutcome, Unresolved
from farebox.core.secret import Secret
from farebox.lightning.reply import Told, count, hash_of, msats, preimage_of, read_list, read_object, text
from farebox.nostr import nip04, nip44
from farebox.nostr.call import accepts
from farebox.nostr.event import Event, read_event, sign_event
from farebox.nostr.keys import public_key, shared_x

INFO_KIND, REQUEST_KIND, RESPONSE_KIND = 13194, 23194, 23195
NOTICE_KINDS: Final = (23197, 23196)  # in NIP-44 and in NIP-04
NIP44: Final = "nip44_v2"
NOT_FOUND: Final = "NOT_FOUND"
PAYMENT_RECEIVED: Final = "payment_received"
FORM: Final = "nostr+walletconnect://WALLET?relay=wss://HOST&secret=SECRET"
_SCHEME: Final = "nostr+walletconnect"
_COMPRESSED_DIGITS: Final = 66
_MOST_RELAYS: Final = 5
_MOST_REASON: Final = 200
_NAME_DIGITS: Final = 8
_OK: Final = 200
_STATES: Final = MappingProxyType(
    {
        "pending": InvoiceState.OPEN,
        "accepted": InvoiceState.HELD,
        "settled": InvoiceState.PAID,
        "expired": InvoiceState.CANCELLED,
        "failed": InvoiceState.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request: a result, or the code of a refusal and what it says, or neither.

    sent: whether the wallet may have seen the request.
    """

    result: Told | None = field(default=None, repr=False)
    code: str = ""
    complaint: str = ""
    sent: bool = True


class Connection:
    """What a URI says. Raises WalletError when its keys are none.

    wallet: the public key of the wallet, in hexadecimal digits. relays: where it listens.
    """

    def __init__(self, *, wallet: str, relays: tuple[str, ...], secret: Secret[bytes]) -> None:
        self.wallet = wallet
        self.relays = relays
        self._secret = secret
        try:
            shared = shared_x(secret.reveal(), bytes.fromhex(wallet))
            self._own_key = public_key(secret.reveal()).hex()
        except ValueError:
            raise WalletError(f"the wallet's public key or the secret is none; it is written as {FORM}") from None
        self._nip04_key = Secret(nip04.conversation_key(shared))
        self._nip44_key = Secret(nip44.conversation_key(shared))

    @property
    def name(self) -> str:
        """`nwc 69effe7b at relay.getalby.com`."""
        return f"nwc {self.wallet[:_NAME_DIGITS]} at {urlsplit(self.relays[0]).netloc}"

    def ask_info(self, *, within: timedelta) -> RelayCall:
        """Ask for the event in which the wallet says what it can do."""
        return RelayCall(relays=self.relays, author=self.wallet, kinds=(INFO_KIND,), timeout=within)

    def request(
        self,
        method: str,
        params: Mapping[str, Json],
        *,
        encryption: str,
        now: datetime,
        within: timedelta,
        expires: bool,
    ) -> RelayCall:
        """Ask for something, encrypted. expires: the wallet must not do it when nobody waits any more."""
        asked = json.dumps({"method": method, "params": dict(params)})
        tags = [["p", self.wallet]]
        if encryption == NIP44:
            tags.append(["encryption", NIP44])
            content = nip44.encrypt(self._nip44_key.reveal(), asked)
        else:
            content = nip04.encrypt(self._nip04_key.reveal(), asked)
        if expires:
            tags.append(["expiration", str(int((now + within).timestamp()))])
        event = sign_event(self._secret.reveal(), kind=REQUEST_KIND, content=content, tags=tags, created_at=now)
        return RelayCall(
            relays=self.relays,
            author=self.wallet,
            kinds=(RESPONSE_KIND,),
            event=event.write(),
            answers=event.id,
            timeout=within,
        )

    def read(self, method: str, call: RelayCall, reply: HttpReply) -> Answer:
        """What the wallet answered to a request."""
        event = event_of(call, reply)
        told = None if event is None else self._read_content(event)
        if told is None or text(told, "result_type") not in (None, method):  # some leave it out
            return Answer(complaint=complaint(reply), sent=reply.status != 0 or reply.sent)
        error, result = told.get("error"), told.get("result")
        if error is not None:
            error = error if isinstance(error, dict) else {}
            words = " ".join((text(error, "message") or "without a reason").split())[:_MOST_REASON]
            code = text(error, "code") or "OTHER"
            return Answer(code=code, complaint=f"the wallet refused: {words} ({code[:_MOST_REASON]})")
        if not isinstance(result, dict):
            return Answer(complaint=complaint(reply))
        return Answer(result=result)

    def listen(self, *, within: timedelta) -> ListenCall:
        """Hear what the wallet tells by itself."""
        return ListenCall(
            relays=self.relays, author=self.wallet, kinds=NOTICE_KINDS, addressed=self._own_key, timeout=within
        )

    def read_notices(self, call: ListenCall, reply: HttpReply) -> list[bytes]:
        """The payment hashes of what the wallet says was paid to it, each once.

        Only the wallet itself is believed, and only that it is worth looking.
        """
        hashes: dict[bytes, None] = {}
        for told in read_list(reply.body) or ():
            event = read_event(told)
            notice = self._read_content(event) if event is not None and accepts(call, event) else None
            if notice is None or text(notice, "notification_type") != PAYMENT_RECEIVED:
                continue
            received = notice.get("notification")
            payment_hash = hash_of(received, "payment_hash") if isinstance(received, dict) else None
            if payment_hash is not None:
                hashes[payment_hash] = None
        return list(hashes)

    def _read_content(self, event: Event) -> Told | None:
        if nip04.MARK in event.content:
            words = nip04.decrypt(self._nip04_key.reveal(), event.content)
        else:
            words = nip44.decrypt(self._nip44_key.reveal(), event.content)
        return None if words is None else read_object(words.encode())


def event_of(call: RelayCall, reply: HttpReply) -> Event | None:
    """The event in a reply, if it answers the call."""
    event = read_event(reply.body) if reply.status == _OK else None
    return event if event is not None and accepts(call, event) else None


def complaint(reply: HttpReply) -> str:
    """What is wrong with a reply, in words that may be shown to anyone."""
    if reply.status == 0 and not reply.sent:
        return f"no relay of the wallet takes anything ({reply.reason})" if reply.reason else "no relay was reached"
    if reply.status == 0:
        return f"the wallet did not answer ({reply.reason})" if reply.reason else "the wallet did not answer"
    return "the wallet answered with something that can't be read"


def outcome_of(looked: Answer, payment_hash: bytes) -> PayOutcome:
    """What a look-up says of a payment."""
    if looked.code == NOT_FOUND:
        return Unresolved(reason="the wallet has never heard of this payment", known=False)
    told = looked.result
    if told is None:
        return Unresolved(reason=looked.complaint)
    if hash_of(told, "payment_hash") != payment_hash or text(told, "type") not in (None, "outgoing"):
        return Unresolved(reason="the wallet tells something else than it was asked")
    if (text(told, "state") or "").lower() == "failed":
        return Failed(reason="the wallet says that the payment failed")
    if state_of(told) is not InvoiceState.PAID:
        return Unresolved(reason="the payment is in flight")
    preimage = preimage_of(told, "preimage", payment_hash)
    if preimage is None:
        return Unresolved(reason="the wallet says that it paid, without proof")
    return Paid(preimage=preimage, fee=fee_of(told))


def state_of(told: Told) -> InvoiceState | None:
    """The state, told or not; None while nothing has happened."""
    state = text(told, "state")
    if state is None:
        return InvoiceState.PAID if count(told, "settled_at") else None
    known = _STATES.get(state.lower())
    return None if known is InvoiceState.OPEN else known


def fee_of(told: Told) -> Amount:
    """What it cost on top; nothing where that is not told."""
    fee = told.get("fees_paid")
    if not isinstance(fee, int) or isinstance(fee, bool):
        return NOTHING
    return msats({"fee": abs(fee)}, "fee") or NOTHING  # some tell it as a loss


def methods_of(told: Told) -> frozenset[str] | None:
    """What `get_info` says that this connection may do; None when that is nothing."""
    methods = told.get("methods")
    return frozenset(map(str, methods)) or None if isinstance(methods, list) else None


def notifications_of(told: Told) -> frozenset[str]:
    """What `get_info` says that it tells of by itself."""
    told_of = told.get("notifications")
    return frozenset(map(str, told_of)) if isinstance(told_of, list) else frozenset()


def read_connection(url: str) -> Connection:
    """Read `nostr+walletconnect://WALLET?relay=wss://…&relay=…&secret=…`. Raises WalletError.

    Whatever else stands in it (`lud16`) is for others.
    """
    wrong = WalletError(f"it is written as {FORM}")
    try:
        parts = urlsplit(url.strip())
        given = parse_qs(parts.query)
        wallet = (parts.netloc or parts.path).strip("/").lower()
        relays = tuple(dict.fromkeys(given.get("relay", ())))[:_MOST_RELAYS]
        hosts = [urlsplit(relay) for relay in relays]
        reachable = all(
            host.scheme in ("ws", "wss") and host.hostname and host.port != 0 and "@" not in host.netloc
            for host in hosts
        )
        secrets = given.get("secret", [])
        octets = bytes.fromhex(secrets[0] if len(secrets) == 1 else "")
        if len(wallet) == _COMPRESSED_DIGITS:
            wallet = wallet[2:]
        if len(bytes.fromhex(wallet)) != HASH_BYTES or len(octets) != HASH_BYTES or not relays or not reachable:
            raise wrong
    except ValueError:
        raise wrong from None
    if parts.scheme.lower() != _SCHEME:
        raise wrong
    return Connection(wallet=wallet, relays=relays, secret=Secret(octets))
