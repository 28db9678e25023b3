"""The certificate that the server shows, and what is said where there is none to show."""

import contextlib  # trial takes a module's `suppress` for its own
import ssl
from pathlib import Path

from certificates import HOST, Certified, Chain, key_pem
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.certificate import ServerTLS
from clockd.errors import Misconfigured

SUITES = ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
TLS_1_1, TLS_1_2, TLS_1_3 = SSL.TLS1_1_VERSION, SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION


class Handshake:
    """A client that trusts one root, and a server, in memory.

    Args:
        options: The server's `ServerTLS`.
        root: Whom the client trusts, an X.509 certificate.
        newest: The newest version of TLS that the client speaks.
        ciphers: Those it offers for TLS 1.2 and older; it would not offer TLS 1.1 at any other level than 0.

    Attributes:
        client, server: Both ends.
        refused: Why it did not come about, by the client's account; None if it did.
    """

    def __init__(self, options, root, newest=TLS_1_3, ciphers=b"DEFAULT:@SECLEVEL=0"):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(min(newest, TLS_1_1))
        context.set_max_proto_version(newest)
        context.set_cipher_list(ciphers)
        context.set_verify(SSL.VERIFY_PEER)
        context.get_cert_store().add_cert(X509.from_cryptography(root))
        self.client, self.server = SSL.Connection(context), options.serverConnectionForTLS(None)
        self.client.set_tlsext_host_name(HOST.encode())
        self.client.set_connect_state()
        self.server.set_accept_state()
        self.refused = None
        for _ in range(4):
            for near, far in ((self.client, self.server), (self.server, self.client)):
                self.step(near, far)

    def step(self, near, far):
        try:
            near.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            if near is self.client:
                self.refused = self.refused or error.args[0][-1][2]
        with contextlib.suppress(SSL.WantReadError):
            far.bio_write(near.bio_read(2**16))

    def cleartext(self, text):
        """Send a text each way; return what arrived."""
        found = []
        for near, far in ((self.client, self.server), (self.server, self.client)):
            near.send(text)
            far.bio_write(near.bio_read(2**16))
            found.append(far.recv(2**16))
        return found


class CertificateCase(SynchronousTestCase):
    def setUp(self):
        self.chain = Chain()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def write(self, name, *data):
        path = self.folder / name
        path.write_bytes(b"".join(data))
        return path


class GoodTests(CertificateCase):
    def options(self, certificate, key):
        return ServerTLS(self.write("certificate", *certificate), self.write("key", *key))

    def assert_shakes_hands(self, options, root, shown):
        """Check that a client that trusts a root is shown these certificates, in this order."""
        handshake = Handshake(options, root.certificate)
        self.assertIsNone(handshake.refused)
        sent = handshake.client.get_peer_cert_chain(as_cryptography=True)
        self.assertEqual(sent, [each.certificate for each in shown])
        self.assertEqual(handshake.cleartext(b"tick"), [b"tick", b"tick"])

    def test_a_certificate_and_its_key_are_served(self):
        alone = Certified(HOST, self.chain.root)
        self.assert_shakes_hands(self.options([alone.pem], [alone.key_pem()]), self.chain.root, [alone])

    def test_keys_of_all_the_usual_kinds_are_served(self):
        for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
            alone = Certified(HOST, self.chain.root, key=key)
            self.assert_shakes_hands(self.options([alone.pem], [alone.key_pem()]), self.chain.root, [alone])

    def test_the_authorities_between_are_sent_so_that_who_trusts_the_root_alone_trusts_the_server(self):
        server, between, root = self.chain.server, self.chain.between, self.chain.root
        options = self.options([server.pem, between.pem], [server.key_pem()])
        self.assert_shakes_hands(options, root, [server, between])

    def test_a_chain_of_three_is_sent_in_its_order(self):
        lower = Certified("another authority of a test", self.chain.between, authority=True)
        server = Certified(HOST, lower)
        options = self.options([server.pem, lower.pem, self.chain.between.pem], [server.key_pem()])
        self.assert_shakes_hands(options, self.chain.root, [server, lower, self.chain.between])

    def test_without_the_authority_between_a_client_does_not_trust_it(self):
        server = self.chain.server
        handshake = Handshake(self.options([server.pem], [server.key_pem()]), self.chain.root.certificate)
        self.assertEqual(handshake.refused, "certificate verify failed")

    def test_what_stands_between_certificates_is_passed_over(self):
        server, between = self.chain.server, self.chain.between
        text = [
            b"# the server\r\n",
            server.pem.replace(b"\n", b"\r\n"),
            b"\n\nsubject=between\n",
            between.pem,
            b"\n#\xff",
        ]
        self.assert_shakes_hands(self.options(text, [server.key_pem()]), self.chain.root, [server, between])

    def test_one_file_may_hold_both(self):
        server, between = self.chain.server, self.chain.between
        both = [server.key_pem(), server.pem, between.pem]
        self.assert_shakes_hands(self.options(both, both), self.chain.root, [server, between])

    def test_it_makes_connections_as_twisted_wants_them(self):
        server, between = self.chain.server, self.chain.between
        options = self.options([server.pem, between.pem], [server.key_pem()])
        self.assertTrue(verifyObject(IOpenSSLServerConnectionCreator, options))
        self.assertTrue(options._context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS)
        first, second = options.serverConnectionForTLS(None), options.serverConnectionForTLS(None)
        self.assertIsNot(first, second)
        self.assertIs(first.get_context(), second.get_context())


