"""The gate: the seller's front room. It asks for money, admits who paid, and charges when it answers."""

from farebox.gate.asking import Converse
from farebox.gate.door import Decision, Gate
from farebox.gate.events import Event, Observer
from farebox.gate.grant import Grant, HeldCall
from farebox.gate.reconciler import Reconciler, StreamFound, StreamLost
from farebox.gate.terms import Challenged, Free, Limits, Replay, Terms, Visit

__all__ = [
    "Challenged",
    "Converse",
    "Decision",
    "Event",
    "Free",
    "Gate",
    "Grant",
    "HeldCall",
    "Limits",
    "Observer",
    "Reconciler",
    "Replay",
    "StreamFound",
    "StreamLost",
    "Terms",
    "Visit",
]
