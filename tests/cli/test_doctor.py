"""`farebox doctor node`: what it says of a node, and which one it asks."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from farebox.cli.doctor import Verdict, examine_node
from farebox.cli.doctor_command import doctor_node
from farebox.core.amount import Amount
from farebox.core.bolt11 import Invoice, Network
from farebox.core.errors import NodeUnavailable
from farebox.core.node import Capabilities, Conversation, InvoiceState, InvoiceStatus


class ReadOnly:
    """A node whose credential finds invoices and makes none."""

    name = "a node"
    capabilities: Capabilities = frozenset()
    network: Network | None = None
    narrow = "make one that makes invoices"

    def create_invoice(self, amount: Amount, *, description: str, expires_in: timedelta) -> Conversation[Invoice]:
        yield from ()
        raise NodeUnavailable("the macaroon does not allow it")

    def lookup_invoice(self, payment_hash: bytes) -> Conversation[InvoiceStatus]:
        yield from ()
        return InvoiceStatus(state=InvoiceState.UNKNOWN)

    def spends(self) -> Conversation[bool | None]:
        yield from ()
        return False


def test_where_no_invoice_is_made_it_says_how_a_credential_for_it_is_made() -> None:
    (made,) = [each for each in examine_node(ReadOnly()) if each.check == "makes an invoice"]
    assert Verdict.BAD is made.verdict
    assert "if the credential is too narrow: make one that makes invoices" == made.mend


def test_a_node_may_be_named_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_NODE", "sandbox:")
    with pytest.raises(SystemExit) as ended:
        doctor_node(receiver=["$MY_NODE"], as_json=True)
    assert 0 == ended.value.code
    assert '"node": "sandbox' in capsys.readouterr().out


def test_what_the_environment_lacks_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor_node(receiver=["$FAREBOX_NOT_SET"], as_json=True)
    assert 0 != ended.value.code
    assert "the environment has no FAREBOX_NOT_SET" in json.loads(capsys.readouterr().err)["message"]
