"""The certificate that the server shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from clockd.errors import Misconfigured

_Loaded = TypeVar("_Loaded")

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only, as in Mozilla's intermediate list
(https://wiki.mozilla.org/Security/Server_Side_TLS) without DHE. TLS 1.3 has no others.
"""


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the TLS side of a server's connections: TLS 1.2 or newer, no resumption, buffers released when empty.

    Twisted's `CertificateOptions` does more than is needed here, and some of it needs memory that is both writable and
    executable, which the unit in `deploy/` denies.

    Args:
        certificate: PEM, the server's own certificate first, then those of the authorities between it and the root.
        private_key: PEM, without a passphrase.

    Raises:
        Misconfigured: A file cannot be read, or the two do not belong together.
    """

    def __init__(self, certificate: Path, private_key: Path) -> None:
        own, *others = [
            _load(f"tls.certificate: {certificate}: is no PEM certificate", x509.load_pem_x509_certificate, found)
            for found in _PEM.findall(_read("tls.certificate", certificate)) or [b""]
        ]
        key = _load(
            f"tls.private_key: {private_key}: is no PEM private key without a passphrase",
            lambda pem: load_pem_private_key(pem, None),
            _read("tls.private_key", private_key),
        )
        context = self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(CIPHERS)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        try:
            context.use_certificate(own)
            for other in others:
                context.add_extra_chain_cert(other)
        except SSL.Error as error:
            raise Misconfigured(
                f"tls.certificate: {certificate}: OpenSSL refuses it: {error.args[0][-1][2]}"
            ) from error
        try:
            context.use_privatekey(key)  # type: ignore[arg-type]  # of a kind that OpenSSL may refuse
            context.check_privatekey()
        except (SSL.Error, TypeError) as error:
            raise Misconfigured(f"tls.private_key: {private_key}: does not belong to {certificate}") from error

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the TLS side of a new connection."""
        return SSL.Connection(self._context, None)


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a name with a null byte
        raise Misconfigured(f"{key}: {file}: cannot be read: {getattr(error, 'strerror', error)}") from error


def _load(what: str, load: Callable[[bytes], _Loaded], pem: bytes) -> _Loaded:
    try:
        return load(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misconfigured(what) from error
