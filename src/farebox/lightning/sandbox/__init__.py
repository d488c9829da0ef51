"""The sandbox: an embedded regtest-like world of two nodes, seller and buyer. No network, and no money.

Rules
1. Invoices are real signed `lnbcrt` BOLT11, preimages are 32 unguessable bytes, expiry and balances count.
2. Making an invoice writes nothing. Its preimage is HMAC(seed, node, payment_secret), and the payment secret travels in
   the invoice, under the node's signature: whoever presents the invoice brings all that is needed to honour it, after
   a restart and in another process too. The book has a row from the moment it is paid, cancelled or held.
3. So an unpaid invoice is OPEN only to the process that made it, which remembers the newest of them; to others, and
   after a restart, it is UNKNOWN until it is paid. A row for each would cost a write for every 402 to a stranger, and
   would tell nobody more than "not paid", which UNKNOWN says as well.
4. Paying is one transaction: the first payment of a hash moves money, every later one is told of the first.
5. Trouble is scripted, never random: for the next payment, or for that of one hash.
"""

from farebox.lightning.sandbox.node import SandboxNode
from farebox.lightning.sandbox.trouble import Trouble
from farebox.lightning.sandbox.world import Sandbox

__all__ = ["Sandbox", "SandboxNode", "Trouble"]
