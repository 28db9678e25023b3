"""The certificate that the server shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from OpenSSL import SSL, crypto
from twisted.internet.ssl import CertificateOptions

from clockd.errors import Misconfigured

_Loaded = TypeVar("_Loaded")

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def tls_options(certificate: Path, private_key: Path) -> CertificateOptions:
    """Return what makes TLS connections of a server: TLS 1.2 or newer, Twisted's choice of ciphers.

    Args:
        certificate: PEM, the server's own certificate first.
        private_key: PEM, without a passphrase.

    Raises:
        Misconfigured: A file cannot be read, or the two do not belong together.
    """
    chain = [
        _load(f"tls.certificate: {certificate}: is no PEM certificate", crypto.load_certificate, found)
        for found in _PEM.findall(_read("tls.certificate", certificate)) or [b""]
    ]
    key = _load(
        f"tls.private_key: {private_key}: is no PEM private key without a passphrase",
        lambda kind, data: crypto.load_privatekey(kind, data, b""),
        _read("tls.private_key", private_key),
    )
    options = CertificateOptions(privateKey=key, certificate=chain[0], extraCertChain=chain[1:])
    try:
        options.getContext()
    except SSL.Error as error:
        raise Misconfigured(f"tls.private_key: {private_key}: does not belong to {certificate}") from error
    return options


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{key}: {file}: cannot be read: {error.strerror}") from error


def _load(what: str, load: Callable[[int, bytes], _Loaded], data: bytes) -> _Loaded:
    try:
        return load(crypto.FILETYPE_PEM, data)
    except (crypto.Error, ValueError, TypeError) as error:
        raise Misconfigured(what) from error
