"""Master keys are rotated and revoked while two gateways serve from one key file and one ledger (reliability: F2)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.cli.keys import revoke, rotate
from farebox.cli.state import key_ring
from farebox.core.macaroon import Macaroon
from farebox.core.ports import Paid

pytestmark = [pytest.mark.system, pytest.mark.anyio]

ROTATIONS = [2, pytest.param(100, marks=pytest.mark.full)]
CALLERS = 3
KEPT = 1  # keys besides the newest that stay good
TAKEN_UP_WITHIN_S = 5.0  # a second, and what a busy machine adds


@dataclass
class Bought:
    """A paid proof, the call it was bought for, and the key that minted it."""

    prompt: str
    proof: dict[str, str]
    key_id: str


@dataclass
class Fleet:
    """Two gateways, and callers who buy from one and call another."""

    gateways: list[Any]
    path: Path
    payer: Any
    chance: random.Random
    bought: list[Bought] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    serial: int = 0

    async def minting_key(self, gateway: Any) -> str:
        """The id of the key that a gateway mints with."""
        asked = await self.ask(gateway, "which key?")
        return key_of(asked["macaroon"])

    async def ask(self, gateway: Any, prompt: str) -> Any:
        """The body of a 402, each time for somebody else, who may ask for an invoice."""
        self.serial += 1
        somebody = {"x-forwarded-for": f"198.51.{self.serial // 250 % 250}.{self.serial % 250}"}
        asked = await self.payer.http.post(gateway.url, content=prompt, headers=somebody)
        assert 402 == asked.status_code, asked.text
        return asked.json()

    async def buy(self, gateway: Any) -> Bought:
        """A proof that was paid for and not shown."""
        prompt = f"call {self.serial} {self.chance.random()}"
        asked = await self.ask(gateway, prompt)
        paid = await self.payer.pay(self.gateways[0].place["buyer_wallet"], asked["invoice"])
        assert isinstance(paid, Paid)
        proof = {"authorization": f"L402 {asked['macaroon']}:{paid.preimage.reveal().hex()}"}
        return Bought(prompt, proof, key_of(asked["macaroon"]))

    async def show(self, gateway: Any, bought: Bought) -> httpx.Response:
        """The answer to the paid call."""
        answer: httpx.Response = await self.payer.http.post(gateway.url, content=bought.prompt, headers=bought.proof)
        return answer

    async def call_until(self, over: asyncio.Event) -> None:
        """Buy here, call there, and now and then show an old proof anywhere."""
        while not over.is_set():
            bought = await self.buy(self.chance.choice(self.gateways))
            await self.check(bought)
            self.bought.append(bought)
            for _ in range(3):
                await self.check(self.chance.choice(self.bought))

    async def check(self, bought: Bought) -> None:
        """A proof under a key that is in the file before and after is never refused."""
        answer = await self.show(self.chance.choice(self.gateways), bought)
        if bought.key_id in self.revoked:
            return
        self.outcomes[str(answer.status_code)] += 1
        if answer.status_code != 200:
            self.wrong.append(f"{bought.key_id}: {answer.status_code} {answer.text}")


def key_of(token: str) -> str:
    return Macaroon.read_base64(token).identifier[34:38].hex()


async def seen_within(seen: Callable[[], Any]) -> float:
    """How long it took until something was so. Raises TimeoutError."""
    began = time.monotonic()
    async with asyncio.timeout(TAKEN_UP_WITHIN_S):
        while not await seen():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def turn_keys(fleet: Fleet, rotations: int) -> tuple[list[float], list[float], int]:
    """Rotate and revoke; how long each took to be taken up by both gateways, and how many proofs were revoked."""
    taken_up: list[float] = []
    revoked: list[float] = []
    refused = 0
    fleet.bought += [await fleet.buy(gateway) for gateway in fleet.gateways]
    for _ in range(rotations):
        made = await asyncio.to_thread(rotate, fleet.path, now=datetime.now(UTC))

        async def mints(gateway: Any, made: str = made) -> bool:
            return await fleet.minting_key(gateway) == made

        taken_up += await asyncio.gather(*(seen_within(partial(mints, gateway)) for gateway in fleet.gateways))
        fleet.bought += [await fleet.buy(gateway) for gateway in fleet.gateways]
        ids = [key_id.hex() for key_id in key_ring(fleet.path).key_ids()]
        if len(ids) <= KEPT + 1:
            continue
        fleet.revoked.add(ids[0])
        under_it = [bought for bought in fleet.bought if bought.key_id == ids[0]]
        fleet.bought = [bought for bought in fleet.bought if bought.key_id != ids[0]]
        assert under_it
        await asyncio.to_thread(revoke, fleet.path, ids[0])

        async def refuses(gateway: Any, bought: Bought = under_it[-1]) -> bool:
            return (await fleet.show(gateway, bought)).status_code == 401

        revoked += await asyncio.gather(*(seen_within(partial(refuses, gateway)) for gateway in fleet.gateways))
        shown = [await fleet.show(gateway, bought) for bought in under_it for gateway in fleet.gateways]
        assert {401} == {answer.status_code for answer in shown}
        refused += len(shown)
    return taken_up, revoked, refused


@pytest.mark.parametrize("rotations", ROTATIONS)
async def test_keys_turn_under_load_and_no_good_proof_is_refused_and_no_revoked_one_taken(
    open_shop_in: Any, writer_url: str, payer: Any, tmp_path: Path, seed: int, tell: Any, rotations: int
) -> None:
    path = tmp_path / "keys"
    key_ring(path)
    with ExitStack() as stack:
        gateways: list[Any] = []
        for name in ("first", "second"):
            receiver = gateways[0].place["seller_wallet"] if gateways else "sandbox:"
            config = tmp_path / f"{name}.toml"
            config.write_text(
                f'receiver = "{receiver}"\nstore = "sqlite:///{tmp_path}/ledger.db"\nkeys = "{path}"\n'
                'free_calls = 0\ntrusted_proxies = ["127.0.0.1"]\npublic_url = "http://shop.example"\n'
                f'[[route]]\npath = "/"\nmethod = "POST"\nprice = "21 sat"\nupstream = "{writer_url}"\n'
            )
            gateways.append(stack.enter_context(open_shop_in(name, str(config))))
        fleet = Fleet(gateways, path, payer, random.Random(seed))
        over = asyncio.Event()
        callers = [asyncio.create_task(fleet.call_until(over)) for _ in range(CALLERS)]
        try:
            taken_up, revoked, refused = await turn_keys(fleet, rotations)
        finally:
            over.set()
            await asyncio.gather(*callers)
    tell(
        f"seed {seed}: {rotations} rotations, {len(fleet.revoked)} revocations; good proofs {dict(fleet.outcomes)}; "
        f"{refused} revoked ones refused; taken up within {max(taken_up):.2f} s, revoked within {max(revoked):.2f} s"
    )
    assert ([], rotations - KEPT) == (fleet.wrong, len(fleet.revoked)), seed
    assert fleet.outcomes["200"] > 4 * rotations, seed
    assert refused >= 2 * len(fleet.revoked), seed


async def test_a_key_file_that_is_spoilt_while_serving_changes_nothing(
    open_shop: Any, writer_url: str, payer: Any, farebox: Any
) -> None:
    with open_shop("--upstream", writer_url, "--price", "21sat", "--free-calls", "0") as shop:
        proof = await payer.buy(shop, "hello")
        path = shop.folder / "seller" / "keys"
        good = path.read_text()
        path.write_text(good[:20])

        async def told() -> bool:
            await payer.http.post(shop.url, content="hello", headers=proof)
            return "keys-kept-as-they-were" in shop.told

        await seen_within(told)
        assert 200 == (await payer.http.post(shop.url, content="hello", headers=proof)).status_code
        told_once = shop.told.count("keys-kept-as-they-were")
        path.write_text(good)
        rotated = farebox("keys", "rotate", "--keys", str(path))
    assert (0, 1) == (rotated.returncode, told_once)
    secret = path.read_text().split()[0]
    assert good.startswith(secret)
    assert secret not in shop.told + rotated.stdout + rotated.stderr
