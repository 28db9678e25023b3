from unittest.mock import Mock

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import IRealm, Portal
from twisted.internet.task import Clock
from twisted.logger import ILogObserver
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from clockd.auth import AccountChecker, CertificateChecker, ChallengeResponse, IChallengeResponse, PeerCertificate
from clockd.avatar import SinkSet
from clockd.broker import ClockServerFactory, RemoteMind
from clockd.desk import FeedDesk
from clockd.feeds import ClockFeed, FeedTable, LatestFeed, SampledFeed
from clockd.hostclock import UNKNOWN, HostClock
from clockd.interfaces import IClient, IFeed, IPeerCertificate, ISession, ISink
from clockd.logs import count_errors
from clockd.realm import ClockRealm, Roster
from clockd.schedule import Schedule
from clockd.session import Session
from clockd.store import MemoryStore
from clockd.users import UsersFile
from clockd.values import Limits, Rights, Tally


class ImplementersTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.limits, self.tally = Clock(), Limits(), Tally()
        self.schedule = Schedule(self.clock, self.tally.lateness)
        feeds = FeedTable([(ClockFeed(self.clock.seconds), Rights())])
        self.desk = FeedDesk(feeds, self.schedule, self.limits, self.tally)
        self.roster = Roster(self.limits, "reject", self.clock, self.clock.seconds, list)
        self.host = HostClock(lambda: UNKNOWN, self.clock.seconds, self.clock.seconds, self.tally)
        self.realm = ClockRealm("connection", self.roster, self.desk, MemoryStore(), self.host, self.tally)
        self.mind = RemoteMind(
            None, None, None, None, self.limits, self.tally, self.clock, self.clock.seconds, self.schedule.finish_soon
        )

    def test_feeds_are_feeds(self):
        counts, seconds = self.tally.feed("load"), self.clock.seconds
        for feed in (
            ClockFeed(seconds),
            LatestFeed("load", repr, counts, seconds),
            SampledFeed("load", repr, counts, seconds, list, 1.0, self.clock, list),
        ):
            self.assertTrue(verifyObject(IFeed, feed))

    def test_a_remote_mind_is_a_client_and_a_sink(self):
        self.mind._connection = Mock()
        self.assertTrue(verifyObject(IClient, self.mind))
        self.assertTrue(verifyObject(ISink, self.mind))

    def test_a_set_of_sinks_is_a_sink(self):
        self.assertTrue(verifyObject(ISink, SinkSet()))

    def test_a_session_is_one_and_a_perspective(self):
        session = Session("alice", self.mind, self.roster, self.desk, self.host, list)
        self.assertTrue(verifyObject(ISession, session))
        self.assertTrue(verifyObject(pb.IPerspective, session))

    def test_the_credentials_are_a_challenge_response(self):
        self.assertTrue(verifyObject(IChallengeResponse, ChallengeResponse("alice", b"", b"")))

    def test_the_checker_is_creds(self):
        checker = AccountChecker(UsersFile(None), None)
        self.assertTrue(verifyObject(ICredentialsChecker, checker))
        self.assertEqual(checker.credentialInterfaces, (IChallengeResponse,))

    def test_a_peer_s_certificate_is_credentials_and_has_a_checker_of_cred(self):
        self.assertTrue(verifyObject(IPeerCertificate, PeerCertificate(["alice"])))
        checker = CertificateChecker(UsersFile(None))
        self.assertTrue(verifyObject(ICredentialsChecker, checker))
        self.assertEqual(checker.credentialInterfaces, (IPeerCertificate,))

    def test_the_realm_is_creds(self):
        self.assertTrue(verifyObject(IRealm, self.realm))

    def test_the_factory_is_a_root_of_perspective_broker(self):
        factory = ClockServerFactory(
            Portal(self.realm), self.schedule, self.limits, self.tally, self.clock, self.clock.seconds, False, list
        )
        self.assertTrue(verifyObject(pb.IPBRoot, factory))

    def test_what_counts_errors_can_be_called_as_an_observer_is(self):
        self.assertTrue(verifyObject(ILogObserver, count_errors(list), tentative=True))

    def test_what_implements_nothing_is_found_out(self):
        for interface in (IFeed, ISink, IClient, ISession, IChallengeResponse, IPeerCertificate):
            with self.assertRaises(Invalid):
                verifyObject(interface, object())
