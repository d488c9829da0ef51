"""lnd, for real: the suites against nodes with channels, and what only real nodes do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farebox.testing.backends import ReceiverSuite, WalletSuite
from farebox.testing.hold_invoices import HoldSuite
from farebox.testing.regtest import Regtest
from farebox.testing.regtest_world import RegtestWorld
from farebox.testing.settlement_streams import StreamSuite

pytestmark = pytest.mark.lightning


class _Real:
    @pytest.fixture
    def world(self, regtest: Regtest) -> Iterator[RegtestWorld]:
        world = RegtestWorld(regtest)
        yield world
        world.close()


class TestReceiver(_Real, ReceiverSuite):
    pass


class TestHolding(_Real, HoldSuite):
    pass


class TestStream(_Real, StreamSuite):
    pass


class TestWallet(_Real, WalletSuite):
    pass
