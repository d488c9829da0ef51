"""Sellers who mean harm, and honest ones beside them: a corpus for every kind of buyer.

    Scenario.play(Face("client"))       # raises AssertionError when it does not end as its line says

No socket is opened, but for those of `bombs`. CONTROLS are sellers of the field as they are deployed, all of which have
to be served.
"""

from farebox.testing.hostile.controls import CONTROLS
from farebox.testing.hostile.corpus import CORPUS
from farebox.testing.hostile.stage import Scenario, Seller

__all__ = ["CONTROLS", "CORPUS", "Scenario", "Seller"]
