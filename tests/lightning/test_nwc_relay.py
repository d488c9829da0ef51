"""The adapter, a wallet service and a relay that others made (nostr-sdk's LocalRelay), over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import pytest

from farebox.core.amount import Amount
from farebox.core.ports import Conversation, Failed, InvoiceState, InvoiceStatus, Paid, Unresolved
from farebox.core.settlement import Settlement
from farebox.lightning.nwc import NostrWalletConnect
from farebox.lightning.sandbox import Sandbox
from farebox.nostr import RelayCall
from farebox.nostr.relay import BlockingRelays, Relays
from farebox.testing.backends import FEE_LIMIT, PRICE, TEN_MINUTES
from farebox.testing.fake_nwc import FakeNwc

nostr_sdk = pytest.importorskip("nostr_sdk")

pytestmark = pytest.mark.lightning

T = TypeVar("T")


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def a_relay() -> AsyncIterator[str]:
    often = nostr_sdk.RateLimit(max_reqs=500, notes_per_minute=10**8)
    relay = nostr_sdk.LocalRelayBuilder().rate_limit(often).build()
    await relay.run()
    try:
        yield str(await relay.url())
    finally:
        relay.shutdown()


async def ask(conversation: Conversation[T], relays: Relays) -> T:
    """Carry a conversation to its end over relays."""
    try:
        call = cast("RelayCall", next(conversation))
        while True:
            call = cast("RelayCall", conversation.send(await relays.ask(call)))
    except StopIteration as end:
        return cast("T", end.value)


@contextmanager
def a_shop() -> Iterator[Sandbox]:
    opened = Sandbox.open(None, clock=now)
    yield opened
    opened.close()


@asynccontextmanager
async def served(*services: tuple[FakeNwc, str], slow: timedelta = timedelta(0)) -> AsyncIterator[None]:
    tasks = []
    for service, url in services:
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(service.serve(url, ready=ready, slow=slow)))
        await asyncio.wait_for(ready.wait(), 5)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("encryption", ["nip44_v2 nip04", None])
def test_an_invoice_is_made_paid_and_found_over_a_real_relay(encryption: str | None) -> None:
    async def story(sandbox: Sandbox) -> None:
        async with a_relay() as url, Relays() as relays:
            seller, buyer = (
                FakeNwc(node, now, relays=(url,), encryption=encryption) for node in (sandbox.seller, sandbox.buyer)
            )
            async with served((seller, url), (buyer, url)):
                receiver, wallet = (NostrWalletConnect.from_url(each.uri) for each in (seller, buyer))
                made = receiver.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES)
                invoice = await ask(made, relays)
                assert InvoiceState.OPEN is (await ask(receiver.lookup_invoice(invoice.payment_hash), relays)).state
                outcome = await ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), relays)
                assert isinstance(outcome, Paid)
                assert outcome == await ask(wallet.lookup_payment(invoice.payment_hash), relays)
                assert InvoiceStatus(state=InvoiceState.PAID, received=PRICE) == await ask(
                    receiver.lookup_invoice(invoice.payment_hash), relays
                )
                balances = await asyncio.gather(*[ask(wallet.balance(), relays) for _ in range(20)])
                assert {sandbox.buyer.funds()} == set(balances)

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))


@pytest.mark.parametrize("encryption", ["nip44_v2 nip04", None])
def test_a_payment_is_told_over_a_real_relay_and_heard_by_a_shop_that_waits(encryption: str | None) -> None:
    async def story(sandbox: Sandbox) -> None:
        async with a_relay() as url, Relays() as relays:
            seller = FakeNwc(sandbox.seller, now, relays=(url,), encryption=encryption)
            async with served((seller, url)):
                receiver = NostrWalletConnect.from_url(seller.uri)
                made = receiver.create_invoice(PRICE, description="a test", expires_in=TEN_MINUTES)
                invoice = await ask(made, relays)
                assert () == await ask(receiver.notices(wait=timedelta(seconds=1)), relays)
                waiting = asyncio.create_task(ask(receiver.notices(wait=timedelta(seconds=10)), relays))
                sandbox.buyer.pay(invoice, fee_limit=None)
                told = await waiting
                assert (Settlement(payment_hash=invoice.payment_hash, received=PRICE),) == told
                assert () == await ask(receiver.notices(wait=timedelta(seconds=1)), relays)

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))


def test_a_wallet_at_two_relays_pays_once_and_one_relay_is_enough() -> None:
    async def story(sandbox: Sandbox) -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(a_relay()) for _ in range(2)]
            relays = await stack.enter_async_context(Relays())
            buyer = FakeNwc(sandbox.buyer, now, relays=(*urls, "ws://127.0.0.1:1"))
            before = sandbox.buyer.funds()
            wallet = NostrWalletConnect.from_url(buyer.uri)
            async with served(*[(buyer, url) for url in urls]):
                invoice = sandbox.seller.issue(PRICE, description="", expires_in=TEN_MINUTES)
                assert isinstance(await ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), relays), Paid)
                assert before - PRICE == sandbox.buyer.funds()
            async with served((buyer, urls[1])):
                invoice = sandbox.seller.issue(PRICE, description="", expires_in=TEN_MINUTES)
                assert isinstance(await ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), relays), Paid)
            assert before - PRICE - PRICE == sandbox.buyer.funds()

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))


def test_a_wallet_that_is_away_does_not_pay_when_it_comes_back() -> None:
    async def story(sandbox: Sandbox) -> None:
        async with a_relay() as url, Relays() as relays:
            buyer = FakeNwc(sandbox.buyer, now, relays=(url,))
            wallet = NostrWalletConnect.from_url(buyer.uri, pay_within=timedelta(seconds=1))
            async with served((buyer, url)):
                before = await ask(wallet.balance(), relays)
            invoice = sandbox.seller.issue(PRICE, description="", expires_in=TEN_MINUTES)
            assert isinstance(await ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), relays), Unresolved)
            await asyncio.sleep(1)
            async with served((buyer, url)):
                await asyncio.sleep(0.3)
                outcome = await ask(wallet.lookup_payment(invoice.payment_hash), relays)
                assert isinstance(outcome, Unresolved)
                assert not outcome.known
                assert before == await ask(wallet.balance(), relays)

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))


def test_a_slow_answer_is_unresolved_and_the_payment_is_found_afterwards() -> None:
    async def story(sandbox: Sandbox) -> None:
        async with a_relay() as url, Relays() as relays:
            buyer = FakeNwc(sandbox.buyer, now, relays=(url,))
            wallet = NostrWalletConnect.from_url(buyer.uri, pay_within=timedelta(seconds=1.2))
            invoice = sandbox.seller.issue(PRICE, description="", expires_in=TEN_MINUTES)
            async with served((buyer, url)):
                await ask(wallet.balance(), relays)
            async with served((buyer, url), slow=timedelta(seconds=5)):
                assert isinstance(await ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), relays), Unresolved)
            async with served((buyer, url)):
                assert isinstance(await ask(wallet.lookup_payment(invoice.payment_hash), relays), Paid)

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))


def test_a_wallet_whose_relays_are_gone_pays_nothing_for_certain() -> None:
    async def story(sandbox: Sandbox) -> None:
        async with Relays() as relays:
            buyer = FakeNwc(sandbox.buyer, now, relays=("ws://127.0.0.1:1",))
            invoice = sandbox.seller.issue(PRICE, description="", expires_in=TEN_MINUTES)
            wallet = NostrWalletConnect.from_url(buyer.uri)
            assert isinstance(await ask(wallet.pay_invoice(invoice, fee_limit=FEE_LIMIT), relays), Failed)

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))


def test_those_who_wait_are_served_over_the_same_relay() -> None:
    async def story(sandbox: Sandbox) -> None:
        async with a_relay() as url:
            buyer = FakeNwc(sandbox.buyer, now, relays=(url,))
            async with served((buyer, url)):
                assert sandbox.buyer.funds() == await asyncio.to_thread(waited, buyer.uri)

    def waited(uri: str) -> Amount:
        with BlockingRelays() as relays:
            conversation = cast("Any", NostrWalletConnect.from_url(uri).balance())
            try:
                call = next(conversation)
                while True:
                    call = conversation.send(relays.ask(call))
            except StopIteration as end:
                return cast("Amount", end.value)

    with a_shop() as sandbox:
        asyncio.run(story(sandbox))
