"""The buyer: a wallet, a budget and a purse, ready to buy. Every library's client is made of one.

buyer = farebox.open_buyer(wallet="phoenixd+http://:password@127.0.0.1:9740", budget="500 sat/day, 50 sat/call")
with farebox.Client(buyer=buyer) as client: …
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final, TypedDict, TypeVar, Unpack
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
import tzlocal

from farebox.core.allowance import UNNARROWED, Allowance, host_patterns
from farebox.core.amount import Amount
from farebox.core.budget import EACH, Budget, Window
from farebox.core.conversation import Call
from farebox.core.errors import ConfigError, TokenRefused
from farebox.core.ports import Capability, Clock, Conversation, Dialect, Named, Purchase, Purse, Wallet
from farebox.core.purse_token import PurseToken
from farebox.dialects import L402, X402, PaymentAuth, PaymentHash
from farebox.http.approval_hook import ApprovalHook, read_key
from farebox.http.converse import Lines, aconverse, converse, trust
from farebox.lightning import open_wallet
from farebox.payer import (
    Awaiting,
    Blocking,
    Bought,
    Drivers,
    Limits,
    Offer,
    OutgoingCall,
    Payer,
    Telling,
    allowance_here,
)
from farebox.stores import open_purse
from farebox.stores.engine import utc_now

T = TypeVar("T")

DEFAULT_BUDGET: Final = "500 sat/day"


def default_purse_path() -> Path:
    """`~/.local/state/farebox/purse.db`, which every program of a user shares unless told otherwise."""
    return Path.home() / ".local" / "state" / "farebox" / "purse.db"


def default_dialects() -> tuple[Dialect, ...]:
    """All that a buyer speaks without keys, the safest proof first: a preimage before a bare hash."""
    return L402(), PaymentAuth(), X402(), PaymentHash()


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a window has left. ends: when a calendar's begins anew."""

    window: Window
    spent: Amount
    ends: datetime | None

    @property
    def left(self) -> Amount:
        """What may still be spent, fees included."""
        return self.window.limit.less(self.spent)


class Buyer:
    """What every face buys with: the payer's stories, and the drivers that do their steps. See `open_buyer`."""

    def __init__(
        self, *, limits: Limits, payer: Payer, drivers: Drivers, clock: Clock, zone: tzinfo, owns_purse: bool
    ) -> None:
        self.budget = limits.budget
        self.zone = zone
        self.payer = payer
        self.drivers = drivers
        self._clock = clock
        self._owns_purse = owns_purse

    def purchase(self, call: OutgoingCall) -> Telling[Bought]:
        """A purchase, ready to be driven."""
        return Telling(self.payer.purchase(call, allowance_here()))

    def question(self, call: OutgoingCall) -> Telling[Offer | None]:
        """A question for the price, ready to be driven."""
        return Telling(self.payer.ask(call, allowance_here()))

    def admit(self, token: str) -> Allowance:
        """What the holder of a purse token may spend. Raises TokenRefused, and StoreUnavailable."""
        read = PurseToken.read(token)
        known = next((one for one in self.drivers.purse.purses() if one.name == read.name), None)
        if known is None or known.revoked_at is not None:
            raise TokenRefused("it is not of this purse, or was revoked")
        return read.allowance(known.key, limits=known.limits, now=self._clock(), zone=self.zone)

    def left(self, allowance: Allowance = UNNARROWED) -> tuple[Left, ...]:
        """What every window has left, of the budget and of this allowance; not of windows for each host or tag."""
        windows = (*self.budget.windows, *allowance.windows)
        now, purse = self._clock(), self.drivers.purse
        told = (window for window in windows if not window.label.endswith(EACH))
        return tuple(Left(window=window, spent=purse.spent(window), ends=window.ends(now)) for window in told)

    def resume(self) -> tuple[Purchase, ...]:
        """Look up every payment whose outcome is open; returns them as they now stand."""
        return self.drivers.run(self.payer.resume())

    async def aresume(self) -> tuple[Purchase, ...]:
        """The same, awaiting."""
        return await self.drivers.arun(self.payer.resume())

    def balance(self) -> Amount:
        """What the wallet can spend. Raises WalletError."""
        return self.drivers.blocking.talk(self.drivers.wallet.balance())

    async def abalance(self) -> Amount:
        """The same, awaiting."""
        return await self.drivers.awaiting.talk(self.drivers.wallet.balance())

    def close(self) -> None:
        """Let go of the purse, unless it was handed in."""
        if self._owns_purse:
            self.drivers.purse.close()


