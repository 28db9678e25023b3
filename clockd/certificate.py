"""TLS on both sides: files in PEM become what makes connections, or one sentence on what is wrong with them.

Rules of this module: it alone knows OpenSSL. It reads no clock; OpenSSL itself looks whether a peer's certificate has
expired.
"""

import re
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from os import PathLike
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreFlags
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    ISystemHandle,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from clockd.errors import ConnectionFailed, Misconfigured

_Source = TypeVar("_Source", str, bytes)
_Loaded = TypeVar("_Loaded")

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_Codes = SSL.X509VerificationCodes

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only, as in Mozilla's intermediate list
(https://wiki.mozilla.org/Security/Server_Side_TLS) without DHE. TLS 1.3 has no others.
"""

NAMES_TOLD = 4
"""As many of the hosts that a certificate is for are told in an error."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the TLS side of a server's connections: TLS 1.2 or newer, no resumption, buffers released when empty.

    Twisted's `CertificateOptions` does more than is needed here, and some of it needs memory that is both writable and
    executable, which the unit in `deploy/` denies.

    Args:
        certificate: PEM, the server's own certificate first, then those of the authorities between it and the root.
        private_key: PEM, without a passphrase.
        client_ca: PEM, authorities; if given, clients are asked for a certificate, and one that they show has to be of
            these. A client that shows none is served as well.

    Attributes:
        expires: When the first of the certificates in `certificate` expires, Unix seconds.

    Raises:
        Misconfigured: A file cannot be read, or certificate and key do not belong together.
    """

    def __init__(self, certificate: Path, private_key: Path, client_ca: Path | None = None) -> None:
        self.certificate = certificate
        self._private_key = private_key
        self._client_ca = client_ca
        self.reload()

    def reload(self) -> None:
        """Read the files again, for the connections to come.

        Raises:
            Misconfigured: As above; what was read before stays in force.
        """
        context = _new_context(SSL.TLS_SERVER_METHOD)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        shown = _show(context, "tls.", self.certificate, self._private_key)
        if self._client_ca is not None:
            for authority in _trust(context, "tls.client_ca", self._client_ca):
                context.add_client_ca(authority)
            context.set_verify(SSL.VERIFY_PEER)
        self._context = context
        self.expires = min(each.not_valid_after_utc.timestamp() for each in shown)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the TLS side of a new connection."""
        return SSL.Connection(self._context, None)


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """Makes the TLS side of a client's connections, and ends those whose server does not prove that it is `host`.

    Twisted's `optionsForClientTLS` lets a certificate that names no host pass for any (`tests/test_certificate.py`).

    Args:
        host: What the server's certificate has to name under `subjectAltName`: mostly the host of the endpoint.
        ca: PEM, the authorities that are trusted; without it those of the system are.
        certificate: PEM, to be shown to a server that asks for one: the client's own, then those of the authorities
            between it and the root.
        private_key: PEM, without a passphrase; looked for in the file of the certificate if it is not given.

    Attributes:
        has_certificate: Whether there is a certificate to show.

    Raises:
        Misconfigured: A file cannot be read, or certificate and key do not belong together.
    """

    def __init__(
        self,
        host: str,
        *,
        ca: str | PathLike[str] | None = None,
        certificate: str | PathLike[str] | None = None,
        private_key: str | PathLike[str] | None = None,
    ) -> None:
        context = self._context = _new_context(SSL.TLS_CLIENT_METHOD)
        self._host = host
        self._server_name: bytes | None = None
        self._prove: Callable[[x509.Certificate, str], None] = verify_certificate_ip_address
        try:
            ip_address(host)
        except ValueError:
            self._prove = verify_certificate_hostname
            self._server_name = _load(f"host: {host!r}: is no host's name", lambda name: name.encode("idna"), host)
        if ca is None:
            context.set_default_verify_paths()
        else:
            _trust(context, "ca", Path(ca))
        self.has_certificate = certificate is not None
        if certificate is not None:
            _show(context, "", Path(certificate), Path(private_key or certificate))

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the TLS side of a new connection."""
        connection = SSL.Connection(self._context, None)
        if self._server_name is not None:  # an address is not to be sent (RFC 6066, 3)
            connection.set_tlsext_host_name(self._server_name)
        connection.set_verify(SSL.VERIFY_PEER, partial(self._verify, tlsProtocol))
        return connection

    def _verify(
        self,
        tlsProtocol: TLSMemoryBIOProtocol,
        connection: SSL.Connection,
        shown: X509,
        code: int,
        depth: int,
        good: int,
    ) -> bool:
        """Tell OpenSSL whether it may go on; called for each certificate from the root down to the server's own."""
        try:
            certificate = shown.to_cryptography()
            trouble = None
            if not good:
                trouble = _distrust(certificate, code, depth)
            elif depth == 0:
                trouble = self._misfit(certificate)
        except Exception as error:  # noqa: BLE001  # nothing that is raised here would be heard of
            trouble = f"the server's certificate makes no sense ({error})"
        if trouble is not None:
            tlsProtocol.failVerification(Failure(ConnectionFailed(trouble)))
        return trouble is None

    def _misfit(self, certificate: x509.Certificate) -> str | None:
        """Return why a certificate does not prove that the server is `host`, or None if it does."""
        hosts = _hosts(certificate)
        if not hosts:
            return f"the server's certificate names no host under subjectAltName, and so does not prove {self._host!r}"
        try:
            self._prove(certificate, self._host)
        except Exception:  # noqa: BLE001  # whatever it is, nothing is proven
            told = ", ".join(map(repr, hosts[:NAMES_TOLD])) + (", ..." if len(hosts) > NAMES_TOLD else "")
            return f"the server's certificate is for {told}, not for {self._host!r}"
        return None


def common_names(transport: object) -> tuple[str, ...] | None:
    """Return the common names in the subject of the certificate that a peer has shown.

    Args:
        transport: A connection on which the handshake is done, if it has TLS.

    Returns:
        No names if it has shown none, though it was asked for one; None if it was not asked.
    """
    handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    if not isinstance(handle, SSL.Connection) or handle.get_context().get_verify_mode() == SSL.VERIFY_NONE:
        return None
    try:
        certificate = handle.get_peer_certificate(as_cryptography=True)
        names = [] if certificate is None else certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:  # what OpenSSL takes may still be no text
        names = []
    return tuple(str(name.value) for name in names)


def failed_for(error: BaseException | None) -> ConnectionFailed | None:
    """Return why TLS has ended a connection of a client, or None if it was not TLS that did."""
    words = openssl_words(error)
    if words is not None:
        return ConnectionFailed(f"{words}; does it listen there with TLS, and for this client?")
    return error if isinstance(error, ConnectionFailed) else None


def openssl_words(error: BaseException | None) -> str | None:
    """Return what OpenSSL says of an error, such as `certificate verify failed`, or None if it is none of OpenSSL's."""
    if not isinstance(error, SSL.Error):
        return None
    return error.args[0][-1][2] if error.args and error.args[0] else "an error without words"


def _new_context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    return context


def _show(context: SSL.Context, section: str, certificate: Path, private_key: Path) -> list[x509.Certificate]:
    """Have a context show a certificate, and return that and those behind it."""
    shown = own, *others = _certificates(f"{section}certificate", certificate)
    key = _load(
        f"{section}private_key: {private_key}: is no PEM private key without a passphrase",
        lambda pem: load_pem_private_key(pem, None),
        _read(f"{section}private_key", private_key),
    )
    try:
        context.use_certificate(own)
        for other in others:
            context.add_extra_chain_cert(other)
    except SSL.Error as error:
        raise Misconfigured(
            f"{section}certificate: {certificate}: OpenSSL refuses it: {error.args[0][-1][2]}"
        ) from error
    try:
        context.use_privatekey(key)  # type: ignore[arg-type]  # of a kind that OpenSSL may refuse
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise Misconfigured(f"{section}private_key: {private_key}: does not belong to {certificate}") from error
    return shown


def _trust(context: SSL.Context, key: str, file: Path) -> list[x509.Certificate]:
    """Have a context trust the certificates of a file, whoever has signed them, and return them."""
    authorities, store = _certificates(key, file), context.get_cert_store()
    assert store is not None  # noqa: S101  # every context has one
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for authority in authorities:
        store.add_cert(X509.from_cryptography(authority))
    return authorities


def _distrust(certificate: x509.Certificate, code: int, depth: int) -> str:
    """Return why OpenSSL does not trust one of the certificates that a server has shown."""
    what = "the server's certificate" if depth == 0 else "the certificate of an authority behind the server's"
    match code:
        case _Codes.ERR_CERT_HAS_EXPIRED:
            return f"{what} has expired, on {certificate.not_valid_after_utc:%Y-%m-%d}"
        case _Codes.ERR_CERT_NOT_YET_VALID:
            return f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
        case (
            _Codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT
            | _Codes.ERR_SELF_SIGNED_CERT_IN_CHAIN
            | _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT
            | _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        ):
            return "the server's certificate is of no authority that is trusted here; if it should be, name its file"
    return f"{what} is refused by OpenSSL, with the verification code {code}"


def _hosts(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _certificates(key: str, file: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, one at least."""
    what = f"{key}: {file}: is no PEM certificate"
    return [_load(what, x509.load_pem_x509_certificate, found) for found in _PEM.findall(_read(key, file)) or [b""]]


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a name with a null byte
        raise Misconfigured(f"{key}: {file}: cannot be read: {getattr(error, 'strerror', error)}") from error


def _load(what: str, load: Callable[[_Source], _Loaded], source: _Source) -> _Loaded:
    try:
        return load(source)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misconfigured(what) from error
