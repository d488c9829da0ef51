"""A seeded simulation of a seller's day: the real paywall, gate and ledger, in virtual time, with everything failing.

    farebox.testing.simulation.simulate(seed=7)     # the same story each time; raises AssertionError naming the seed

Rules
1. Everything random is drawn from one seeded `Chance`, and time passes only when nobody has anything to do, so a seed
   tells one story: run it again to see it again.
2. Real: HTTP reading, pricing, gate, dialects, statements, tables and their triggers (SQLite in memory). Simulated: the
   threads (none), the network, the node, the clock, and the moment at which a process dies.
3. First everything may fail; then there is peace, and whatever was paid for must come to an end.
"""

from farebox.testing.simulation.chance import Chance, Faults
from farebox.testing.simulation.node import FaultyNode
from farebox.testing.simulation.story import Tally, simulate

__all__ = ["Chance", "Faults", "FaultyNode", "Tally", "simulate"]
