"""What is held against any bytes at all; each target raises if that does not hold."""

import gc

from doubles import Mind, Rig, RigCase
from fuzz.inputs import FEEDS, segments
from fuzz.oracle import decode, exact, expect
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface import implementer

from clockd.auth import IChallengeResponse
from clockd.decoder import Bounds

STAGES = ("stranger", "greeted", "challenged", "serving")
GREETINGS = (b"\x02\x82pb", b"\x02\x82pb", b"\x04\x82none", b"")
"""What a stranger may begin with."""


def decoder(data, random):
    """The decoder yields what stock Banana does, within bounds, holds little, and raises nothing but `Malformed`."""
    bounds = Bounds(
        bytes=random.choice((1, 40, 1024, len(data) or 1)),
        depth=random.choice((0, 1, 3, 16)),
        items=random.choice((5, 8, 64)),
    )
    words = random.random() < 0.8
    found = decode(segments(random, data), bounds, words)
    expected = expect(data, bounds, words)
    assert exact(found) in map(exact, expected), (found, expected)


def login(data, random):
    """A server survives: no error is logged, and when the peer has gone, nothing is left of it."""
    with capturedLogs() as events:
        checker = Checker(random)
        rig = Rig(anonymous=random.random() < 0.5, checker=checker, feeds=FEEDS)
        stage = random.choice(STAGES)
        wire = connected(rig, stage)
        if stage == "stranger":
            data = random.choice(GREETINGS) + data
        checker.knows_all = False
        for segment in segments(random, data):
            wire.clientIO.write(segment)
            rig.network.flush()
            if random.random() < 0.1:
                rig.network.advance(random.choice((0.1, 3, 100)))
                rig.sweep()
        if random.random() < 0.5:
            checker.decide()
            rig.network.flush()
        random.choice((wire.cut, wire.clientIO.loseConnection))()
        rig.network.flush()
        checker.decide()
        RigCase().assert_empty(rig)
        del rig, wire, checker
        gc.collect()
    errors = [formatEvent(event) for event in events if event["log_level"] >= LogLevel.error]
    assert not errors, errors


@implementer(ICredentialsChecker)
class Checker:
    """Admits, refuses, or takes its time."""

    credentialInterfaces = (IChallengeResponse,)

    def __init__(self, random):
        self.random = random
        self.knows_all = True
        self.asked = []

    def requestAvatarId(self, credentials):
        if self.knows_all or self.random.random() < 0.5:
            return b"alice"
        if self.random.random() < 0.5:
            return fail(UnauthorizedLogin())
        self.asked.append(Deferred())
        return self.asked[-1]

    def decide(self):
        """Answer all that have waited so far."""
        for waiting in self.asked:
            waiting.callback(b"alice") if self.random.random() < 0.5 else waiting.errback(UnauthorizedLogin())
        self.asked = []


def connected(rig, stage):
    """Return a connection whose honest client has come as far as the stage, and from then on looks at nothing."""
    if stage == "stranger":
        rig.network.connect(Factory.forProtocol(Protocol))
    else:
        peer = rig.peer()
        if stage == "challenged":
            peer.challenger, _ = peer.challenge()  # it is let go of with the peer
        elif stage == "serving":
            peer.enter(Mind())
        peer.broker.dataReceived = lambda _: None
    return rig.network.wires[-1]


TARGETS = {"decoder": decoder, "login": login}
