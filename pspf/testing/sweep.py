"""Stop a program behind each call that changes the disk, and look at what its recovery makes of it.

A :class:`Scenario` says what is done and what must hold afterwards. :func:`sweep` runs it again and again,
each time with another end: SIGKILL behind the nth change, and inside a write; a power cut there, in many of
its states; and each of these again with a second end in the middle of the recovery. Everything follows from
one seed.
"""

from copy import deepcopy
from random import Random
from typing import Protocol

from pspf.testing.crashes import MODELS, digest_of
from pspf.testing.faults import Killed, Stopped
from pspf.testing.medium import PAGE
from pspf.testing.simdisk import SimDisk


class Scenario(Protocol):
    """A program and its promise. It keeps what it knows (what was acknowledged) in itself, and no handles:
    the sweep copies it, to let one past have many futures."""

    def prepare(self) -> SimDisk:
        """A machine with what is there before; nothing of this is swept."""

    def run(self, disk: SimDisk) -> None:
        """The work; ``disk`` is the process that will be ended at any call."""

    def observe(self, disk: SimDisk) -> None:
        """Look at the machine just before the power goes, as another process would."""

    def recover(self, disk: SimDisk, cut: bool) -> None:
        """Open everything again, as a new process, and check what must hold; may be ended anywhere, too.

        :param cut: the power was cut at least once.
        :raises AssertionError: a promise is broken. Any other ``Exception`` counts as broken, too.
        """

    def knows(self) -> object:
        """What decides the check, hashable: two equal disks are checked once for equal knowledge."""


class Figures:
    """What a sweep did and found. ``violations`` are texts with all that is needed to see it again."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.stops = 0
        self.kills = 0
        self.states = 0
        self.in_recovery = 0
        self.violations: list[str] = []

    @property
    def ends(self) -> int:
        """Different disks that somebody had to recover from, after a SIGKILL or a power cut."""
        return self.kills + self.states

    def add(self, other: "Figures") -> None:
        """Sum up."""
        self.stops += other.stops
        self.kills += other.kills
        self.states += other.states
        self.in_recovery += other.in_recovery
        self.violations += other.violations

    def row(self) -> str:
        return (
            f"{self.name:<44} {self.stops:>5} {self.kills:>6} {self.states:>7} {self.in_recovery:>9}"
            f" {len(self.violations):>10}   seed {self.seed}"
        )

    @staticmethod
    def head() -> str:
        return f"{'scenario':<44} {'stops':>5} {'kills':>6} {'states':>7} {'in recov.':>9} {'violations':>10}"


def sweep(
    name: str,
    scenario: Scenario,
    *,
    seed: int,
    states: int,
    stops: int = 0,
    in_recovery: int = 4,
    how: type[Stopped] = Killed,
    enough: int = 5,
) -> Figures:
    """Run all of it.

    :param states: about how many different states after power cuts, in all.
    :param stops: at how many places, chosen by the seed; 0 for all.
    :param in_recovery: how many second ends are tried for each state and each kill.
    :param how: ``PowerCut`` ends all processes of the scenario at the same call, ``Killed`` only the first.
    :param enough: stop at so many violations.
    """
    return _Sweep(name, scenario, seed, states, stops, in_recovery, how, enough).run()


class _Sweep:
    def __init__(
        self,
        name: str,
        scenario: Scenario,
        seed: int,
        states: int,
        stops: int,
        in_recovery: int,
        how: type[Stopped],
        enough: int,
    ) -> None:
        self.figures = Figures(name, seed)
        self._scenario = scenario
        self._rng = Random(seed)
        self._wanted = states
        self._stops = stops
        self._in_recovery = in_recovery
        self._how = how
        self._enough = enough
        self._seen: set[object] = set()

    def run(self) -> Figures:
        scenario = deepcopy(self._scenario)
        disk = scenario.prepare()
        before = disk.changes
        try:
            scenario.run(disk)
        except Exception as error:
            self._violated("not ended", error)
            return self.figures
        order = list(range(disk.changes - before + 1))
        self._rng.shuffle(order)
        if self._stops:
            del order[self._stops :]
        self.figures.stops = len(order)
        left = self._wanted
        for number, stop in enumerate(order):
            # What a stop leaves unsynced differs much in size: what one does not use up the others get.
            left -= self._stop(stop, None, -(-left // (len(order) - number)))
            self._stop(stop, PAGE, 0)
            if len(self.figures.violations) >= self._enough:
                break
        return self.figures

    def _stop(self, stop: int, torn: int | None, limit: int) -> int:
        """End the program there; how many new states that gave."""
        scenario = deepcopy(self._scenario)
        disk = scenario.prepare()
        disk.stop_after(stop, self._how, torn)
        told = f"stop {stop}" + (f", inside a write ({torn} bytes done)" if torn else "")
        try:
            scenario.run(disk)
        except Stopped:
            pass
        except Exception as error:  # of another process, which lived on
            self._violated(f"{told}: before the end", error)
            return 0
        if torn and self._known(scenario, disk):
            return 0
        self.figures.kills += 1
        self._futures(scenario, disk.copy(), False, f"{told}: killed")
        try:
            scenario.observe(disk.copy())
        except Exception as error:
            self._violated(f"{told}: before the power cut", error)
            return 0
        found = 0
        for number, model in enumerate(MODELS):
            # Half for the stricter half of the set, and what is left for the likely ones.
            wanted = (limit - found) // (len(MODELS) - number)
            if wanted <= 0:
                continue
            for state in disk.crash_states(self._rng.getrandbits(32), wanted, model):
                if not self._known(scenario, state):
                    found += 1
                    self.figures.states += 1
                    self._futures(scenario, state, True, f"{told}: power cut: {state.story}")
                if len(self.figures.violations) >= self._enough:
                    return found
        return found

    def _known(self, scenario: Scenario, disk: SimDisk) -> bool:
        key = (digest_of(disk.machine.root), scenario.knows())
        known = key in self._seen
        self._seen.add(key)
        return known

    def _futures(self, scenario: Scenario, disk: SimDisk, cut: bool, told: str) -> None:
        """Recover, and recover again with an end at some of the changes on the way."""
        process = disk.copy()
        if not self._recovered(scenario, process, cut, told):
            return
        points = list(range(process.changes))
        self._rng.shuffle(points)
        for point in points[: self._in_recovery]:
            second = deepcopy(scenario)
            process = disk.copy()
            process.stop_after(point, Killed)
            try:
                second.recover(process, cut)
            except Stopped:
                pass
            except Exception as error:
                self._violated(f"{told}; with an end in recovery behind change {point}", error)
                return
            self.figures.in_recovery += 1
            again = f"{told}; then ended in recovery behind change {point}"
            self._recovered(second, process.copy(), cut, again)
            model = self._rng.choice(MODELS)
            for state in process.crash_states(self._rng.getrandbits(32), 2, model):
                if not self._recovered(second, state, True, f"{again}: power cut: {state.story}"):
                    return

    def _recovered(self, scenario: Scenario, disk: SimDisk, cut: bool, told: str) -> bool:
        try:
            deepcopy(scenario).recover(disk, cut)
        except Exception as error:
            self._violated(told, error)
            return False
        return True

    def _violated(self, told: str, error: Exception) -> None:
        import traceback

        where = "".join(traceback.format_exception(error)[-6:])
        self.figures.violations.append(f"{self.figures.name}, seed {self.figures.seed}, {told}\n{where}")
