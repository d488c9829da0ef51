"""The gate: the seller's front room. It asks for money, admits who paid, and charges when it answers."""

from farebox.gate.door import Converse, Decision, Gate
from farebox.gate.grant import Grant
from farebox.gate.terms import Challenged, Free, Replay, Terms, Visit

__all__ = ["Challenged", "Converse", "Decision", "Free", "Gate", "Grant", "Replay", "Terms", "Visit"]
