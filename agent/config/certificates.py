"""The TLS files of ``[mqtt]``: there, readable by us alone, fitting together, and in date."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

FOR_OTHERS = 0o077

_UTC_TIME, _GENERALIZED_TIME, _EXPLICIT_VERSION = 0x17, 0x18, 0xA0
_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate holds."""

    begins: datetime
    ends: datetime


def readable_trouble(path: Path) -> str | None:
    """Return why the file cannot be read, in a few words; None: it can."""
    try:
        with path.open("rb") as file:
            return None if file.read(1) else "is empty"
    except OSError as exc:
        return f"cannot be read ({(exc.strerror or type(exc).__name__).lower()})"


def secrecy_trouble(path: Path) -> str | None:
    """Return what is wrong with a secret file's permissions; None: nothing, or it is not there."""
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        return None
    if mode & FOR_OTHERS:
        return f"has mode {mode:04o}, so others than its owner may use it; run chmod 600 {path}"
    return None


def pair_trouble(certificate: Path, key: Path) -> str | None:
    """Return why certificate and key cannot be used together; None: they can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Without a password of its own, OpenSSL would ask for one at the terminal and wait.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            return f"the key is not this certificate's; {key} and {certificate} must be one pair"
        return "no usable pair of PEM certificate and unencrypted PEM key"
    except (OSError, ValueError):
        return "no usable pair of PEM certificate and unencrypted PEM key"
    return None


def authority_trouble(path: Path) -> str | None:
    """Return why the file cannot be used to check the broker; None: it can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return "holds no PEM certificate"
    return None


def validity(path: Path) -> Validity | None:
    """Return from when to when the file's first certificate holds; None: it cannot be told."""
    try:
        text = path.read_text(encoding="ascii")
        start = text.index(_BEGIN)
        end = text.index(_END, start) + len(_END)
        return validity_of(ssl.PEM_cert_to_DER_cert(text[start:end]))
    except (OSError, ValueError):  # no PEM, no ASCII, no base 64
        return None


def validity_of(der: bytes) -> Validity | None:
    """Return the validity in a DER certificate; None: it is not one.

    ::

        Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version?, serialNumber,
            signature, issuer, validity SEQUENCE { notBefore, notAfter }, … }, … }

    Source: RFC 5280, sections 4.1 and 4.1.2.5.
    """
    try:
        _, certificate, _ = _element(der)
        _, rest, _ = _element(certificate)
        tag, _, after = _element(rest)
        if tag == _EXPLICIT_VERSION:
            rest = after
        for _ in range(3):  # serial number, signature algorithm, issuer
            _, _, rest = _element(rest)
        _, both, _ = _element(rest)
        begin_tag, begin, rest = _element(both)
        end_tag, end, _ = _element(rest)
        return Validity(_time(begin_tag, begin), _time(end_tag, end))
    except (ValueError, IndexError):
        return None


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag, content and what follows of the first DER element."""
    tag, size, at = data[0], data[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if at + size > len(data):
        raise ValueError("the element is longer than its data")
    return tag, data[at : at + size], data[at + size :]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50-99 are 19xx (RFC 5280, 4.1.2.5.1)
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"no time has tag {tag:#04x}")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
