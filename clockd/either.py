"""A result that can be awaited in a coroutine that Twisted drives, and in a task of asyncio alike.

Which of the two is waiting cannot be told beforehand: a coroutine that Twisted drives may run inside a task of
asyncio, and the other way round. So what is yielded to the driver is both: a `Deferred`, which Twisted's driver knows,
with the few methods by which an asyncio task knows a future (the object need not be a `Future`, see
`asyncio.isfuture`). The driver that is there uses its own half.

Rules of this module: a result is a coroutine too, since `asyncio.create_task` takes nothing else. What it is the result
of has begun before, and begins no second time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Either(Coroutine[Any, Any, T]):
    """A result to be awaited, once.

    Args:
        deferred: Where it comes from.
    """

    def __init__(self, deferred: "Deferred[T]") -> None:
        self._deferred = deferred
        self._waiter: _Waiter[T] = _Waiter(deferred)
        self._steps: Generator[Any, Any, T] | None = None  # of a driver that takes this for a coroutine
        deferred.addBoth(self._fired)

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for the result, and return or raise it."""
        self._deferred.addErrback(lambda _: None)  # from here on a failure has someone who looks at it
        if not self._waiter.called:
            yield self._waiter
        return self._waiter.outcome()

    def send(self, value: Any) -> Any:
        """Go on waiting, as a coroutine."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Any:
        """Raise an error where it waits, as a coroutine, and wait no longer."""
        self.close()
        return super().throw(typ, val, tb)

    def close(self) -> None:
        """Wait no longer, as a coroutine; the source is cancelled, if it has not fired."""
        self._deferred.addErrback(lambda _: None)
        self._deferred.cancel()

    def _fired(self, result: T | Failure) -> T | Failure:
        self._waiter.fire(result)
        return result


class _Waiter(Deferred[Callable[[], T]]):
    """What a driver waits for; it fires with a callable that returns or raises the outcome.

    That callable is the trick: as the value of a Deferred it is the attribute `result`, and `result()` is what an
    asyncio task calls on a future.
    """

    _asyncio_future_blocking = True

    def __init__(self, deferred: "Deferred[T]") -> None:
        super().__init__()
        self._source = deferred
        self._awaited_by_task = False
        self._outcome: T | Failure | None = None

    def fire(self, result: T | Failure) -> None:
        """Have the result."""
        self._outcome = result
        self.callback(self.outcome)

    def outcome(self) -> T:
        """Return or raise the result; a cancelled task hears of it in asyncio's way."""
        result = self._outcome
        if isinstance(result, Failure):
            if self._awaited_by_task and result.check(CancelledError):
                raise asyncio.CancelledError from result.value
            result.raiseException()
        return result  # type: ignore[return-value]  # it was a Failure, or it is a T

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Tell the task that it runs on the right loop."""
        return asyncio.get_running_loop()

    def add_done_callback(self, wake_up: Callable[["_Waiter[T]"], object], *, context: Context | None = None) -> None:
        """Have a task wait."""
        self._awaited_by_task = True
        loop = asyncio.get_running_loop()

        def fired(outcome: Callable[[], T]) -> Callable[[], T]:
            loop.call_soon(wake_up, self, context=context)
            return outcome

        self.addCallback(fired)

    def cancel(self, msg: object = None) -> bool:  # type: ignore[override]  # a future says whether it was cancelled
        """Cancel the source, which fires this in its own time; tells a task whether it will hear of it."""
        if self.called:  # a task that is about to wake up has to be told otherwise
            return False
        self._source.cancel()
        return True
