"""Makes an authority of one's own and certificates of it, for trying TLS; `make certs` runs it.

What is there is never replaced: it is kept, and a line says so. A certificate that was removed is made anew, for the
key that it had.
"""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = ("localhost", "127.0.0.1", "::1")
"""What every server's certificate is for."""

AUTHORITY_DAYS, DAYS = 3650, 365
"""As long an authority, and what it signs, are good."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="A name or address of the server, beside localhost."
)
@click.option("--client", "clients", multiple=True, metavar="ACCOUNT", help="Whose client gets a certificate.")
def main(folder: Path, names: tuple[str, ...], clients: tuple[str, ...]) -> None:
    """Make ca.pem, server.pem and ACCOUNT.pem for each client in FOLDER, and for each of these a private key, .key."""
    try:
        hosts = [_general_name(host) for host in dict.fromkeys(LOCAL + names)]
        folder.mkdir(parents=True, exist_ok=True)
        authority = _Authority(folder)
        authority.certify("server", LOCAL[0], ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(hosts))
        for client in clients:
            if client in {"ca", "server"}:
                raise ValueError(f"{client}: there is another file of that name")  # noqa: TRY301  # told below
            authority.certify(client, client, ExtendedKeyUsageOID.CLIENT_AUTH)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


class _Authority:
    """Signs with its key, which is made if there is none.

    Args:
        folder: Where all certificates and keys are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = _common_name("an authority for trying clockd")
        self._key = self._private_key("ca")
        usage = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self._sign("ca", self._name, self._key, AUTHORITY_DAYS, x509.BasicConstraints(ca=True, path_length=0), usage)
        self._name = x509.load_pem_x509_certificate(
            (folder / "ca.pem").read_bytes()
        ).subject  # it may be from elsewhere

    def certify(
        self, file: str, common_name: str, purpose: x509.ObjectIdentifier, *extensions: x509.ExtensionType
    ) -> None:
        """Make a certificate and its key.

        Args:
            file: What both files are called, but for their ends.
            common_name: Whose they are.
            purpose: What the certificate is good for.
            extensions: What else it says.
        """
        ordinary = x509.BasicConstraints(ca=False, path_length=None), x509.ExtendedKeyUsage([purpose])
        self._sign(file, _common_name(common_name), self._private_key(file), DAYS, *ordinary, *extensions)

    def _sign(
        self,
        file: str,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        days: int,
        *extensions: x509.ExtensionType,
    ) -> None:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self._name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),  # the clocks of others may be behind
            now + timedelta(days=days),
        )
        names = (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        )
        for extension in (*names, *extensions):
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write(self._folder / f"{file}.pem", certificate.public_bytes(Encoding.PEM), 0o644)

    def _private_key(self, file: str) -> CertificateIssuerPrivateKeyTypes:
        certificate, path = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        if certificate.exists() and not path.exists():
            raise ValueError(f"{certificate}: is there without its key: remove it to have both made")
        key = ec.generate_private_key(ec.SECP256R1())
        _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        return cast("CertificateIssuerPrivateKeyTypes", load_pem_private_key(path.read_bytes(), None))


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, and say what was done."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        click.echo(f"{path}: is there, and kept")
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    click.echo(f"{path}: made")


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())


if __name__ == "__main__":
    main()
