from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.core.amount import Amount
from farebox.core.errors import StoreUnavailable
from farebox.core.payment import Answer, Hold, Payment, PaymentState
from farebox.core.ports import Clock, Ledger
from farebox.stores import open_ledger
from farebox.stores.calls import Call, write
from farebox.stores.ledger import SqlLedger
from farebox.stores.remote import CALLS, LONGEST_PATH, RemoteLedger, ledger_socket, serve_ledger
from farebox.testing.ledgers import LedgerSuite

DIGEST = sha256(b"a request").digest()
LEASE = timedelta(seconds=30)
PATIENCE_S = 10


@pytest.fixture
def place() -> Iterator[Path]:
    """A path for a socket that is short enough."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        yield Path(folder) / "run" / "ledger.sock"


def invoice(name: str = "a payment") -> Payment:
    now = datetime.now(UTC).replace(microsecond=0)
    return Payment(
        payment_hash=sha256(name.encode()).digest(),
        state=PaymentState.OPEN,
        price=Amount.sats(21),
        digest=DIGEST,
        resource="POST /api/dvm",
        client="192.0.2.7/32",
        invoice="lnbcrt210n1…",
        created_at=now,
        expires_at=now + timedelta(minutes=10),
    )


async def claim(ledger: Any, payment: Payment) -> Hold | Payment | None:
    claimed: Hold | Payment | None = await ledger.hold(
        payment.payment_hash, digest=DIGEST, proven=True, lease=LEASE, most_attempts=3
    )
    return claimed


# --- the same suite as every ledger -----------------------------------------------------------------------------------


class Elsewhere:
    """A thread with a ledger behind a socket, and a RemoteLedger in front of it, which every loop may ask."""

    def __init__(self, path: Path, kept: SqlLedger, clock: Clock) -> None:
        self.engine = kept.engine  # the suite looks into the tables
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._remote: Any = RemoteLedger(path, clock)
        self._kept = kept
        self._open = AsyncExitStack()
        bound = ledger_socket(path)
        asyncio.run_coroutine_threadsafe(self._open.enter_async_context(serve_ledger(kept, bound)), self._loop).result()

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def method(*args: object, **kwargs: object) -> object:
            asked = getattr(self._remote, name)(*args, **kwargs)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._loop))

        return method

    def now(self) -> datetime:
        now: datetime = self._remote.now()
        return now

    async def close(self) -> None:
        for last in (self._remote.close(), self._open.aclose(), self._kept.close()):
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(last, self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.mark.system
class TestRemoteLedger(LedgerSuite):
    @pytest.fixture(autouse=True)
    def folder(self, place: Path) -> None:
        self.paths = (place.with_name(f"{number}.sock") for number in itertools.count())

    def open_ledger(self, clock: Clock) -> SqlLedger:
        elsewhere: Any = Elsewhere(next(self.paths), open_ledger("sqlite::memory:", clock), clock)
        ledger: SqlLedger = elsewhere
        return ledger

    @pytest.mark.full
    def test_the_ledger_agrees_with_its_model(self) -> None:
        """As everywhere; it takes seconds."""
        super().test_the_ledger_agrees_with_its_model()


# --- what travels -----------------------------------------------------------------------------------------------------


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotated type, as hypothesis makes them, within what an amount and an instant can be."""
    return st.from_type(hint)


st.register_type_strategy(Amount, st.integers(0, 21_000_000 * 100_000_000 * 1000).map(Amount))
st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))
st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))


def parameters(name: str) -> dict[str, Any]:
    hints = get_type_hints(getattr(Ledger, name))
    return {each: hints[each] for each in list(inspect.signature(getattr(Ledger, name)).parameters)[1:]}


@pytest.mark.parametrize("name", sorted(CALLS))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_arguments_and_results_of_every_method_are_read_as_they_were_written(name: str, data: Any) -> None:
    call, hints = CALLS[name], parameters(name)
    asked = {each: data.draw(values_of(hint), label=each) for each, hint in hints.items()}
    assert asked == call.heard(msgspec.Raw(write(call.ask((), asked))))
    result = data.draw(values_of(get_type_hints(getattr(Ledger, name))["return"]), label="result")
    answered = call.answered(msgspec.Raw(write(call.answer(result))))
    assert (type(result), result) == (type(answered), answered)


