"""`farebox serve --workers N`: the supervisor of many processes on one machine.

    supervisor ─┬─ keeper    the ledger's file, the sandbox, the upkeep: what there is one of
                ├─ worker 1  ┐
                ├─ …         │ answer calls; ask the keeper for the ledger over a unix socket,
                └─ worker N  ┘ or have each their own connections to PostgreSQL

Rules
1. The supervisor binds the sockets and keeps them open: while a worker is replaced, callers wait and are not refused.
2. A child that dies is replaced. While there is no keeper, workers answer 503, and what was under way is found again.
3. SIGHUP puts a new generation beside the old one: a keeper, which reads the configuration, and then one worker after
   the other, for each of which an old one answers what it has heard and ends. Where the new ones can't begin, one line
   tells why, and the old ones stay. Two keepers have one file for a while: the database arbitrates, as between any two.
4. SIGTERM, SIGINT: nobody is heard any more, who was heard is answered within DRAIN, and all end. Another one: at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from farebox.cli.announcement import announce, warn_of_silent_upstreams, write_state
from farebox.cli.child import Post
from farebox.cli.config import Config, Source
from farebox.cli.listening import listening_sockets, url_of
from farebox.cli.orders import Fixed, Orders, Role, Word
from farebox.cli.output import tell
from farebox.cli.own_folder import own_folder
from farebox.cli.sandbox_api import Wallets, sandbox_address
from farebox.cli.serve import metrics_socket, store_of
from farebox.cli.server import DRAIN
from farebox.cli.state import made_dir
from farebox.cli.telemetry import Watch
from farebox.core.errors import FareboxError, OperatorError
from farebox.http.selling import now
from farebox.stores import open_ledger

if TYPE_CHECKING:
    from farebox.telemetry.workers import SharedMetrics

T = TypeVar("T")

log = structlog.get_logger("farebox")

_AT_ONCE: Final = timedelta(seconds=5)  # for what is told to end at once, before it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be served, and where it is kept."""

    source: Source
    folder: Path
    state_file: Path | None = None
    log_level: str = "info"
    sandbox_allowed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the supervisor has for its children, for as long as it runs.

    sockets: where callers are heard. api, wallets: the sandbox's. run: a folder. counted: the workers' metrics.
    """

    fixed: Fixed
    sockets: Sequence[socket.socket]
    run: Path
    api: socket.socket | None
    wallets: Wallets | None
    counted: SharedMetrics | None


async def supervise(plan: Plan, config: Config) -> None:
    """Serve until a signal says to stop. Raises OperatorError, also where children can't be kept alive."""
    host, port = config.address
    with ExitStack() as stack:
        bound = listening_sockets(host, port, processes=config.worker_count or 1)
        sockets = [stack.enter_context(each) for each in bound]
        metrics = stack.enter_context(metrics_socket(config))
        place = _place(stack, plan, config, sockets, metered=metrics is not None)
        url = url_of(host, sockets[0].getsockname()[1])
        supervisor = Supervisor(plan, place)
        async with supervisor.signals():
            if not await supervisor.open():
                return
            announce(config, url, place.wallets)
            if plan.state_file is not None:
                write_state(plan.state_file, url=url, wallets=place.wallets, store=place.fixed.store)
            await warn_of_silent_upstreams(config)
            async with _reporting(place, metrics):
                await supervisor.run()


def _place(stack: ExitStack, plan: Plan, config: Config, sockets: Sequence[socket.socket], *, metered: bool) -> Place:
    run = stack.enter_context(own_folder(plan.folder))
    api, wallets, counted = None, None, None
    if config.is_sandbox:
        api, wallets = stack.enter_context(sandbox_address(made_dir(plan.folder)))
    if metered:
        from farebox.telemetry.workers import SharedMetrics

        counted = SharedMetrics(run / "metrics")
    fixed = Fixed(listen=config.listen, store=store_of(config, plan.folder), sandbox=wallets is not None)
    return Place(fixed=fixed, sockets=sockets, run=run, api=api, wallets=wallets, counted=counted)


@asynccontextmanager
async def _reporting(place: Place, metrics: socket.socket | None) -> AsyncIterator[None]:
    """The audit of the books, and the metrics of all workers, are the supervisor's: there is one of it."""
    registry = None
    if place.counted is not None:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(place.counted)
    ledger = open_ledger(place.fixed.store)
    try:
        async with Watch(observer=lambda _: None, clock=now, registry=registry).reporting(
            metrics, place.fixed.store, ledger
        ):
            yield
    finally:
        await ledger.close()


# --- generations ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Generation:
    """A keeper and the workers that ask it, by their numbers: all of one version of code and configuration."""

    path: Path  # of the socket at which its keeper serves the ledger, if it does
    keeper: Post
    workers: dict[int, Post] = field(default_factory=dict)

    @property
    def posts(self) -> tuple[Post, ...]:
        return *self.workers.values(), self.keeper

    async def retire(self) -> None:
        """Returns when nobody is left of it: workers end when their calls have, and then the keeper."""
        for worker in self.workers.values():
            worker.give_up(Word.LEAVE)
        await _all_ended(self.workers.values())
        self.keeper.give_up(Word.STOP)
        await _all_ended((self.keeper,))
        self.path.unlink(missing_ok=True)


async def _all_ended(posts: Iterable[Post]) -> None:
    tasks = [post.task for post in posts]
    if tasks:
        await asyncio.wait(tasks)