class VersionTests(CertificateCase):
    def server_options(self):
        certificate = self.write("certificate", self.chain.server.pem, self.chain.between.pem)
        return ServerTLS(certificate, self.write("key", self.chain.server.key_pem()))

    def shake_hands(self, newest, ciphers=b"DEFAULT:@SECLEVEL=0"):
        return Handshake(self.server_options(), self.chain.root.certificate, newest, ciphers)

    def test_tls_1_2_and_1_3_are_spoken(self):
        for newest, name in ((TLS_1_2, "TLSv1.2"), (TLS_1_3, "TLSv1.3")):
            handshake = self.shake_hands(newest)
            self.assertIsNone(handshake.refused)
            self.assertEqual(handshake.client.get_protocol_version_name(), name)
            self.assertEqual(handshake.cleartext(b"tick"), [b"tick", b"tick"])

    def test_in_tls_1_2_it_speaks_no_cipher_without_forward_secrecy_and_authenticated_encryption(self):
        agreed = set()
        for kind in (None, rsa.generate_private_key(65537, 2048)):
            self.chain.server = Certified(HOST, self.chain.between, key=kind)
            for cipher in ssl.create_default_context().get_ciphers():
                if cipher["protocol"] == "TLSv1.2":
                    handshake = self.shake_hands(TLS_1_2, cipher["name"].encode())
                    if handshake.refused is None:
                        agreed.add(handshake.client.get_cipher_name())
                        self.assertEqual(handshake.client.get_cipher_name(), cipher["name"])
                    else:
                        self.assertIn("handshake failure", handshake.refused)
        names = {f"ECDHE-{kind}-{suite}" for kind in ("ECDSA", "RSA") for suite in SUITES}
        self.assertEqual(agreed, names)

    def test_a_client_may_not_negotiate_anew(self):
        handshake = self.shake_hands(TLS_1_2)
        self.assertTrue(handshake.client.renegotiate())
        handshake.step(handshake.client, handshake.server)
        with self.assertRaises(SSL.WantReadError):
            handshake.server.recv(1)
        handshake.step(handshake.server, handshake.client)
        handshake.step(handshake.client, handshake.server)
        self.assertEqual(handshake.refused, "no renegotiation")

    def test_a_session_is_not_taken_up_again(self):
        root = self.chain.root.pem.decode()
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cadata=root)
            context.maximum_version = newest
            options, session, servers = self.server_options(), None, []  # one that is freed forgets its session
            for _ in range(2):
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                client = context.wrap_bio(incoming, outgoing, server_hostname=HOST, session=session)
                server = options.serverConnectionForTLS(None)
                servers.append(server)
                server.set_accept_state()
                for _ in range(3):
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.do_handshake()
                        client.read()
                    if data := outgoing.read():
                        server.bio_write(data)
                    with contextlib.suppress(SSL.WantReadError):
                        server.do_handshake()
                    with contextlib.suppress(SSL.WantReadError):
                        incoming.write(server.bio_read(2**16))
                self.assertFalse(client.session_reused)
                session = client.session
            self.assertIsNotNone(session)

    def test_tls_1_1_is_refused_for_its_version(self):
        self.assertIn("alert protocol version", self.shake_hands(TLS_1_1).refused)


