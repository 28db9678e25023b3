"""What makes TLS connections on both sides, and what is said where the files or the peer are not right."""

import contextlib  # trial takes a module's `suppress` for its own
import os
import ssl
from itertools import product
from pathlib import Path

from certificates import HOST, Certified, Chain, key_pem
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from doubles import Network
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError
from twisted.internet import ssl as twisted_ssl
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    ISystemHandle,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from clockd.certificate import NAMES_TOLD, ClientTLS, ServerTLS, common_names, failed_for
from clockd.errors import ConnectionFailed, Misconfigured
from clockd.transport import TLSFactory

SUITES = ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
TLS_1_1, TLS_1_2, TLS_1_3 = SSL.TLS1_1_VERSION, SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION


class Handshake:
    """A client that trusts one root, and a server, in memory.

    Args:
        options: The server's `ServerTLS`.
        root: Whom the client trusts, an X.509 certificate.
        newest: The newest version of TLS that the client speaks.
        ciphers: Those it offers for TLS 1.2 and older; it would not offer TLS 1.1 at any other level than 0.
        shown: The `Certified` that the client shows if it is asked, then those behind it.

    Attributes:
        client, server: Both ends.
        refused: Why it did not come about, by the client's account; None if it did.
        turned_away: Why the server ended it; None if it did not.
    """

    def __init__(self, options, root, newest=TLS_1_3, ciphers=b"DEFAULT:@SECLEVEL=0", shown=()):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(min(newest, TLS_1_1))
        context.set_max_proto_version(newest)
        context.set_cipher_list(ciphers)
        context.set_verify(SSL.VERIFY_PEER)
        context.get_cert_store().add_cert(X509.from_cryptography(root))
        for number, each in enumerate(shown):
            if number:
                context.add_extra_chain_cert(each.certificate)
            else:
                context.use_certificate(each.certificate)
                context.use_privatekey(each.key)
        self.client, self.server = SSL.Connection(context), options.serverConnectionForTLS(None)
        self.client.set_tlsext_host_name(HOST.encode())
        self.client.set_connect_state()
        self.server.set_accept_state()
        self.refused = self.turned_away = None
        for _ in range(4):
            for near, far in ((self.client, self.server), (self.server, self.client)):
                self.step(near, far)

    def step(self, near, far):
        try:
            near.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            what = error.args[0][-1][2] if error.args[0] else "again"
            if near is self.client:
                self.refused = self.refused or what
            else:
                self.turned_away = self.turned_away or what
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


@implementer(ISystemHandle)
class Transport:
    """A transport of which nothing but its handle is wanted."""

    def __init__(self, handle):
        self.getHandle = lambda: handle


class CertificateCase(SynchronousTestCase):
    def setUp(self):
        self.chain = Chain()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def write(self, name, *data):
        path = self.folder / name
        path.write_bytes(b"".join(data))
        return path

    def options(self, certificate, key, *client_ca):
        authorities = self.write("client_ca", *client_ca) if client_ca else None
        return ServerTLS(self.write("certificate", *certificate), self.write("key", *key), authorities)


