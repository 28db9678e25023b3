"""Authorities and certificates for tests, made on the spot."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import CertificateOptions

HOST = "localhost"


class Certified:
    """A private key, and a certificate of it that an issuer has signed, or it itself.

    Args:
        names: The subject's common names, of which there usually is one.
        issuer: Who signs; None for an authority that signs itself.
        authority: Whether it may sign others.
        key: Its private key; None for a new one.
        hosts: What it is for, names and addresses; an authority is for none.
        valid: From when and until when, in days from now.
        purpose: The one thing that it is good for; None for anything.
    """

    def __init__(
        self,
        *names,
        issuer=None,
        authority=False,
        key=None,
        hosts=(HOST, "127.0.0.1"),
        valid=(-1, 30),
        purpose=None,
    ):
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
        signer = issuer or self
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=not authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=authority,
            crl_sign=authority,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=valid[0]))
            .not_valid_after(now + timedelta(days=valid[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        )
        if hosts and not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(general_name, hosts)]), critical=False)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        digest = None if isinstance(signer.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        self.certificate = builder.sign(signer.key, digest)

    @property
    def pem(self):
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, passphrase=None):
        """Return the private key, encrypted if there is a passphrase."""
        return key_pem(self.key, passphrase)


class Chain:
    """A server's certificate that a root has signed, by way of an authority between them."""

    def __init__(self):
        self.root = Certified("the root of a test", authority=True)
        self.between = Certified("an authority of a test", issuer=self.root, authority=True)
        self.server = Certified(HOST, issuer=self.between)

    def options(self):
        """Return what makes TLS connections of a server."""
        certificate, others = self.server.certificate, [self.between.certificate]
        return CertificateOptions(privateKey=self.server.key, certificate=certificate, extraCertChain=others)

    def write(self, folder):
        """Write `root.pem`, `server.pem` with the whole chain but the root, and `server.key`; return the paths."""
        paths = [folder / name for name in ("root.pem", "server.pem", "server.key")]
        for path, data in zip(
            paths, (self.root.pem, self.server.pem + self.between.pem, self.server.key_pem()), strict=True
        ):
            path.write_bytes(data)
        return paths


def general_name(host):
    """Return a host's name or address as a certificate has it."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def key_pem(key, passphrase=None):
    """Return a private key, encrypted if there is a passphrase."""
    guard = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, guard)
