"""What only real processes can show: that they share a file, and that a killed one leaves it whole."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from textwrap import dedent

import pytest

from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.payment import Payment, PaymentState
from farebox.stores import open_ledger, open_purse
from farebox.testing.postgres import Postgres

pytestmark = pytest.mark.system

DIGEST = sha256(b"a request").digest()

SELLER = """
import asyncio, os, sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.stores import open_ledger

DIGEST = sha256(b"a request").digest()
ledger = open_ledger("sqlite:///" + sys.argv[1])

def invoice(name):
    now = datetime.now(UTC)
    return Payment(
        payment_hash=sha256(name.encode()).digest(), state=PaymentState.OPEN, price=Amount.sats(21), digest=DIGEST,
        resource="POST /api/dvm", client="192.0.2.7/32", invoice="lnbcrt1", created_at=now,
        expires_at=now + timedelta(minutes=10),
    )

async def hold(payment_hash):
    return await ledger.hold(
        payment_hash, digest=DIGEST, proven=True, lease=timedelta(minutes=5), most_attempts=3
    )

def tell(*words):
    os.write(1, (" ".join(words) + "\\n").encode())
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", dedent(script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def told_by(children: Sequence[subprocess.Popen[str]]) -> list[str]:
    lines: list[str] = []
    for child in children:
        output, _ = child.communicate(timeout=60)
        assert 0 == child.returncode
        lines += output.splitlines()
    return lines


def invoice(name: str) -> Payment:
    now = datetime.now(UTC)
    return Payment(
        payment_hash=sha256(name.encode()).digest(),
        state=PaymentState.OPEN,
        price=Amount.sats(21),
        digest=DIGEST,
        resource="POST /api/dvm",
        client="192.0.2.7/32",
        invoice="lnbcrt1",
        created_at=now,
        expires_at=now + timedelta(minutes=10),
    )


