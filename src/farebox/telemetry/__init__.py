"""What an operator sees from outside: metrics, traces, alerts. It watches the gate, and the gate knows nothing of it.

Each module is imported by whoever needs it, because each stands on a library of its own.
"""