def open_buyer(
    *,
    wallet: str | Wallet,
    budget: str | Budget = DEFAULT_BUDGET,
    max: str | Amount | None = None,
    max_fee: str | Amount | None = None,
    purse: str | Path | Purse | None = None,
    prefer: Sequence[str] = (),
    allow: str | Sequence[str] = ("*",),
    deny: str | Sequence[str] = (),
    plain_http: Sequence[str] = (),
    price_jump: int | None = 10,
    pin_payee: bool = False,
    approve_above: str | Amount | None = None,
    approval_for: timedelta = timedelta(hours=1),
    approval_patience: timedelta = timedelta(0),
    approval_webhook: str | None = None,
    approval_secret: str | None = None,
    dialects: Sequence[Dialect] | None = None,
    time_zone: str | tzinfo | None = None,
    clock: Clock | None = None,
) -> Buyer:
    """A buyer that pays from this wallet within this budget.

    wallet: its URL, or the wallet itself. budget: such as `500 sat/day, 50 sat/call, 100 sat/day on api.example.com`,
    fees included (see core.budget.Window). max: the highest price of one call, without the fee. max_fee: of routing.
    purse: its file (a path, or `sqlite:///path`), or the purse itself; None for the one that all programs of a user
    share; for a fleet `postgresql://user:password@host:port/database` (extra `postgresql`).
    prefer: dialects by name, such as `Payment`, to pay in at one price; the others follow, the safest proof first.
    allow, deny: hosts that may, and may not, be paid, such as `*.example.com`. plain_http: hosts that may be paid over
    plain HTTP; this machine, .onion and play money always may. price_jump: a price that is so many times the last one
    is refused. pin_payee: only the node that was paid first at an origin is paid there.
    approve_above: what costs more is parked until a person approves it (`farebox approvals`); that word holds for
    `approval_for`, and a call waits `approval_patience` for it. approval_webhook: an address that is told of each
    parked call, signed with `approval_secret` (`whsec_…`), and may decide it (see http.approval_hook).
    dialects: all that are spoken, instead of the usual. time_zone: where a calendar's day begins, such as
    `Europe/Paris`; None for this machine's. clock: None for that of the machine the purse is on.
    Raises WalletError; MalformedValue for what is badly said; ConfigError or StoreUnavailable for an unusable purse.
    """
    zone = zone_of(time_zone)
    paying = open_wallet(wallet) if isinstance(wallet, str) else wallet
    spoken = tuple(dialects or default_dialects())
    limits = Limits(
        budget=Budget.of(budget, zone), prefer=_names(prefer, spoken),
        most=_amount(max), most_fee=_amount(max_fee),
        networks=frozenset() if paying.network is None else frozenset((paying.network,)),
        pays_once=Capability.PAYS_ONCE in paying.capabilities,
        own=frozenset((paying.public_key,)) if isinstance(paying, Named) else frozenset(),
        allow=host_patterns(allow), deny=host_patterns(deny), plain_http=host_patterns(plain_http),
        price_jump=price_jump, pin_payee=pin_payee, approval_above=_amount(approve_above),
        approval_for=approval_for, approval_patience=approval_patience,
    )  # fmt: skip
    now = clock or utc_now
    payer = Payer(dialects=spoken, limits=limits, clock=now)
    kept, is_ours = _opened(purse, clock, zone)
    hook = _hook(approval_webhook, approval_secret, kept, now)
    blocking = Blocking(talk=_talk, pause=time.sleep, ask_approval=None if hook is None else hook.ask)
    awaiting = Awaiting(talk=_atalk, ask_approval=None if hook is None else hook.aask)
    drivers = Drivers(wallet=paying, purse=kept, blocking=blocking, awaiting=awaiting)
    return Buyer(limits=limits, payer=payer, drivers=drivers, clock=now, zone=zone, owns_purse=is_ours)


