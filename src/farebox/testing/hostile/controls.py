"""Honest sellers, as they are deployed: every one of them is paid once, and serves."""

from __future__ import annotations

from typing import Any, Final

from farebox.core.bolt11 import Invoice
from farebox.testing.hostile.stage import TOKEN, Act, Scenario, Seller

_EVM: Final = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "10000",
    "asset": "0x0",
    "payTo": "0x1",
    "extra": {},
}


def _asks(name: str, ask: Any, shows: str = "authorization", starts: str = "L402 ") -> Scenario:
    """Serves whoever shows a header that starts like this; asks everybody else."""

    def acts(seller: Seller) -> list[Act]:
        asking, serving = ask(seller, seller.invoice()), seller.serves()

        def act(request: Any) -> Any:
            is_shown = request.headers.get(shows, "").startswith(starts)
            return (serving if is_shown else asking)(request)

        return [act]

    return Scenario(name=name, acts=acts, paid=1)


def _header(*lines: str, body: Any = b"") -> Any:
    """A 402 with these lines, with the invoice put in at `INVOICE`."""

    def ask(seller: Seller, invoice: Invoice) -> Act:
        fields = [("www-authenticate", line.replace("INVOICE", invoice.text)) for line in lines]
        return seller.says(402, fields, body)

    return ask


def _klabo(seller: Seller, invoice: Invoice) -> Act:
    told: dict[str, Any] = {
        "price_sats": 21,
        "payment_request": invoice.text,
        "payment_hash": invoice.payment_hash.hex(),
    }
    told |= {"verify_header": "X-Payment-Hash", "verify_query_arg": "payment_hash"}
    body: dict[str, Any] = {
        "status": "payment_required",
        "payment_hash": invoice.payment_hash.hex(),
        "invoice": invoice.text,
    }
    body |= {"amount_sats": 21, "protocols": {"l402": told}, "free_tier": 50, "endpoint": "/score"}
    return seller.says(402, [("www-authenticate", f'L402 invoice="{invoice.text}", macaroon="none"')], body)


def _maximumsats(seller: Seller, invoice: Invoice) -> Act:
    told = {"payment_request": invoice.text, "payment_hash": invoice.payment_hash.hex(), "amount_sats": 21}
    return seller.says(402, body={"error": "Payment required"} | told)


def _agentpay(seller: Seller, invoice: Invoice) -> Act:
    return seller.says(402, body={"pr": invoice.text, "payment_hash": invoice.payment_hash.hex()})


def _line(invoice: str) -> tuple[str, str]:
    return "www-authenticate", f'L402 macaroon="{TOKEN}", invoice="{invoice}"'


CONTROLS: Final = (
    _asks("L402 as it is deployed", _header(f'L402 macaroon="{TOKEN}", invoice="INVOICE"')),
    _asks("L402 as it is specified", _header(f'L402 version="0", token="{TOKEN}", invoice="INVOICE"')),
    _asks("LSAT", _header(f'LSAT macaroon="{TOKEN}", invoice="INVOICE"'), starts=f"LSAT {TOKEN}:"),
    _asks(
        "aperture, LSAT first and L402 behind it",
        _header(f'LSAT macaroon="{TOKEN}", invoice="INVOICE"', f'L402 macaroon="{TOKEN}", invoice="INVOICE"'),
        starts=f"LSAT {TOKEN}:",
    ),
    _asks("unquoted, unpadded, URL-safe", _header("L402 macaroon = AgEE-_8 ,invoice= INVOICE"), starts="L402 AgEE-_8:"),
    _asks(
        "among other schemes in one line",
        _header(f'Basic realm="a, b", L402 realm="c, d", invoice="INVOICE", macaroon="{TOKEN}", Bearer'),
    ),
    _asks("Payment", lambda s, invoice: s.payment(invoice), starts="Payment "),
    _asks("wot.klabo.world", _klabo),
    _asks("maximumsats.com", _maximumsats),
    _asks("an invoice in the body alone, as `pr`", _agentpay),
    _asks("a macaroon in the body alone", lambda s, invoice: s.bare(invoice, macaroon=TOKEN), starts=f"L402 {TOKEN}:"),
    _asks("x402 over Lightning", lambda s, invoice: s.x402(invoice), shows="payment-signature", starts="eyJ4NDAy"),
    _asks(
        "x402 over Lightning beside another chain",
        lambda s, invoice: s.x402(invoice, _EVM, {"scheme": "upto"}),
        shows="payment-signature",
        starts="eyJ4NDAy",
    ),
    _asks("an invoice in capitals", lambda s, invoice: s.l402(invoice.text.upper(), {"amount_sats": 21})),
    _asks("an invoice with route hints", lambda s, invoice: s.l402(s.altered("r", b"0" * 82))),
    Scenario(
        name="a price that is asked for after a redirect within the origin",
        acts=lambda s: [s.redirects(307, "https://SHOP.example:443/v2"), s.l402(s.invoice()), s.serves()],
        paid=1,
        follows=True,
    ),
    Scenario(
        name="two invoices of which one is sound",
        acts=lambda s: [s.says(402, [_line(s.invoice(5).text[:-4]), _line(s.invoice().text)]), s.serves()],
        paid=1,
    ),
    Scenario(
        name="a payment that the seller sees a moment later",
        acts=lambda s: [ask := s.l402(s.invoice()), ask, ask, s.serves()],
        paid=1,
    ),
    Scenario(name="nothing to pay", acts=lambda s: [s.serves()]),
)