def test_four_processes_give_each_payment_one_hold(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"

    async def prepare() -> None:
        ledger = open_ledger(f"sqlite:///{file}")
        await asyncio.gather(*(ledger.open_payment(invoice(f"{number}")) for number in range(50)))
        await ledger.close()

    asyncio.run(prepare())
    script = (
        SELLER
        + """
async def main():
    for number in range(50):
        outcomes = await asyncio.gather(*(hold(invoice(str(number)).payment_hash) for _ in range(8)))
        for outcome in outcomes:
            if isinstance(outcome, Hold):
                tell(str(number))
                assert await ledger.capture(outcome, Answer(status=200, headers=(), body=b"once"))
    await ledger.close()
asyncio.run(main())
"""
    )
    won = Counter(told_by([start(script, str(file)) for _ in range(4)]))
    assert {f"{number}": 1 for number in range(50)} == won

    async def look() -> None:
        ledger = open_ledger(f"sqlite:///{file}")
        assert Amount.sats(21 * 50) == (await ledger.balance()).earned
        assert [] == await ledger.audit()
        await ledger.close()

    asyncio.run(look())


@pytest.mark.parametrize("limit", [1, 3])
def test_sixty_four_first_calls_of_one_caller_over_four_processes_get_the_limit(tmp_path: Path, limit: int) -> None:
    script = (
        SELLER
        + """
async def main():
    asked = (ledger.take_free_call("192.0.2.7/32", limit=int(sys.argv[2]), window=timedelta(days=1)) for _ in range(16))
    for call in await asyncio.gather(*asked):
        if call.granted:
            tell("granted")
    await ledger.close()
asyncio.run(main())
"""
    )
    assert limit == len(told_by([start(script, str(tmp_path / "shop.db"), str(limit)) for _ in range(4)]))


def test_a_seller_killed_at_any_moment_loses_nothing_it_said(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    script = (
        SELLER
        + """
async def call(name):
    await ledger.open_payment(invoice(name))
    tell("opened", name)
    for _ in range(3):
        held = await hold(invoice(name).payment_hash)
        assert isinstance(held, Hold)
        tell("held", name)
        if hash(name) % 3 == 0:
            tell("released", (await ledger.release(held, most_attempts=3)).state, name)
            continue
        assert await ledger.capture(held, Answer(status=200, headers=(), body=name.encode()))
        tell("captured", name)
        return

async def main():
    for number in range(100000):
        await asyncio.gather(*(call(f"{sys.argv[2]} {number} {task}") for task in range(8)))
asyncio.run(main())
"""
    )
    chance = Random(402)
    opened, captured = set(), set()
    for run in range(6):
        child = start(script, str(file), f"{run}")
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(chance.randrange(1, 400))]
        child.send_signal(signal.SIGKILL)
        lines += child.communicate(timeout=60)[0].splitlines(keepends=True)
        opened |= {line.split(" ", 1)[1].strip() for line in lines if line.startswith("opened") and line.endswith("\n")}
        captured |= {
            line.split(" ", 1)[1].strip() for line in lines if line.startswith("captured") and line.endswith("\n")
        }
    assert captured

    async def look() -> None:
        ledger = open_ledger(f"sqlite:///{file}")
        assert [] == await ledger.audit()
        assert (await ledger.balance()).balanced
        for name in opened:
            assert await ledger.find_payment(sha256(name.encode()).digest()) is not None
        for name in captured:
            payment_hash = sha256(name.encode()).digest()
            payment, answer = await ledger.find_payment(payment_hash), await ledger.find_answer(payment_hash)
            assert payment is not None
            assert answer is not None
            assert (PaymentState.SPENT, name.encode()) == (payment.state, answer.body)
        await ledger.close()

    asyncio.run(look())


def test_a_seller_whose_disk_is_full_says_so_and_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    asyncio.run(open_ledger(f"sqlite:///{file}").close())
    script = (
        SELLER
        + """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))

async def call(name):
    await ledger.open_payment(invoice(name))
    held = await hold(invoice(name).payment_hash)
    assert await ledger.capture(held, Answer(status=200, headers=(), body=b"x" * 5000))

async def main():
    done = []
    for number in range(25):
        done += await asyncio.gather(*(call(f"{number} {task}") for task in range(8)), return_exceptions=True)
    tell(*sorted({type(outcome).__name__ for outcome in done}))
    assert not await ledger.audit() and (await ledger.balance()).balanced
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await call("there is room again")
    assert not await ledger.audit()
    tell(str((await ledger.balance()).earned.in_sats_exact() // 21), str(1 + done.count(None)))
    await ledger.close()
asyncio.run(main())
"""
    )
    outcomes, counts = told_by([start(script, str(file))])
    assert "NoneType StoreUnavailable" == outcomes
    earned, answered = counts.split()
    assert earned == answered


def test_eight_processes_make_one_file_at_the_same_moment(tmp_path: Path) -> None:
    script = SELLER + "asyncio.run(ledger.close())\n"
    assert [] == told_by([start(script, str(tmp_path / "shop.db")) for _ in range(8)])


BUYER = """
import sys
from datetime import UTC, datetime
from hashlib import sha256
from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.errors import OverBudget
from farebox.core.exchange import Challenge
from farebox.core.ports import Purchase
from farebox.core.secret import Secret
from farebox.stores import open_purse

purse = open_purse(sys.argv[1])
number = 0
while True:
    number += 1
    payment_hash = sha256(f"{sys.argv[2]} {number}".encode()).digest()
    purchase = Purchase(
        payment_hash=payment_hash, request_digest=bytes(32), origin="https://shop.example:443", url="https://shop.example/",
        amount=Amount.sats(20), fee_limit=Amount.sats(3), invoice_expires_at=datetime.now(UTC),
        challenge=Challenge(dialect="L402", invoice="lnbcrt1", payment_hash=payment_hash),
    )
    try:
        assert purse.hold(purchase, [Window.read("500 sat/day"), Window.read("50 sat/call")]) is None
    except OverBudget:
        break
    if number % 3:
        purse.capture(payment_hash, preimage=Secret(bytes(32)), fee=Amount.sats(1))
        print("paid", flush=True)
    else:
        purse.release(payment_hash, reason="no route")
purse.close()
"""


def sixteen_buyers_spend_up_to_their_budget(place: str) -> None:
    paid = len(told_by([start(BUYER, place, f"{number}") for number in range(16)]))
    purse = open_purse(place)
    spent = purse.spent(Window.read("500 sat/day"))
    purse.close()
    assert Amount.sats(21 * paid) == spent
    assert spent <= Amount.sats(500)
    assert spent > Amount.sats(500 - 23)


def test_sixteen_buyers_on_one_budget_never_spend_more(tmp_path: Path) -> None:
    sixteen_buyers_spend_up_to_their_budget(str(tmp_path / "purse.db"))


def test_sixteen_buyers_of_a_fleet_on_one_budget_never_spend_more(postgres: Postgres) -> None:
    url = postgres.new_database()
    sixteen_buyers_spend_up_to_their_budget(url)
    postgres.drop(url)


GUARDED = """
import sys, time
from datetime import UTC, datetime
from hashlib import sha256
from farebox.core.amount import Amount
from farebox.core.errors import TooManyInFlight
from farebox.core.exchange import Challenge
from farebox.core.purse import Guards, Purchase
from farebox.stores import open_purse

purse = open_purse(sys.argv[1])
for host in ("host:a.example", "host:b.example"):
    payment_hash = sha256(f"{host} {sys.argv[2]}".encode()).digest()
    purchase = Purchase(
        payment_hash=payment_hash, request_digest=bytes(32), origin="https://a.example:443", url="https://a.example/",
        amount=Amount.sats(1), fee_limit=Amount(0), invoice_expires_at=datetime.now(UTC), labels=frozenset({host}),
        challenge=Challenge(dialect="L402", invoice="lnbcrt1", payment_hash=payment_hash),
    )
    try:
        assert purse.hold(purchase, [], Guards(seller=host)) is None
        print(host, flush=True)
    except TooManyInFlight:
        pass
purse.close()
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_of_eight_processes_exactly_two_pay_a_host_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, engine: str
) -> None:
    postgres: Postgres | None = request.getfixturevalue("postgres") if engine == "postgresql" else None
    place = postgres.new_database() if postgres else str(tmp_path / "purse.db")
    held = Counter(told_by([start(GUARDED, place, f"{number}") for number in range(8)]))
    if postgres:
        postgres.drop(place)
    assert {"host:a.example": 2, "host:b.example": 2} == held
