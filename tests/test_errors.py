import ast
import inspect
import re
from pathlib import Path

from twisted.cred.error import UnauthorizedLogin
from twisted.python.failure import Failure
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd import errors
from clockd.errors import ClientError, ClockdError, Misconfigured, Refused, UnknownMethod, WrongCredentials

CLASSES = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == "clockd.errors"}
INNER = {ClockdError, Refused, Misconfigured, ClientError}
LEAVES = CLASSES - INNER


def called_names():
    """Return the name of everything that is called in the package, so of every error that is made there."""
    for path in Path(errors.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield node.func.id


class TreeTests(SynchronousTestCase):
    def test_every_class_is_a_clockd_error(self):
        self.assertEqual([kind for kind in CLASSES if not issubclass(kind, ClockdError)], [])

    def test_each_leaf_belongs_to_one_branch(self):
        for leaf in LEAVES:
            branches = [branch for branch in (Refused, Misconfigured, ClientError) if issubclass(leaf, branch)]
            self.assertEqual(len(branches), 1, leaf)

    def test_the_tree_of_the_modules_docstring_names_every_class(self):
        tree, _, _ = errors.__doc__.partition("Rules of this module")
        for kind in CLASSES:
            self.assertRegex(tree, rf"\b{kind.__name__}\b")

    def test_every_leaf_is_made_somewhere_in_the_package_and_the_roots_are_not(self):
        called = set(called_names())
        self.assertEqual([leaf.__name__ for leaf in LEAVES if leaf.__name__ not in called], [])
        self.assertEqual({"ClockdError", "Refused", "ClientError"} & called, set())


class WireTests(SynchronousTestCase):
    def test_a_refusal_is_what_perspective_broker_sends_without_a_traceback(self):
        for leaf in LEAVES:
            self.assertEqual(issubclass(leaf, pb.Error), issubclass(leaf, Refused), leaf)

    def test_a_client_tells_refusals_apart_by_their_qualified_name(self):
        refusals = [leaf for leaf in LEAVES if issubclass(leaf, Refused)]
        self.assertGreater(len(refusals), 5)
        for leaf in refusals:
            name = f"clockd.errors.{leaf.__name__}"
            self.assertEqual(Failure(leaf("why")).check(name), name)
            others = [f"clockd.errors.{other.__name__}" for other in refusals if other is not leaf]
            self.assertIsNone(Failure(leaf("why")).check(*others))

    def test_wrong_credentials_satisfy_a_stock_clients_check(self):
        self.assertTrue(issubclass(WrongCredentials, UnauthorizedLogin))

    def test_an_unknown_method_satisfies_a_stock_clients_check(self):
        self.assertTrue(issubclass(UnknownMethod, pb.NoSuchMethod))

    def test_the_message_is_all_that_an_error_says(self):
        for leaf in LEAVES:
            self.assertEqual(str(leaf("why")), "why")
            self.assertTrue(re.search(r"\w", leaf.__doc__))
