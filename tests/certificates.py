"""Certificates for tests: an authority, and what it signs, as PEM files."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = datetime(2056, 1, 1, tzinfo=UTC)


class Authority:
    """Signs certificates and revokes them."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, BEGINS, ENDS).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self._revoked: list[int] = []

    def write(self, path: Path) -> Path:
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(
        self,
        directory: Path,
        stem: str,
        common_name: str,
        *,
        begins: datetime = BEGINS,
        ends: datetime = ENDS,
        revoked: bool = False,
    ) -> tuple[Path, Path]:
        """Write ``stem``.pem and ``stem``.key and return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = _builder(name, self._name, key, begins, ends).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        if revoked:
            self._revoked.append(certificate.serial_number)
        certificate_path, key_path = directory / f"{stem}.pem", directory / f"{stem}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.touch(mode=0o600)
        key_path.write_bytes(_pem(key, serialization.NoEncryption()))
        return certificate_path, key_path

    def write_revoked(self, path: Path) -> Path:
        """Write the revocation list, of all that was issued as revoked."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(BEGINS)
            .next_update(ENDS)
        )
        for number in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(BEGINS)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path


def encrypted_copy(key_path: Path, password: bytes) -> Path:
    """Write the same key encrypted beside it."""
    key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    path = key_path.with_name(f"encrypted-{key_path.name}")
    path.touch(mode=0o600)
    path.write_bytes(_pem(key, serialization.BestAvailableEncryption(password)))
    return path


def _pem(key, encryption) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _builder(name, issuer, key, begins, ends) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
