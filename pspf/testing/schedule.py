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
        self._current: _Worker | None = None
        self._over = threading.Semaphore(0)
        self._deadlock = False

    def add(self, disk: Process, work: Callable[[], None]) -> None:
        """A process: ``work`` makes its calls through ``disk``, and through nothing that another one uses."""
        self._workers.append(_Worker(self, disk, work))

    def run(self) -> None:
        """Until all have ended.

        :raises BaseException: what a process raised; its end by SIGKILL or power cut only if that is all.
        :raises WouldDeadlock: all that are left wait for locks of each other.
        """
        for worker in self._workers:
            worker.start()
        try:
            self._pass_on(None)
            self._over.acquire()
        finally:
            self._end_all()
        if self._deadlock:
            raise WouldDeadlock("every process waits for a lock of another one")
        errors = [worker.error for worker in self._workers if worker.error is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error

    def got_on(self) -> None:
        """A process made a call, or ended: whoever waits for a lock may try again."""
        for worker in self._workers:
            worker.blocked = worker.tried = False

    def hand_over(self, worker: "_Worker") -> None:
        """Return when it is the turn of this one, who had it until now; often at once."""
        if not self._pass_on(worker):
            worker.turn.acquire()

    def leave(self) -> None:
        """A process has ended; it is the turn of another one."""
        self._pass_on(None)

    def _pass_on(self, mine: "_Worker | None") -> bool:
        """Choose who goes on; true if that is the one who asks, and no thread needs to be woken."""
        chosen = self._choose()
        if chosen is not None and chosen is mine:
            return True
        (chosen.turn if chosen is not None else self._over).release()
        return False

    def _choose(self) -> "_Worker | None":
        while waiting := [worker for worker in self._workers if not worker.ended]:
            free = [worker for worker in waiting if not worker.blocked]
            if not free:
                if all(worker.tried for worker in waiting):
                    self._deadlock = True
                    return None
                for worker in waiting:
                    # Whoever was blocked tries again; if nobody gets on, it is a deadlock.
                    worker.blocked, worker.tried = False, True
                continue
            if self._current not in free or self._rng.random() >= self._stay:
                self._current = self._rng.choice(free)
            return self._current
        return None

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.disk.before_call = worker.disk.when_blocked = None
            if not worker.ended:
                worker.abandoned = True
                worker.turn.release()
                worker.thread.join()


class _Worker:
    def __init__(self, schedule: Schedule, disk: Process, work: Callable[[], None]) -> None:
        self.disk = disk
        self.turn = threading.Semaphore(0)
        self.ended = self.blocked = self.tried = self.abandoned = False
        self.error: BaseException | None = None
        self._schedule = schedule
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
        if not self.abandoned:
            self._schedule.got_on()
            self._schedule.leave()

    def _before_call(self, call: str) -> None:
        if threading.get_ident() != self.thread.ident:
            return  # an object of this process is collected by the thread of another one
        self._schedule.got_on()
        self._hand_over()

    def _when_blocked(self) -> None:
        self.blocked = True
        self._hand_over()

    def _hand_over(self) -> None:
        self._schedule.hand_over(self)
        if self.abandoned:
            raise Killed("the schedule has ended")