class Supervisor:
    """Keeps a keeper and workers alive, and replaces them all when told to."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self._plan = plan
        self._place = place
        self._newest: _Generation | None = None
        self._all: list[_Generation] = []
        self._made = 0
        self._retiring: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._reloading = asyncio.Event()
        self._failure: str | None = None

    @asynccontextmanager
    async def signals(self) -> AsyncIterator[None]:
        """While inside, signals are obeyed; in the end no child is left."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.set)
        try:
            yield
        finally:
            await self._end()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def open(self) -> bool:
        """Returns when all children are ready; False when it was told to stop before. Raises why they can't begin."""
        await self._unless_stopped(self._replace())
        return not self._stopping.is_set()

    async def run(self) -> None:
        """Returns when it is told to stop. Raises OperatorError when children can't be kept alive."""
        while not self._stopping.is_set():
            await self._unless_stopped(self._reloading.wait())
            self._reloading.clear()
            await self._unless_stopped(self._reload())
        if self._failure is not None:
            raise OperatorError(f"{self._failure}; what it said stands above")

    def _stop(self) -> None:
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    async def _unless_stopped(self, work: Awaitable[T]) -> None:
        doing = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait((doing,))
        if not doing.cancelled():
            doing.result()

    # --- new ones beside the old ones ---------------------------------------------------------------------------------

    async def _reload(self) -> None:
        if self._stopping.is_set():
            return
        log.info("reloading")
        try:
            await self._replace()
        except FareboxError as error:
            tell(f"farebox: not reloaded, and serving as before: {error}", style="red")
        else:
            if self._newest is not None:
                ready = self._newest.keeper.first.result()
                log.info("reloaded", version=ready.version, workers=ready.workers)

    async def _replace(self) -> None:
        """A new generation in place of the newest. Raises why it can't begin; then everything is as it was."""
        old, new = self._newest, self._begin()
        try:
            ready = await new.keeper.first
            await self._hire(new, 1, ready.workers, serves_ledger=ready.serves_ledger)
        except BaseException:
            self._retire(new)
            raise
        self._newest = new
        if old is not None:
            old.keeper.say(Word.LEAVE)
            old.workers[1].give_up(Word.LEAVE)
        for number in range(2, ready.workers + 1):
            try:
                await self._hire(new, number, ready.workers, serves_ledger=ready.serves_ledger)
            except FareboxError as error:
                log.error("refused", which=f"worker {number}", reason=str(error))
                if old is None:
                    raise
            if old is not None and number in old.workers:
                old.workers[number].give_up(Word.LEAVE)
        if old is not None:
            self._retire(old)

    def _begin(self) -> _Generation:
        self._made += 1
        path = self._place.run / f"ledger-{self._made}.sock"
        lent = () if self._place.api is None else (self._place.api,)
        generation = _Generation(path=path, keeper=self._post(Role.KEEPER, 0, lent, ledger=path))
        self._all.append(generation)
        return generation

    async def _hire(self, generation: _Generation, number: int, of: int, *, serves_ledger: bool) -> None:
        """Returns when this worker is ready. Raises why it can't be."""
        sockets = self._place.sockets
        lent = sockets[number - 1 :: of] or (sockets[(number - 1) % len(sockets)],)
        worker = self._post(Role.WORKER, number, lent, ledger=generation.path if serves_ledger else None)
        generation.workers[number] = worker
        await worker.first

    def _post(self, role: Role, number: int, lent: Sequence[socket.socket], *, ledger: Path | None) -> Post:
        plan, place = self._plan, self._place
        orders = Orders(
            role=role,
            number=number,
            file=None if plan.source.file is None else str(plan.source.file.absolute()),
            flags=dict(plan.source.flags),
            folder=str(plan.folder.absolute()),
            log_level=plan.log_level,
            sandbox_allowed=plan.sandbox_allowed,
            sockets=tuple(each.fileno() for each in lent),
            ledger=None if ledger is None else str(ledger),
            seller=None if place.wallets is None else place.wallets.seller.reveal(),
            fixed=place.fixed,
        )
        environ = {**os.environ, **(place.counted.environment if place.counted is not None else {})}
        return Post(orders, lent=lent, environ=environ, ended=self._bury, despair=self._despair)

    def _retire(self, generation: _Generation) -> None:
        async def retire() -> None:
            await generation.retire()
            self._all.remove(generation)

        retiring = asyncio.create_task(retire())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    # --- the end of a child, and of all -------------------------------------------------------------------------------

    def _bury(self, pid: int) -> None:
        if self._place.counted is not None:
            self._place.counted.bury(pid)

    def _despair(self, post: Post, why: str) -> None:
        """A post can't be filled again. Without a keeper, or any worker, nothing can be sold."""
        newest = self._newest
        if newest is None or post not in newest.posts:
            return
        if post is newest.keeper or not any(worker.is_filled for worker in newest.workers.values()):
            self._failure = why
            self._stopping.set()

    async def _end(self) -> None:
        self._stopping.set()
        for listening in self._place.sockets:
            listening.close()  # the workers', which are copies, are the last, and are emptied before they are closed
        await self._dismiss([worker for each in self._all for worker in each.workers.values()], within=DRAIN)
        await self._dismiss([each.keeper for each in self._all], within=_AT_ONCE)
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def _dismiss(self, posts: Sequence[Post], *, within: timedelta) -> None:
        """Returns when all have ended: of themselves, or told to at once, or killed."""
        for post in posts:
            post.give_up(Word.STOP)
        hurrying = asyncio.create_task(self._hurrying.wait())
        ending = asyncio.create_task(_all_ended(posts))
        await asyncio.wait(
            (ending, hurrying), timeout=(within + _AT_ONCE).total_seconds(), return_when=asyncio.FIRST_COMPLETED
        )
        hurrying.cancel()
        for post in posts:
            post.say(Word.END)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AT_ONCE.total_seconds()):
                await asyncio.shield(ending)
        for post in posts:
            post.kill()
        await ending
