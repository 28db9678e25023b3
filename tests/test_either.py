import asyncio
import contextvars
import gc

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from clockd.either import Either


class Broken(Exception):
    pass


async def wait(deferred):
    return await Either(deferred)


async def turn():
    """Let the tasks that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def under_twisted(deferred):
    return await Either(Deferred.fromCoroutine(wait(deferred)))


async def under_a_task(deferred):
    task = asyncio.ensure_future(wait(deferred))
    return await Either(Deferred.fromFuture(task))


async def under_a_task_under_twisted(deferred):
    inner = Deferred.fromCoroutine(under_a_task(deferred))
    return await inner.asFuture(asyncio.get_running_loop())


class TwistedTests(SynchronousTestCase):
    def setUp(self):
        self.source = Deferred()
        self.waiting = Deferred.fromCoroutine(wait(self.source))

    def test_the_result_arrives_when_it_is_there(self):
        self.assertNoResult(self.waiting)
        self.source.callback("value")
        self.assertEqual(self.successResultOf(self.waiting), "value")

    def test_an_error_is_raised(self):
        self.source.errback(Broken("why"))
        self.assertEqual(self.failureResultOf(self.waiting, Broken).value.args, ("why",))

    def test_what_has_fired_already_does_not_wait(self):
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(wait(succeed("value")))), "value")
        self.failureResultOf(Deferred.fromCoroutine(wait(fail(Broken()))), Broken)

    def test_what_has_fired_already_asks_nothing_of_the_driver(self):
        with self.assertRaises(StopIteration) as caught:
            wait(succeed("value")).send(None)
        self.assertEqual(caught.exception.value, "value")

    def test_none_false_and_an_exception_are_values_too(self):
        for value in (None, False, 0, Broken("a value")):
            self.assertIs(self.successResultOf(Deferred.fromCoroutine(wait(succeed(value)))), value)

    def test_cancelling_the_one_who_waits_cancels_the_source(self):
        cancelled = []
        waiting = Deferred.fromCoroutine(wait(Deferred(cancelled.append)))
        waiting.cancel()
        self.assertEqual(len(cancelled), 1)
        self.failureResultOf(waiting, CancelledError)

    def test_a_source_that_is_cancelled_raises_twisteds_error(self):
        self.source.cancel()
        self.failureResultOf(self.waiting, CancelledError)

    def test_one_within_another_hands_the_result_out(self):
        source = Deferred()
        outer = Deferred.fromCoroutine(under_twisted(source))
        source.callback("value")
        self.assertEqual(self.successResultOf(outer), "value")

    def test_cancelling_reaches_the_innermost(self):
        cancelled = []
        outer = Deferred.fromCoroutine(under_twisted(Deferred(cancelled.append)))
        outer.cancel()
        self.assertEqual(len(cancelled), 1)
        self.failureResultOf(outer, CancelledError)

    def test_a_failure_that_was_awaited_is_not_reported(self):
        self.source.errback(Broken())
        self.failureResultOf(self.waiting, Broken)
        del self.source, self.waiting
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_failure_that_nobody_awaits_is_reported(self):
        Either(fail(Broken()))
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)

    def test_a_failure_that_comes_later_and_nobody_awaits_is_reported(self):
        source = Deferred()
        either = Either(source)
        source.errback(Broken())
        del either, source
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)


class AsyncioTests(SynchronousTestCase):
    nestings = (wait, under_twisted, under_a_task, under_a_task_under_twisted)

    def test_the_result_arrives_when_it_is_there(self):
        async def program(nesting):
            source = Deferred()
            task = asyncio.ensure_future(nesting(source))
            await turn()
            self.assertFalse(task.done())
            source.callback("value")
            return await task

        for nesting in self.nestings:
            self.assertEqual(asyncio.run(program(nesting)), "value")

    def test_an_error_is_raised(self):
        async def program(nesting):
            source = Deferred()
            task = asyncio.ensure_future(nesting(source))
            await turn()
            source.errback(Broken("why"))
            await task

        for nesting in self.nestings:
            with self.assertRaisesRegex(Broken, "why"):
                asyncio.run(program(nesting))

    def test_what_has_fired_already_does_not_wait(self):
        for nesting in self.nestings:
            self.assertEqual(asyncio.run(nesting(succeed("value"))), "value")
            with self.assertRaises(Broken):
                asyncio.run(nesting(fail(Broken())))

    def test_cancelling_the_task_cancels_the_source_and_the_task(self):
        async def program(nesting):
            cancelled = []
            task = asyncio.ensure_future(nesting(Deferred(cancelled.append)))
            await turn()
            self.assertTrue(task.cancel())
            await asyncio.wait([task], timeout=1)
            return len(cancelled), task.cancelled()

        for nesting in (wait, under_twisted):
            self.assertEqual(asyncio.run(program(nesting)), (1, True))

    def test_a_source_that_is_cancelled_cancels_the_task(self):
        async def program():
            source = Deferred()
            task = asyncio.ensure_future(wait(source))
            await turn()
            source.cancel()
            await asyncio.wait([task], timeout=1)
            return task.cancelled()

        self.assertTrue(asyncio.run(program()))

    def test_a_task_may_clean_up_when_it_is_cancelled(self):
        async def clean_up(source, done):
            try:
                await Either(source)
            finally:
                done.append(await Either(succeed("clean")))

        async def program():
            done = []
            task = asyncio.ensure_future(clean_up(Deferred(), done))
            await turn()
            task.cancel()
            await asyncio.wait([task], timeout=1)
            return done, task.cancelled()

        self.assertEqual(asyncio.run(program()), (["clean"], True))

    def test_a_task_may_go_on_after_it_caught_its_cancellation(self):
        async def stubborn(first, second):
            try:
                await Either(first)
            except asyncio.CancelledError:
                return await Either(second)

        async def program():
            second = Deferred()
            task = asyncio.ensure_future(stubborn(Deferred(), second))
            await turn()
            task.cancel()
            await turn()
            second.callback("went on")
            return await task

        self.assertEqual(asyncio.run(program()), "went on")

    def test_a_time_out_of_asyncio_ends_the_wait_and_cancels_the_source(self):
        async def program():
            cancelled = []
            with self.assertRaises(TimeoutError):
                async with asyncio.timeout(0):
                    await Either(Deferred(cancelled.append))
            return len(cancelled)

        self.assertEqual(asyncio.run(program()), 1)

    def test_several_can_be_gathered(self):
        async def program():
            sources = [Deferred(), Deferred()]
            gathered = asyncio.gather(*(Either(source) for source in sources))
            await turn()
            sources[1].callback("second")
            sources[0].callback("first")
            return await gathered

        self.assertEqual(asyncio.run(program()), ["first", "second"])

    def test_a_task_wakes_in_its_own_context(self):
        name = contextvars.ContextVar("name")

        async def remember(source, value):
            name.set(value)
            await Either(source)
            return name.get()

        async def program():
            sources = [Deferred(), Deferred()]
            tasks = [
                asyncio.ensure_future(remember(source, value)) for source, value in zip(sources, "ab", strict=True)
            ]
            await turn()
            for source in sources:
                source.callback(None)
            return await asyncio.gather(*tasks)

        self.assertEqual(asyncio.run(program()), ["a", "b"])

    def test_a_failure_that_nobody_awaits_is_reported(self):
        async def program():
            Either(fail(Broken()))

        asyncio.run(program())
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)

    def test_a_failure_that_was_awaited_is_not_reported(self):
        async def program():
            with self.assertRaises(Broken):
                await Either(fail(Broken()))

        asyncio.run(program())
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class CancellationTests(SynchronousTestCase):
    def test_a_cancellation_that_comes_with_the_result_is_not_lost(self):
        async def program():
            source = Deferred()
            task = asyncio.ensure_future(wait(source))
            await turn()
            source.callback("value")
            task.cancel()
            await asyncio.wait([task], timeout=1)
            return task.cancelled()

        self.assertTrue(asyncio.run(program()))

    def test_cancelling_a_task_waits_for_a_source_that_cleans_up(self):
        async def clean_up(source, cleaned):
            try:
                await source
            except CancelledError:
                await cleaned
                raise

        async def program():
            cleaned = Deferred()
            task = asyncio.ensure_future(wait(Deferred.fromCoroutine(clean_up(Deferred(), cleaned))))
            await turn()
            task.cancel()
            await turn()
            self.assertFalse(task.done())
            cleaned.callback(None)
            await asyncio.wait([task], timeout=1)
            return task.cancelled()

        self.assertTrue(asyncio.run(program()))

    def test_cancelling_the_task_reaches_a_source_under_a_task_of_its_own(self):
        async def program(nesting):
            cancelled = []
            task = asyncio.ensure_future(nesting(Deferred(cancelled.append)))
            await turn()
            task.cancel()
            await asyncio.wait([task], timeout=1)
            return len(cancelled), task.done()

        for nesting in (under_a_task, under_a_task_under_twisted):
            self.assertEqual(asyncio.run(program(nesting)), (1, True))


class CoroutineTests(SynchronousTestCase):
    """What `asyncio.create_task` and its like take, which is a coroutine only."""

    def warned(self):
        gc.collect()
        return self.flushWarnings(), self.flushLoggedErrors()

    def test_a_task_can_be_made_of_it(self):
        async def program():
            source = Deferred()
            task = asyncio.create_task(Either(source))
            await turn()
            self.assertFalse(task.done())
            source.callback("value")
            return await task, await asyncio.create_task(Either(succeed("there already")))

        self.assertEqual(asyncio.run(program()), ("value", "there already"))
        self.assertEqual(self.warned(), ([], []))

    def test_a_group_of_tasks_takes_it(self):
        async def program():
            sources = [Deferred(), Deferred()]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(Either(source)) for source in sources]
                await turn()
                sources[1].callback("second")
                sources[0].callback("first")
            return [task.result() for task in tasks]

        self.assertEqual(asyncio.run(program()), ["first", "second"])

    def test_an_error_is_the_task_s(self):
        async def program():
            source = Deferred()
            task = asyncio.create_task(Either(source))
            await turn()
            source.errback(Broken("why"))
            with self.assertRaisesRegex(Broken, "why"):
                await task
            with self.assertRaises(Broken):
                await asyncio.create_task(Either(fail(Broken())))

        asyncio.run(program())
        self.assertEqual(self.warned(), ([], []))

    def test_cancelling_the_task_cancels_the_source_whether_or_not_it_has_begun_to_wait(self):
        async def program(turns):
            cancelled = []
            task = asyncio.create_task(Either(Deferred(cancelled.append)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=1)
            return len(cancelled), task.cancelled()

        for turns in (0, 1, 5):
            self.assertEqual(asyncio.run(program(turns)), (1, True))
        self.assertEqual(self.warned(), ([], []))

    def test_a_group_that_fails_cancels_it(self):
        async def program():
            cancelled, source = [], Deferred()
            with self.assertRaises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(Either(Deferred(cancelled.append)))
                    group.create_task(Either(source))
                    await turn()
                    source.errback(Broken())
            return len(cancelled)

        self.assertEqual(asyncio.run(program()), 1)
        self.assertEqual(self.warned(), ([], []))

    def test_twisted_drives_it_too(self):
        source = Deferred()
        waiting = ensureDeferred(Either(source))
        self.assertNoResult(waiting)
        source.callback("value")
        self.assertEqual(self.successResultOf(waiting), "value")
        self.failureResultOf(ensureDeferred(Either(fail(Broken()))), Broken)
        cancelled = []
        waiting = ensureDeferred(Either(Deferred(cancelled.append)))
        waiting.cancel()
        self.assertEqual(len(cancelled), 1)
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.warned(), ([], []))

    def test_one_that_is_closed_cancels_the_source(self):
        cancelled = []
        either = Either(Deferred(cancelled.append))
        either.close()
        self.assertEqual(len(cancelled), 1)
        del either
        self.assertEqual(self.warned(), ([], []))

    def test_one_that_nobody_awaits_is_not_warned_of(self):
        Either(succeed("value"))
        Either(Deferred())
        self.assertEqual(self.warned(), ([], []))