def test_every_awaited_method_of_the_port_travels_but_closing() -> None:
    awaited = {name for name, _ in inspect.getmembers(Ledger, inspect.iscoroutinefunction)}
    assert awaited - {"close"} == set(CALLS)
    assert all(hasattr(RemoteLedger, name) for name in awaited)


def test_arguments_may_be_given_in_order_or_by_name_and_defaults_are_left_out() -> None:
    call, payment = CALLS["settle"], invoice()
    by_name = call.ask((), {"payment_hash": payment.payment_hash, "received": payment.price})
    assert write(by_name) == write(call.ask((payment.payment_hash, payment.price), {}))
    hold = {"digest": DIGEST, "proven": True, "lease": LEASE, "most_attempts": 3}
    told = write(CALLS["hold"].ask((payment.payment_hash,), hold))
    assert told == write(CALLS["hold"].ask((payment.payment_hash,), {**hold, "rerun": True}))
    assert b"rerun" not in told
    assert CALLS["hold"].heard(msgspec.Raw(told))["rerun"] is True


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        CALLS["settle"].heard(msgspec.Raw(write({"payment_hash": b"", "received": {"msat": -1}})))
    with pytest.raises(msgspec.ValidationError):
        CALLS["balance"].answered(msgspec.Raw(write(7)))


def test_a_method_of_any_port_travels_as_long_as_its_types_do() -> None:
    async def refund(
        self: object, when: datetime | None, *, to: tuple[Payment | None, ...] = (), to_whom: Hold | Answer | None
    ) -> dict[str, list[timedelta]]: ...

    call, now = Call("refund", refund), datetime.now(UTC)
    answer = Answer(status=200, headers=(), body=b"x")
    asked = call.ask((now,), {"to_whom": answer})
    assert {"when": now, "to": (), "to_whom": answer} == call.heard(msgspec.Raw(write(asked)))
    result = {"a": [timedelta(microseconds=-1), timedelta.max]}
    assert result == call.answered(msgspec.Raw(write(call.answer(result))))


def test_only_the_union_of_records_needs_their_names() -> None:
    """`Hold | Payment | None` is told apart, and so is an `Answer | None`."""
    assert {Hold, Payment} < set(get_args(get_type_hints(Ledger.hold)["return"]))
    held = Hold(
        payment_hash=b"h", digest=b"d", epoch=1, attempt=1, amount=Amount.sats(1), lease_until=datetime.now(UTC)
    )
    for result in (held, invoice(), None):
        assert result == CALLS["hold"].answered(msgspec.Raw(write(CALLS["hold"].answer(result))))


# --- the connection ---------------------------------------------------------------------------------------------------

connects = pytest.mark.system


