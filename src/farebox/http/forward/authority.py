"""A certificate authority for one machine, by which the proxy can read what its callers say to https servers.

Rules
1. Only programs that were told to trust its certificate do. Its key stays in one file of its owner's.
2. A certificate is made for one host, when somebody asks for that host, is good for a day, and is kept in memory. Its
   key dies with the process.
3. An authority that was made for some domains can't vouch for others, whoever has its key (RFC 5280, 4.2.1.10).
4. What a caller is shown says nothing of the server: that one's certificate is verified where the proxy calls it.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from farebox.core.errors import ConfigError
from farebox.core.ports import Clock

_GOOD_FOR: Final = timedelta(days=365)
_LEAF_GOOD_FOR: Final = timedelta(days=1)
_RENEWED: Final = timedelta(days=30)  # before its end an authority is made anew
_SKEW: Final = timedelta(hours=1)
_MOST_KEPT: Final = 256
_EVERY_ADDRESS: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class Authority:
    """Makes a TLS context for each host that a caller asks for.

    pem: private key and certificate. Raises ConfigError when it is not that of an authority of ours.
    """

    def __init__(self, pem: bytes, *, clock: Clock) -> None:
        try:
            key = serialization.load_pem_private_key(pem, password=None)
            self.certificate = x509.load_pem_x509_certificate(pem)
            self.domains = _domains(self.certificate)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
            raise ConfigError(
                "this is no authority of the proxy's; take the file away, and a new one is made"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self.certificate.public_key():
            raise ConfigError("the key is not that of the certificate; take the file away, and a new one is made")
        self._key = key
        self._clock = clock
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()

    @classmethod
    def make(cls, *, domains: Sequence[str], clock: Clock) -> bytes:
        """A new one, as PEM: its key and its certificate. domains: all that it can vouch for; empty for everyone."""
        key = ec.generate_private_key(ec.SECP256R1())
        called = f"farebox proxy on this machine, {os.urandom(4).hex()}"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called)])
        now = clock()
        built = (
            x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _GOOD_FOR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if domains:
            permitted = [x509.DNSName(domain) for domain in domains]
            nowhere = [x509.IPAddress(network) for network in _EVERY_ADDRESS]
            constraints = x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=nowhere)
            built = built.add_extension(constraints, critical=True)
        return _pem_of_key(key) + built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def runs_out(self) -> bool:
        """Whether it is about to end, so that a new one is due."""
        return self._clock() > self.certificate.not_valid_after_utc - _RENEWED

    def certificate_pem(self) -> str:
        """What callers have to trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def vouches_for(self, host: str) -> bool:
        """Whether it can make a certificate for a host."""
        name = host.removesuffix(".")
        return not self.domains or any(name == domain or name.endswith(f".{domain}") for domain in self.domains)

    def context(self, host: str) -> ssl.SSLContext:
        """What a caller that asked for this host is met with. Blocks for a millisecond where it is a new one."""
        now = self._clock()
        kept = self._contexts.get(host)
        if kept is not None and now < kept[0]:
            self._contexts.move_to_end(host)
            return kept[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load(context, self._leaf(host, now) + _pem_of_key(self._leaf_key))
        self._contexts[host] = (now + _LEAF_GOOD_FOR / 2, context)
        while len(self._contexts) > _MOST_KEPT:
            self._contexts.popitem(last=False)
        return context

    def _leaf(self, host: str, now: datetime) -> bytes:
        try:
            name: x509.GeneralName = x509.IPAddress(ip_address(host))
        except ValueError:
            name = x509.DNSName(host.removesuffix("."))
        issuer_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        built = (
            x509.CertificateBuilder(
                subject_name=x509.Name([]), issuer_name=self.certificate.subject, public_key=self._leaf_key.public_key()
            )
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(min(now + _LEAF_GOOD_FOR, self.certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        )
        signed = built.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def _domains(certificate: x509.Certificate) -> tuple[str, ...]:
    if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise ValueError
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(each.value for each in constraints.permitted_subtrees or () if isinstance(each, x509.DNSName))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Python's ssl reads a key from a file only, so for this moment there is one, of this user alone."""
    number, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(pem)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()