class GoodTests(CertificateCase):
    def assert_shakes_hands(self, options, root, shown):
        """Check that a client that trusts a root is shown these certificates, in this order."""
        handshake = Handshake(options, root.certificate)
        self.assertIsNone(handshake.refused)
        sent = handshake.client.get_peer_cert_chain(as_cryptography=True)
        self.assertEqual(sent, [each.certificate for each in shown])
        self.assertEqual(handshake.cleartext(b"tick"), [b"tick", b"tick"])

    def test_a_certificate_and_its_key_are_served(self):
        alone = Certified(HOST, issuer=self.chain.root)
        self.assert_shakes_hands(self.options([alone.pem], [alone.key_pem()]), self.chain.root, [alone])

    def test_keys_of_all_the_usual_kinds_are_served(self):
        for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
            alone = Certified(HOST, issuer=self.chain.root, key=key)
            self.assert_shakes_hands(self.options([alone.pem], [alone.key_pem()]), self.chain.root, [alone])

    def test_the_authorities_between_are_sent_so_that_who_trusts_the_root_alone_trusts_the_server(self):
        server, between, root = self.chain.server, self.chain.between, self.chain.root
        options = self.options([server.pem, between.pem], [server.key_pem()])
        self.assert_shakes_hands(options, root, [server, between])

    def test_a_chain_of_three_is_sent_in_its_order(self):
        lower = Certified("another authority of a test", issuer=self.chain.between, authority=True)
        server = Certified(HOST, issuer=lower)
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
    def server_options(self, *client_ca):
        server = self.chain.server
        return self.options([server.pem, self.chain.between.pem], [server.key_pem()], *client_ca)

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
            self.chain.server = Certified(HOST, issuer=self.chain.between, key=kind)
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
        root = self.chain.root.pem
        for newest, client_ca in product((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), ([], [root])):
            context = ssl.create_default_context(cadata=root.decode())
            context.maximum_version = newest
            options = self.server_options(*client_ca)
            session, servers = None, []  # one that is freed forgets its session
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


class ClientAuthorityTests(CertificateCase):
    def setUp(self):
        super().setUp()
        self.authority = Certified("an authority of clients", authority=True)

    def shake_hands(self, *shown, newest=TLS_1_3, client_ca=True):
        server = self.chain.server
        chain = [server.pem, self.chain.between.pem]
        options = self.options(chain, [server.key_pem()], *[self.authority.pem] * client_ca)
        return Handshake(options, self.chain.root.certificate, newest, shown=shown)

    def shown_by(self, *shown, **kwargs):
        """Return what the server knows of a client that it serves."""
        handshake = self.shake_hands(*shown, **kwargs)
        self.assertEqual((handshake.refused, handshake.turned_away), (None, None))
        self.assertEqual(handshake.cleartext(b"tick"), [b"tick", b"tick"])
        return common_names(Transport(handshake.server))

    def assert_turned_away(self, *shown):
        """Check that the server ends the handshake, in each version of TLS."""
        for newest in (TLS_1_2, TLS_1_3):
            handshake = self.shake_hands(*shown, newest=newest)
            self.assertEqual(handshake.turned_away, "certificate verify failed")

    def test_a_certificate_of_the_authority_is_taken_and_tells_its_common_name(self):
        for newest in (TLS_1_2, TLS_1_3):
            self.assertEqual(self.shown_by(Certified("alice", issuer=self.authority), newest=newest), ("alice",))

    def test_all_common_names_are_told_in_their_order(self):
        for names in ((), ("alice", "bob"), ("bob", "alice", "bob"), ("Ålice\n",)):
            self.assertEqual(self.shown_by(Certified(*names, issuer=self.authority)), names)

    def test_one_by_way_of_another_authority_is_taken(self):
        between = Certified("another authority of clients", issuer=self.authority, authority=True)
        self.assertEqual(self.shown_by(Certified("alice", issuer=between), between), ("alice",))

    def test_an_authority_is_trusted_whoever_has_signed_it(self):
        self.authority = Certified("an authority of clients", issuer=self.chain.root, authority=True)
        self.assertEqual(self.shown_by(Certified("alice", issuer=self.authority)), ("alice",))

    def test_nobody_has_to_show_one(self):
        for newest in (TLS_1_2, TLS_1_3):
            self.assertEqual(self.shown_by(newest=newest), ())

    def test_without_authorities_nobody_is_asked_for_one(self):
        self.assertIsNone(self.shown_by(Certified("alice", issuer=self.authority), client_ca=False))

    def test_without_tls_nobody_is_either(self):
        for handle in (None, 7, SSL.Connection):
            self.assertIsNone(common_names(Transport(handle)))
        self.assertIsNone(common_names(object()))

    def test_the_client_is_told_the_names_of_the_authorities(self):
        client = self.shake_hands().client
        self.assertEqual([name.CN for name in client.get_client_ca_list()], ["an authority of clients"])

    def test_one_that_does_not_verify_ends_the_handshake(self):
        alike = Certified("an authority of clients", authority=True)
        between = Certified("another authority of clients", issuer=self.authority, authority=True)
        self.assert_turned_away(Certified("alice"))
        self.assert_turned_away(Certified("alice", issuer=self.chain.root))
        self.assert_turned_away(Certified("alice", issuer=alike))
        self.assert_turned_away(Certified("alice", issuer=between))
        self.assert_turned_away(Certified("alice", issuer=self.authority, valid=(-2, -1)))
        self.assert_turned_away(Certified("alice", issuer=self.authority, valid=(1, 2)))
        self.assert_turned_away(Certified("alice", issuer=Certified("mallory", issuer=self.authority)))
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        self.assert_turned_away(Certified("alice", issuer=self.authority, purpose=purpose))