class BadTests(CertificateCase):
    def setUp(self):
        super().setUp()
        self.certificate = self.write("server.pem", self.chain.server.pem)
        self.key = self.write("server.key", self.chain.server.key_pem())

    def assert_told(self, expected, certificate=None, key=None):
        """Check the message, where FILE stands for the file that is wrong, and that no secret is in it."""
        with self.assertRaises(Misconfigured) as caught:
            ServerTLS(certificate or self.certificate, key or self.key)
        told = str(caught.exception)
        self.assertEqual(told.replace(str(key or certificate), "FILE"), expected)
        self.assertNotIn("\n", told)
        for path in self.folder.iterdir():
            for line in path.read_bytes().split():
                self.assertNotIn(line.decode(errors="replace"), told.split())

    def test_a_file_that_cannot_be_read_is_told_with_its_key_and_the_reason(self):
        for path, reason in (
            (self.folder / "missing", "No such file or directory"),
            (self.folder, "Is a directory"),
            (self.certificate / "below a file", "Not a directory"),
            (self.folder / ("x" * 300), "File name too long"),
        ):
            self.assert_told(f"tls.certificate: FILE: cannot be read: {reason}", certificate=path)
            self.assert_told(f"tls.private_key: FILE: cannot be read: {reason}", key=path)

    def test_a_name_that_no_file_can_have_is_told(self):
        self.assert_told("tls.certificate: FILE: cannot be read: embedded null byte", certificate=Path("a\0b"))
        self.assert_told("tls.private_key: FILE: cannot be read: embedded null byte", key=Path("a\0b"))

    def test_what_is_no_certificate_is_told(self):
        pem = self.chain.server.pem
        first, *_, last = pem.splitlines(keepends=True)
        body = pem[len(first) : -len(last)]
        for data in (
            b"",
            b"nonsense\xff\x00",
            self.chain.server.certificate.public_bytes(Encoding.DER),
            self.chain.server.key_pem(),
            pem[: len(pem) // 2],
            first + last,
            first + b"bm9uc2Vuc2U=\n" + last,
            first + b"!!!\n" + last,
            first + body[:200] + b"\n" + last,
            pem.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"),
            pem + first + b"bm9uc2Vuc2U=\n" + last,  # what comes behind the first is looked at too
        ):
            path = self.write("wrong", data)
            self.assert_told("tls.certificate: FILE: is no PEM certificate", certificate=path)

    def test_what_is_no_private_key_is_told(self):
        key, server = self.chain.server.key, self.chain.server
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        pem = server.key_pem()
        for data in (b"", b"nonsense\xff\x00", server.pem, public, pem[: len(pem) // 2]):
            path = self.write("wrong", data)
            self.assert_told("tls.private_key: FILE: is no PEM private key without a passphrase", key=path)

    def test_a_key_with_a_passphrase_is_told_and_nobody_is_asked_for_it(self):
        for passphrase in (b"open sesame", b" ", b"x" * 1000):
            path = self.write("wrong", self.chain.server.key_pem(passphrase))
            self.assert_told("tls.private_key: FILE: is no PEM private key without a passphrase", key=path)

    def test_the_key_of_another_certificate_is_told(self):
        for other in (
            Certified(HOST),
            self.chain.between,
            Certified(HOST, key=rsa.generate_private_key(65537, 2048)),
            Certified(HOST, key=ed25519.Ed25519PrivateKey.generate()),
            x25519.X25519PrivateKey.generate(),  # of a kind that signs nothing
            dsa.generate_private_key(1024),
            ec.generate_private_key(ec.SECP384R1()),
        ):
            path = self.write("other", other.key_pem() if isinstance(other, Certified) else key_pem(other))
            self.assert_told(f"tls.private_key: FILE: does not belong to {self.certificate}", key=path)

    def test_a_chain_in_the_wrong_order_is_told_for_the_key_belongs_to_the_first(self):
        path = self.write("wrong order", self.chain.between.pem, self.chain.server.pem)
        self.assert_told(f"tls.private_key: {self.key}: does not belong to FILE", certificate=path)

    def test_a_certificate_too_weak_for_tls_is_not_blamed_on_its_key(self):
        weak = Certified(HOST, key=rsa.generate_private_key(65537, 1024))
        path, key = self.write("weak.pem", weak.pem), self.write("weak.key", weak.key_pem())
        with self.assertRaises(Misconfigured) as caught:
            ServerTLS(path, key)
        self.assertTrue(str(caught.exception).startswith(f"tls.certificate: {path}: "), caught.exception)
