"""What every test shares: a directory on a real disk, the installed command, and the rule about skips."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support_exit_codes import undeclared
from tests.support_figures import (
    figure,  # noqa: F401
    pytest_sessionfinish,  # noqa: F401
    pytest_terminal_summary,  # noqa: F401
)

ROOT = Path(__file__).resolve().parent.parent

# Shells start what they put into the background with SIGINT ignored, nohup with SIGHUP ignored, and that is
# inherited by every process that a test starts, and wants to stop. A handler is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))

# No deadline: a test must not fail because the machine is busy. Time is measured by `pspf bench`, never here.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("dev", _COMMON, max_examples=50)
settings.register_profile("ci", _COMMON, max_examples=200, derandomize=True)
settings.register_profile("soak", _COMMON, max_examples=100_000)

_CI = os.environ.get("CI") == "true"
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if _CI else "dev"))

_SKIP_IS_FAILURE = _CI and sys.platform == "linux"


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _SKIP_IS_FAILURE and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: a skip is a failure here, CI has all that tests need: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    # A module that skips itself as a whole makes no test report.
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.fixture
def scratch_dir() -> Iterator[Path]:
    """A fresh directory on the disk of the checkout, removed afterwards.

    Not pytest's ``tmp_path``: that is under /tmp, which is memory on many machines, where a sync does nothing
    and a full disk looks different.
    """
    parent = ROOT / ".test-data"
    parent.mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield path
    finally:
        # Tests take permissions away; as root that hinders nobody, for others it hinders the removal.
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700)
        shutil.rmtree(path)


@pytest.fixture
def store_dir(scratch_dir: Path) -> Path:
    """An empty directory on the disk of the checkout, for a store."""
    path = scratch_dir / "store"
    path.mkdir()
    return path


def script() -> str:
    """The command as it was installed into the environment that runs the tests."""
    path = os.path.join(sys.prefix, "bin", "pspf")
    if not os.path.exists(path):
        pytest.fail(f"{path} is missing: run the tests with `make test`, which installs it")
    return path


def clean_environment(home: Path) -> dict[str, str]:
    """An environment without settings of the person who runs the tests: no PSPF_*, no XDG_*, another HOME."""
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ.get("PATH", os.defpath)]),
        "TZ": "UTC",
    }


class Pspf:
    """Runs the installed command: ``pspf("cat", "orders")``.

    The environment is :func:`clean_environment` with ``env`` on top; a value of ``None`` takes a variable
    away. ``argv`` and ``environment`` serve tests that start the process themselves, to talk to it or to
    kill it.
    """

    def __init__(self, scratch: Path) -> None:
        self.home = scratch / "home"
        self.home.mkdir()

    def argv(self, *args: str | os.PathLike[str]) -> list[str]:
        return [script(), *(os.fspath(arg) for arg in args)]

    def environment(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        merged = {**clean_environment(self.home), **(env or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def __call__(
        self,
        *args: str | os.PathLike[str],
        input: bytes | None = b"",
        env: Mapping[str, str | None] | None = None,
        timeout: float = 60,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
        preexec_fn: Callable[[], object] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        ran = subprocess.run(
            self.argv(*args),
            input=input,
            env=self.environment(env),
            timeout=timeout,
            cwd=cwd or self.home,
            pass_fds=pass_fds,
            preexec_fn=preexec_fn,
            capture_output=True,
            check=False,
        )
        if ran.returncode not in (0, 2):  # those are of every command
            wrong = undeclared([os.fspath(arg) for arg in args], ran.returncode)
            assert not wrong, f"{wrong}: {ran.stderr!r}"
        return ran


@pytest.fixture
def pspf(scratch_dir: Path) -> Pspf:
    """The installed command, in a clean environment; see :class:`Pspf`. Without ``-s`` or ``PSPF_STORE`` the
    store is under the fresh HOME."""
    return Pspf(scratch_dir)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = target.glob("*.whl")
    return path
