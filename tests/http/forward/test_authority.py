"""The authority that the proxy has for one machine: what a caller that trusts it accepts, and what not."""

from __future__ import annotations

import ssl
from datetime import timedelta

import pytest

from farebox.core.errors import ConfigError
from farebox.http.forward.authority import Authority
from farebox.stores.engine import utc_now
from farebox.testing.market import StillClock


def opened(*domains: str) -> Authority:
    return Authority(Authority.make(domains=domains, clock=utc_now), clock=utc_now)


def shake_hands(
    authority: Authority, host: str, *, asked_for: str | None = None, trusting: Authority | None = None
) -> dict[str, object]:
    """The certificate that a strict caller sees, in memory. Raises ssl.SSLError."""
    believing = ssl.create_default_context(cadata=(trusting or authority).certificate_pem())
    believing.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = believing.wrap_bio(to_client, to_server, server_hostname=host)
    server = authority.context(asked_for or host).wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return dict(client.getpeercert() or {})


@pytest.mark.parametrize("host", ["shop.test", "a.b.shop.test", "127.0.0.1", "2001:db8::1"])
def test_a_strict_caller_that_trusts_it_accepts_its_certificate_for_the_host_that_was_asked_for(host: str) -> None:
    kind = "IP Address" if host[0].isdigit() else "DNS"
    spelt = "2001:DB8:0:0:0:0:0:1" if ":" in host else host
    assert ((kind, spelt),) == shake_hands(opened(), host)["subjectAltName"]


def test_a_certificate_is_for_one_host_alone() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(opened(), "other.test", asked_for="shop.test")


def test_a_caller_that_trusts_another_authority_does_not_accept_it() -> None:
    with pytest.raises(ssl.SSLError):
        shake_hands(opened(), "shop.test", trusting=opened())


def test_one_made_for_some_domains_can_vouch_for_no_other_even_if_it_tried() -> None:
    authority = opened("shop.test")
    assert ("shop.test",) == authority.domains
    assert authority.vouches_for("shop.test")
    assert authority.vouches_for("a.shop.test")
    assert not authority.vouches_for("notshop.test")
    assert shake_hands(authority, "a.shop.test")
    for host in ("other.test", "127.0.0.1", "::1"):
        assert not authority.vouches_for(host)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(authority, host)


def test_one_made_for_everyone_vouches_for_everyone() -> None:
    assert opened().vouches_for("whoever.test")


def test_certificates_are_kept_for_half_their_day_and_then_made_anew() -> None:
    clock = StillClock()
    authority = Authority(Authority.make(domains=(), clock=clock), clock=clock)
    first = authority.context("shop.test")
    assert first is authority.context("shop.test")
    clock.pass_by(timedelta(hours=13))
    assert first is not authority.context("shop.test")


def test_so_many_hosts_and_no_more_are_remembered() -> None:
    authority = opened()
    for number in range(300):
        authority.context(f"{number}.test")
    assert 256 == len(authority._contexts)


def test_it_tells_when_a_new_one_is_due() -> None:
    clock = StillClock()
    authority = Authority(Authority.make(domains=(), clock=clock), clock=clock)
    assert not authority.runs_out
    clock.pass_by(timedelta(days=340))
    assert authority.runs_out


def test_what_is_no_authority_of_ours_is_refused_in_one_line() -> None:
    one, other = Authority.make(domains=(), clock=utc_now), Authority.make(domains=(), clock=utc_now)
    key, certificate = one.split(b"-----END PRIVATE KEY-----\n")[0], other.partition(b"-----END PRIVATE KEY-----\n")[2]
    for pem in (
        b"",
        b"nonsense",
        one.partition(b"-----BEGIN CERT")[0],
        key + b"-----END PRIVATE KEY-----\n" + certificate,
    ):
        with pytest.raises(ConfigError):
            Authority(pem, clock=utc_now)