class ReloadTests(CertificateCase):
    def setUp(self):
        super().setUp()
        self.server = self.options([self.chain.server.pem, self.chain.between.pem], [self.chain.server.key_pem()])

    def shake_hands(self):
        return Handshake(self.server, self.chain.root.certificate)

    def shown(self):
        return self.shake_hands().client.get_peer_certificate(as_cryptography=True)

    def test_new_connections_are_shown_the_new_certificate_and_old_ones_go_on(self):
        old = self.shake_hands()
        new = Certified(HOST, issuer=self.chain.root)
        self.write("certificate", new.pem)
        self.write("key", new.key_pem())
        self.assertEqual(self.shown(), self.chain.server.certificate)
        self.server.reload()
        self.assertEqual(self.shown(), new.certificate)
        self.assertEqual(old.cleartext(b"tick"), [b"tick", b"tick"])

    def test_what_is_broken_leaves_all_as_it_was(self):
        expires = self.server.expires
        other = Certified(HOST, issuer=self.chain.root, valid=(-1, 3))
        for name, data in (("certificate", b""), ("certificate", other.pem), ("key", b""), ("key", other.key_pem())):
            before = (self.folder / name).read_bytes()
            self.write(name, data)
            with self.assertRaises(Misconfigured):
                self.server.reload()
            self.assertEqual((self.shown(), self.server.expires), (self.chain.server.certificate, expires))
            self.write(name, before)
        self.server.reload()
        self.assertEqual(self.shown(), self.chain.server.certificate)

    def test_the_authorities_of_clients_are_read_again_and_broken_ones_leave_all_as_it_was(self):
        alice = Certified("alice", issuer=Certified("an authority of clients", authority=True))
        path = self.write("authorities", alice.pem)
        self.server = ServerTLS(self.folder / "certificate", self.folder / "key", path)
        for data, good in ((self.chain.root.pem, False), (alice.pem, True), (b"nonsense", True)):
            path.write_bytes(data)
            with contextlib.suppress(Misconfigured):
                self.server.reload()
            handshake = Handshake(self.server, self.chain.root.certificate, shown=[alice])
            self.assertEqual(handshake.turned_away is None, good)

    def test_it_expires_when_the_first_of_its_certificates_does(self):
        for own, behind in ((5, 10), (10, 5)):
            between = Certified("an authority of a test", issuer=self.chain.root, authority=True, valid=(-1, behind))
            server = Certified(HOST, issuer=between, valid=(-1, own))
            self.write("certificate", server.pem, between.pem)
            self.write("key", server.key_pem())
            self.server.reload()
            first = server if own < behind else between
            self.assertEqual(self.server.expires, first.certificate.not_valid_after_utc.timestamp())


class Peer(Protocol):
    """Says a word as soon as it is connected, and keeps what it hears and why it was lost."""

    def __init__(self):
        self.heard = b""
        self.lost = None

    def connectionMade(self):
        self.transport.write(b"tick")

    def dataReceived(self, data):
        self.heard += data

    def connectionLost(self, reason):
        self.lost = reason.value