def _opened(purse: str | Path | Purse | None, clock: Clock | None, zone: tzinfo) -> tuple[Purse, bool]:
    """The purse, and whether it was opened here."""
    if purse is None or isinstance(purse, str | Path):
        return open_purse(default_purse_path() if purse is None else purse, clock, zone=zone), True
    return purse, False


def _hook(url: str | None, secret: str | None, purse: Purse, clock: Clock) -> ApprovalHook | None:
    return None if url is None else ApprovalHook(url=url, key=read_key(secret or ""), purse=purse, clock=clock)


def zone_of(name: str | tzinfo | None) -> tzinfo:
    """A time zone by its name, such as `Europe/Paris`; this machine's for None. Raises ConfigError."""
    if isinstance(name, tzinfo):
        return name
    try:
        return tzlocal.get_localzone() if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        told = f"{name} is no time zone that is known here" if name else "this machine's time zone can't be told"
        raise ConfigError(f"{told}; name one, such as Europe/Paris or UTC") from None


def _names(prefer: Sequence[str], dialects: Sequence[Dialect]) -> tuple[str, ...]:
    """The names of the preferred dialects as they are spelt here. Raises ConfigError for one that is not spoken."""
    known = {dialect.name.lower(): dialect.name for dialect in dialects}
    if unknown := [name for name in prefer if name.lower() not in known]:
        raise ConfigError(f"{unknown[0]} is not spoken here; choose among {', '.join(known.values())}")
    return tuple(known[name.lower()] for name in prefer)


def _amount(given: str | Amount | None) -> Amount | None:
    return None if given is None else Amount.of(given)


class Terms(TypedDict, total=False):
    """What pays, as a client takes it: a buyer of `farebox.open_buyer`; or instead of it what is told there."""

    buyer: Buyer | None
    wallet: str | Wallet | None
    budget: str | Budget | None
    max: str | Amount | None
    purse: str | Path | Purse | None


def chosen_buyer(**terms: Unpack[Terms]) -> Buyer:
    """The buyer that was handed in, or one made of what was said instead. Raises TypeError for both or neither."""
    buyer = terms.pop("buyer", None)
    given = {name: value for name, value in terms.items() if value is not None}
    if buyer is None:
        if "wallet" not in given:
            raise TypeError("a client that pays needs a wallet=, or a buyer= of farebox.open_buyer")
        return open_buyer(**given)  # type: ignore[arg-type] # each as it was given
    if given:
        raise TypeError(f"{', '.join(given)}: say it to farebox.open_buyer, or leave out buyer=")
    return buyer


def _talk(conversation: Conversation[T]) -> T:
    """Over a client of its own, if it asks anybody: a line that was kept may be dead when it has to pay."""
    try:
        call = next(conversation)
    except StopIteration as end:
        outcome: T = end.value
        return outcome
    with httpx.Client(verify=trust(httpx, None), trust_env=False) as client:
        return converse(_begun(conversation, call), client)


def _begun(conversation: Conversation[T], call: Call) -> Conversation[T]:
    """A conversation that has asked its first question."""
    try:
        while True:
            call = conversation.send((yield call))
    except StopIteration as end:
        outcome: T = end.value
        return outcome
    finally:
        conversation.close()


async def _atalk(conversation: Conversation[T]) -> T:
    """Over lines of its own, because the next one may talk in another loop."""
    lines = Lines()
    try:
        return await aconverse(conversation, lines)
    finally:
        await lines.aclose()
