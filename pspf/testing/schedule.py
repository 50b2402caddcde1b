"""Several processes at once, one call at a time, in an order that follows from a seed.

Each process is a thread, and only one of them runs: before each call of its disk a thread hands over, and the
schedule chooses who goes on. So two writers meet between any two calls of each other, and the same seed shows
it again.
"""

import threading
from collections.abc import Callable
from random import Random

from pspf.testing.faults import Killed, Stopped, WouldDeadlock
from pspf.testing.process import Process


class Schedule:
    """Runs processes to their ends.

    :param stay: how likely the one that runs makes its next call at once: high for long stretches of one
        process, low for many changes.
    """

    def __init__(self, seed: int, stay: float = 0.5) -> None:
        self._rng = Random(seed)
        self._stay = stay
        self._workers: list[_Worker] = []
        self._handed_over = threading.Semaphore(0)

    def add(self, disk: Process, work: Callable[[], None]) -> None:
        """A process: ``work`` makes its calls through ``disk``, and through nothing that another one uses."""
        self._workers.append(_Worker(self._handed_over, disk, work))

    def run(self) -> None:
        """Until all have ended.

        :raises BaseException: what a process raised; its end by SIGKILL or power cut only if that is all.
        :raises WouldDeadlock: all that are left wait for locks of each other.
        """
        for worker in self._workers:
            worker.start()
        current: _Worker | None = None
        try:
            while waiting := [worker for worker in self._workers if not worker.ended]:
                free = [worker for worker in waiting if not worker.blocked]
                if not free:
                    if len({worker.tried for worker in waiting}) == 1 and waiting[0].tried:
                        raise WouldDeadlock("every process waits for a lock of another one")
                    for worker in waiting:
                        # Whoever was blocked tries again; if nobody gets on, it is a deadlock.
                        worker.blocked, worker.tried = False, True
                    continue
                if current not in free or self._rng.random() >= self._stay:
                    current = self._rng.choice(free)
                assert current is not None
                calls = current.calls
                current.turn.release()
                self._handed_over.acquire()
                if current.calls != calls or current.ended:
                    for worker in self._workers:
                        worker.blocked = worker.tried = False
        finally:
            self._end_all()
        errors = [worker.error for worker in self._workers if worker.error is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.disk.before_call = worker.disk.when_blocked = None
            if not worker.ended:
                worker.abandoned = True
                worker.turn.release()
                worker.thread.join()


class _Worker:
    def __init__(self, handed_over: threading.Semaphore, disk: Process, work: Callable[[], None]) -> None:
        self.disk = disk
        self.turn = threading.Semaphore(0)
        self.ended = self.blocked = self.tried = self.abandoned = False
        self.calls = 0
        self.error: BaseException | None = None
        self._handed_over = handed_over
        self._work = work
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.disk.before_call = self._before_call
        self.disk.when_blocked = self._when_blocked
        self.thread.start()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            if not self.abandoned:
                self._work()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._handed_over.release()

    def _before_call(self, call: str) -> None:
        self.calls += 1
        self._hand_over()

    def _when_blocked(self) -> None:
        self.blocked = True
        self._hand_over()

    def _hand_over(self) -> None:
        self._handed_over.release()
        self.turn.acquire()
        if self.abandoned:
            raise Killed("the schedule has ended")
