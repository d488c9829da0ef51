"""A payment that one process takes to have failed while another one makes it, on a purse that both share."""

from __future__ import annotations

from farebox.core.amount import Amount
from farebox.core.budget import Window
from farebox.core.payment import DrawState
from farebox.core.ports import Purse
from farebox.payer import Deliver, Pay, remember
from farebox.stores import open_purse
from farebox.testing.purchases import World


def test_money_that_moved_is_counted_though_another_process_has_written_that_it_did_not() -> None:
    world = World()
    purse: Purse = open_purse(":memory:", world.clock)
    world.purse = purse  # type: ignore[assignment]  # the real one
    story = world.payer.purchase(world.call())
    paying = world.until(story, Pay)
    purse.release(paying.invoice.payment_hash, reason="no route")

    served = world.until(story, Deliver, paying)
    remember(purse, served.outcome)

    [row] = purse.history(9)
    assert (DrawState.CAPTURED, True, "") == (row.state, row.served, row.reason)
    assert Amount.sats(21) + row.fee == purse.spent(Window.read("500 sat/day"))
    story.close()
    purse.close()