class Scripted:
    """A ledger whose answers the test gives. It speaks for the methods that the tests ask."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[str, asyncio.Future[Any]]] = asyncio.Queue()
        self.names: list[bytes | None] = []

    async def _asked(self, about: str) -> Any:
        answered = asyncio.get_running_loop().create_future()
        await self.asked.put((about, answered))
        return await answered

    async def find_payment(self, payment_hash: bytes) -> Any:
        return await self._asked(payment_hash.decode())

    async def hold(self, payment_hash: bytes, *, name: bytes | None = None, **_: object) -> Any:
        self.names.append(name)
        return await self._asked("hold")

    async def capture(self, hold: Hold, answer: Answer | None, *, name: bytes | None = None) -> Any:
        self.names.append(name)
        return await self._asked("capture")


@asynccontextmanager
async def served(ledger: Any, path: Path) -> Any:
    async with serve_ledger(ledger, ledger_socket(path)) as serving:
        yield serving


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await story()

    asyncio.run(bounded())


@connects
def test_answers_come_in_any_order_and_each_to_its_own_question(place: Path) -> None:
    async def story() -> None:
        kept = Scripted()
        async with served(kept, place):
            remote: Any = RemoteLedger(place)
            names = [f"{number}" for number in range(50)]
            asking = [asyncio.create_task(remote.find_payment(name.encode())) for name in names]
            waiting = dict([await kept.asked.get() for _ in names])
            for name in reversed(names):
                waiting[name].set_result(invoice(name))
            assert [invoice(name).payment_hash for name in names] == [(await each).payment_hash for each in asking]
            await remote.close()

    run(story)


@connects
def test_operations_are_begun_in_the_order_in_which_they_were_asked_for(place: Path) -> None:
    async def story() -> None:
        kept = Scripted()
        async with served(kept, place):
            remote: Any = RemoteLedger(place)
            names, asking = [f"{number:03}" for number in range(200)], []
            for at, name in enumerate(names):  # also while the connection is being opened
                asking.append(asyncio.create_task(remote.find_payment(name.encode())))
                if at % 10 == 0:
                    await asyncio.sleep(0)
            assert names == [(await kept.asked.get())[0] for _ in names]
            for each in asking:
                each.cancel()
            await asyncio.wait(asking)
            await remote.close()

    run(story)


@connects
def test_what_is_under_way_when_the_connection_is_lost_is_not_known_to_be_done(place: Path) -> None:
    async def story() -> None:
        kept = Scripted()
        remote: Any = RemoteLedger(place)
        async with served(kept, place):
            asking = [asyncio.create_task(remote.find_payment(b"%d" % number)) for number in range(3)]
            for _ in asking:
                await kept.asked.get()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [StoreUnavailable] * 3 == [type(outcome) for outcome in outcomes]
        with pytest.raises(StoreUnavailable):  # nobody is there
            await remote.find_payment(b"later")
        async with served(kept, place):  # it came back, and is asked without further ado
            again = asyncio.create_task(remote.find_payment(b"again"))
            about, answered = await kept.asked.get()
            answered.set_result(None)
            assert ("again", None) == (about, await again)
            await remote.close()

    run(story)


@connects
def test_a_claim_and_a_capture_in_doubt_are_asked_for_again_under_their_names_and_another_under_its_own(
    place: Path,
) -> None:
    held = Hold(
        payment_hash=b"h", digest=b"d", epoch=1, attempt=1, amount=Amount.sats(1), lease_until=datetime.now(UTC)
    )

    async def story() -> None:
        kept = Scripted()
        remote: Any = RemoteLedger(place)
        async with served(kept, place):
            doubtful = [
                asyncio.create_task(claim(remote, invoice())),
                asyncio.create_task(remote.capture(held, None)),
            ]
            await kept.asked.get()
            await kept.asked.get()
        assert [StoreUnavailable] * 2 == [
            type(outcome) for outcome in await asyncio.gather(*doubtful, return_exceptions=True)
        ]
        async with served(kept, place):
            for again in (claim(remote, invoice()), remote.capture(held, None), claim(remote, invoice())):
                asking = asyncio.create_task(again)
                about, answered = await kept.asked.get()
                answered.set_result(True if about == "capture" else None)
                await asking
            await remote.close()
        claimed, captured, claimed_again, captured_again, claimed_anew = kept.names
        assert (claimed, captured) == (claimed_again, captured_again)
        assert 3 == len({claimed, captured, claimed_anew})
        assert None not in kept.names

    run(story)


@connects
def test_a_claim_that_was_won_although_nobody_heard_of_it_is_found_again(place: Path, tmp_path: Path) -> None:
    class Forgetful(SqlLedger):
        """It does what it is asked, and its connection breaks before it says so."""

        async def hold(self, *args: Any, **kwargs: Any) -> Any:
            await super().hold(*args, **kwargs)
            raise StoreUnavailable("It can't tell.")

    async def story() -> None:
        kept = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        payment = invoice()
        await kept.open_payment(payment)
        remote: Any = RemoteLedger(place)
        async with served(Forgetful(kept.engine, keep_answers=timedelta(days=1)), place):
            with pytest.raises(StoreUnavailable, match="can't tell"):
                await claim(remote, payment)
        async with served(kept, place):
            assert isinstance(await claim(kept, payment), Payment)  # to anybody else it is taken
            assert isinstance(await claim(remote, payment), Hold)
            await remote.close()
        await kept.close()

    run(story)


@connects
def test_somebody_who_waits_is_woken_by_a_capture_over_another_connection(place: Path, tmp_path: Path) -> None:
    async def story() -> None:
        kept = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        payment = invoice()
        await kept.open_payment(payment)
        async with served(kept, place):
            runs: Any = RemoteLedger(place)
            waits: Any = RemoteLedger(place)
            held = await claim(runs, payment)
            waiting = asyncio.create_task(waits.changed(payment.payment_hash, within=timedelta(seconds=PATIENCE_S)))
            await waits.find_payment(payment.payment_hash)  # asked later on the same connection: it waits by now
            began = asyncio.get_running_loop().time()
            assert await runs.capture(held, None)
            await waiting
            assert asyncio.get_running_loop().time() - began < 0.1  # the engine looks again by itself after 0.2 s
            await runs.close()
            await waits.close()
        await kept.close()

    run(story)


@connects
def test_a_fault_is_told_on_both_sides_and_the_connection_goes_on(place: Path) -> None:
    async def story() -> None:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
        kept = Scripted()
        async with served(kept, place):
            remote: Any = RemoteLedger(place)
            asking = [asyncio.create_task(remote.find_payment(b"%d" % number)) for number in range(2)]
            waiting = dict([await kept.asked.get() for _ in asking])
            waiting["0"].set_exception(ZeroDivisionError("secret"))
            with pytest.raises(RuntimeError, match="failed: ZeroDivisionError"):
                await asking[0]
            waiting["1"].set_result(None)
            assert await asking[1] is None
            await remote.close()
        assert [ZeroDivisionError] == [type(fault) for fault in faults]

    run(story)


@connects
def test_an_answer_of_many_megabytes_arrives(place: Path, tmp_path: Path) -> None:
    async def story() -> None:
        kept = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        payment, answer = invoice(), Answer(status=200, headers=(("a", "b"),), body=os.urandom(3_000_000))
        await kept.open_payment(payment)
        async with served(kept, place):
            remote: Any = RemoteLedger(place)
            assert await remote.capture(await claim(remote, payment), answer)
            assert answer == await remote.find_answer(payment.payment_hash)
            await remote.close()
        await kept.close()

    run(story)


@connects
def test_a_question_whose_asker_went_away_disturbs_nobody(place: Path) -> None:
    async def story() -> None:
        kept = Scripted()
        async with served(kept, place) as serving:
            remote: Any = RemoteLedger(place)
            asking = asyncio.create_task(remote.find_payment(b"gone"))
            _, answered = await kept.asked.get()
            asking.cancel()
            await asyncio.wait([asking])
            answered.set_result(None)
            other = asyncio.create_task(remote.find_payment(b"other"))
            (await kept.asked.get())[1].set_result(None)
            assert await other is None
            await remote.close()
            await serving.deserted()

    run(story)


@connects
def test_one_that_was_closed_says_so(place: Path) -> None:
    async def story() -> None:
        remote: Any = RemoteLedger(place)
        await remote.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await remote.find_payment(b"late")

    run(story)


@connects
def test_the_socket_is_its_owners_alone_and_replaces_one_that_was_left(place: Path) -> None:
    ledger_socket(place).close()
    place.parent.chmod(0o755)
    with ledger_socket(place) as bound:
        assert 0o600 == stat.S_IMODE(place.stat().st_mode)
        assert 0o700 == stat.S_IMODE(place.parent.stat().st_mode)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(os.fspath(place))
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@connects
def test_a_path_of_the_greatest_length_can_be_had(place: Path) -> None:
    longest = place.with_name("x" * (LONGEST_PATH - len(os.fsencode(place.parent)) - 1))
    assert LONGEST_PATH == len(os.fsencode(longest))
    ledger_socket(longest).close()