class Verdict:
    """What a context is told to fail, in place of TLS; keeps why."""

    def __init__(self):
        self.reasons = []

    def failVerification(self, reason):
        self.reasons.append(str(reason.value))


class ClientTests(CertificateCase):
    """Clients of Twisted's own make, with our context and with Twisted's, in memory."""

    def meet(self, client, *shown, client_ca=()):
        """Have a client meet a server that shows a certificate; returns both sides."""
        own, *_ = shown = shown or (self.chain.server, self.chain.between)
        clock = Clock()
        servers = []
        factory = Factory.forProtocol(lambda: servers.append(Peer()) or servers[-1])
        options = self.options([each.pem for each in shown], [own.key_pem()], *client_ca)
        network = Network(TLSFactory(options, factory, clock, id), clock)
        connected = wrapClientTLS(client, network, clock).connect(Factory.forProtocol(Peer))
        network.flush()
        return self.successResultOf(connected), servers[0]

    def ours(self, host=HOST, **kwargs):
        return ClientTLS(host, ca=self.write("ca", self.chain.root.pem), **kwargs)

    def assert_serves(self, client, *shown, **kwargs):
        ours, theirs = self.meet(client, *shown, **kwargs)
        self.assertEqual((ours.heard, theirs.heard, ours.lost, theirs.lost), (b"tick", b"tick", None, None))
        return theirs

    def assert_refuses(self, expected, client, *shown):
        ours, theirs = self.meet(client, *shown)
        self.assertEqual((ours.heard, theirs.heard), (b"", b""))
        error = failed_for(ours.lost)
        self.assertIsInstance(error, ConnectionFailed)
        self.assertEqual(str(error), expected)

    def test_it_makes_connections_as_twisted_wants_them(self):
        self.assertTrue(verifyObject(IOpenSSLClientConnectionCreator, self.ours()))

    def test_a_server_is_taken_for_a_host_that_its_certificate_names(self):
        hosts = ("clock.example.org", "*.example.net", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1")
        server = Certified("not looked at", issuer=self.chain.root, hosts=hosts)
        for host in (*hosts, "a.example.net", "bücher.example", "CLOCK.example.org", "2001:DB8:0::1"):
            if host != "*.example.net":
                self.assert_serves(self.ours(host), server)

    def test_a_server_is_not_taken_for_any_other(self):
        server = Certified(
            "elsewhere", "10.0.0.1", issuer=self.chain.root, hosts=("localhost", "*.example.net", "192.0.2.1")
        )
        told = "'localhost', '*.example.net', '192.0.2.1'"
        for host in (
            "elsewhere",
            "10.0.0.1",
            "example.net",
            "a.b.example.net",
            "192.0.2.10",
            "::1",
            "localhost.",
            "a b",
        ):
            self.assert_refuses(f"the server's certificate is for {told}, not for {host!r}", self.ours(host), server)

    def test_of_many_names_some_are_told(self):
        hosts = [f"h{number}" for number in range(NAMES_TOLD + 1)]
        for count, more in ((NAMES_TOLD, ""), (NAMES_TOLD + 1, ", ...")):
            told = "'h0', 'h1', 'h2', 'h3'" + more
            server = Certified(HOST, issuer=self.chain.root, hosts=hosts[:count])
            self.assert_refuses(f"the server's certificate is for {told}, not for 'localhost'", self.ours(), server)

    def test_a_name_that_cannot_be_a_pattern_proves_nothing(self):
        server = Certified(HOST, issuer=self.chain.root, hosts=("*.org", HOST))
        self.assert_refuses(
            "the server's certificate is for '*.org', 'localhost', not for 'localhost'", self.ours(), server
        )

    def test_twisted_s_own_context_takes_a_certificate_without_a_host_for_any(self):
        nameless = Certified("elsewhere", issuer=self.chain.root, hosts=())
        stock = twisted_ssl.optionsForClientTLS(HOST, twisted_ssl.Certificate.loadPEM(self.chain.root.pem))
        self.assert_serves(stock, nameless)  # if this fails, Twisted has mended it, and ClientTLS may go
        self.assertEqual(len(self.flushLoggedErrors(CertificateError)), 1)

    def test_ours_does_not(self):
        for name in ("elsewhere", HOST):
            self.assert_refuses(
                "the server's certificate names no host under subjectAltName, and so does not prove 'localhost'",
                self.ours(),
                Certified(name, issuer=self.chain.root, hosts=()),
            )

    def test_a_certificate_of_nobody_that_is_trusted_is_told(self):
        told = "the server's certificate is of no authority that is trusted here; if it should be, name its file"
        other = Chain()
        for shown in (
            [other.server, other.between],
            [other.server, other.between, other.root],
            [self.chain.server],
            [Certified(HOST)],
        ):
            self.assert_refuses(told, self.ours(), *shown)

    def test_one_that_is_trusted_itself_needs_no_authority(self):
        alone = Certified(HOST, issuer=Certified("nobody knows", authority=True))
        for server in (alone, Certified(HOST)):
            ca = self.write("alone", server.pem)
            self.assert_serves(ClientTLS(HOST, ca=ca), server)
            told = "the server's certificate is for 'localhost', '127.0.0.1', not for 'elsewhere'"
            self.assert_refuses(told, ClientTLS("elsewhere", ca=ca), server)

    def test_one_for_clients_is_refused(self):
        server = Certified(HOST, issuer=self.chain.root, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
        ours, _ = self.meet(self.ours(), server)
        self.assertIn("the server's certificate is refused by OpenSSL, with the verification code ", str(ours.lost))

    def test_a_certificate_at_a_wrong_time_is_told_with_the_day(self):
        for valid, what, which in (
            ((-2, -1), "has expired, on", "not_valid_after_utc"),
            ((1, 2), "is not valid before", "not_valid_before_utc"),
        ):
            late = Certified(HOST, issuer=self.chain.root, valid=valid)
            day = getattr(late.certificate, which).date()
            self.assert_refuses(f"the server's certificate {what} {day}", self.ours(), late)
            between = Certified("an authority of a test", issuer=self.chain.root, authority=True, valid=valid)
            told = f"the certificate of an authority behind the server's {what} {day}"
            self.assert_refuses(told, self.ours(), Certified(HOST, issuer=between), between)

    def test_whatever_else_openssl_refuses_is_told_with_its_code(self):
        mallory = Certified("mallory", issuer=self.chain.root)
        told = "the certificate of an authority behind the server's is refused by OpenSSL, with the verification code "
        ours, _ = self.meet(self.ours(), Certified(HOST, issuer=mallory), mallory)
        self.assertRegex(str(ours.lost), rf"^{told}\d+$")

    def test_openssl_is_told_not_to_go_on_too(self):
        nameless, verdict = Certified(HOST, issuer=self.chain.root, hosts=()), Verdict()
        client = self.ours().clientConnectionForTLS(verdict)
        server = self.options([nameless.pem], [nameless.key_pem()]).serverConnectionForTLS(None)
        client.set_connect_state()
        server.set_accept_state()
        with self.assertRaisesRegex(SSL.Error, "certificate verify failed"):
            for near, far in 2 * [(client, server), (server, client)]:
                with contextlib.suppress(SSL.WantReadError):
                    near.do_handshake()
                far.bio_write(near.bio_read(2**16))
        self.assertEqual(len(verdict.reasons), 1)

    def test_a_certificate_that_cannot_be_read_is_told_whatever_is_raised(self):
        class Odd:
            def to_cryptography(self):
                raise ZeroDivisionError("odd")

        verdict = Verdict()
        self.assertFalse(self.ours()._verify(verdict, None, Odd(), 0, 0, 1))
        self.assertEqual(verdict.reasons, ["the server's certificate makes no sense (odd)"])

    def test_a_client_s_certificate_that_cannot_be_read_has_no_names(self):
        class Odd(SSL.Connection):
            def get_peer_certificate(self, *, as_cryptography):
                raise ValueError("odd")

        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_verify(SSL.VERIFY_PEER)
        self.assertEqual(common_names(Transport(Odd(context, None))), ())

    def test_the_authorities_of_the_system_are_trusted_if_no_others_are_named(self):
        for variable, trusted in (("SSL_CERT_FILE", True), (None, False)):
            if variable is not None:
                os.environ[variable] = str(self.write("system", self.chain.root.pem))
            client = ClientTLS(HOST)
            os.environ.pop("SSL_CERT_FILE", None)
            self.assertEqual(self.meet(client)[0].heard == b"tick", trusted)

    def test_of_the_system_s_authorities_one_that_another_has_signed_is_not_enough(self):
        os.environ["SSL_CERT_FILE"] = str(self.write("system", self.chain.between.pem))
        self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        ours, _ = self.meet(ClientTLS(HOST))
        self.assertIn("of no authority that is trusted here", str(ours.lost))

    def test_the_client_s_own_certificate_is_shown_to_who_asks_for_it(self):
        authority = Certified("an authority of clients", authority=True)
        between = Certified("another", issuer=authority, authority=True)
        alice = Certified("alice", issuer=between)
        certificate = self.write("alice.pem", alice.pem, between.pem, alice.key_pem())
        key = self.write("alice.key", alice.key_pem())
        for files in ({"certificate": certificate}, {"certificate": str(certificate), "private_key": str(key)}):
            client = self.ours(**files)
            self.assertTrue(client.has_certificate)
            served = self.assert_serves(client, client_ca=[authority.pem])
            self.assertEqual(common_names(served.transport), ("alice",))
        self.assertFalse(self.ours().has_certificate)

    def test_a_server_that_turns_the_client_away_is_told_in_openssl_s_words(self):
        alice = Certified("alice")
        client = self.ours(certificate=self.write("alice", alice.pem, alice.key_pem()))
        ours, theirs = self.meet(client, client_ca=[self.chain.root.pem])
        self.assertRegex(
            str(failed_for(ours.lost)), "alert unknown ca; does it listen there with TLS, and for this client"
        )
        self.assertEqual(theirs.heard, b"")

    def test_what_speaks_no_tls_is_told(self):
        clock = Clock()
        network = Network(Factory.forProtocol(Peer), clock)
        connected = wrapClientTLS(self.ours(), network, clock).connect(Factory.forProtocol(Peer))
        network.wires[0].server.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        network.flush()
        self.assertRegex(str(failed_for(self.successResultOf(connected).lost)), "; does it listen there with TLS")

    def test_what_is_no_error_of_tls_is_not_told_as_one(self):
        self.assertEqual([failed_for(None), failed_for(ConnectionLost())], [None, None])
        self.assertIn("an error without words; ", str(failed_for(SSL.Error())))

    def test_files_that_are_not_right_are_told(self):
        alice, broken = Certified("alice"), self.write("broken", b"nonsense")
        good = self.write("alice.pem", alice.pem)
        for expected, files in (
            (f"ca: {broken}: is no PEM certificate", {"ca": broken}),
            ("ca: none: cannot be read: No such file or directory", {"ca": "none"}),
            (f"certificate: {broken}: is no PEM certificate", {"certificate": broken}),
            (f"private_key: {good}: is no PEM private key without a passphrase", {"certificate": good}),
            (
                f"private_key: {self.folder / 'bob'}: does not belong to {good}",
                {"certificate": good, "private_key": self.write("bob", Certified("bob").key_pem())},
            ),
        ):
            with self.assertRaises(Misconfigured) as caught:
                ClientTLS(HOST, **files)
            self.assertEqual(str(caught.exception), expected)

    def test_a_host_that_cannot_have_a_name_is_told(self):
        for host in ("a..b", "x" * 64 + ".org", ".org"):
            with self.assertRaises(Misconfigured) as caught:
                ClientTLS(host)
            self.assertEqual(str(caught.exception), f"host: {host!r}: is no host's name")


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
