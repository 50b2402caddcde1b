"""A file system of a test's own: mounted where only this test sees it, and gone with it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Pspf

# Root may mount; anybody else is root in a user namespace, where the kernel allows that.
UNSHARE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]
ENTER = ["nsenter", "-m"] if os.geteuid() == 0 else ["nsenter", "-U", "--preserve-credentials", "-m"]


class OwnMounts:
    """A mount namespace in which ``script`` (of sh) has mounted something; commands are run inside.

    Skips the test where that is not allowed.
    """

    def __init__(self, script: str, *args: str) -> None:
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            pytest.skip("needs unshare and nsenter (Debian package util-linux)")
        self._holder = subprocess.Popen(
            [*UNSHARE, "sh", "-ec", f"{script}\necho ready; read _", "sh", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self.mounted = self._holder.stdout.readline() == b"ready\n"
        self.why = "" if self.mounted else self._end()

    def _end(self) -> str:
        _, err = self._holder.communicate(b"\n", timeout=60)
        return err.decode().strip()

    def __enter__(self) -> "OwnMounts":
        if not self.mounted:
            pytest.skip(f"mounting is not allowed here: {self.why}")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def enter(self, argv: list[str]) -> list[str]:
        """``argv`` so that it runs inside."""
        return [*ENTER, "-t", str(self._holder.pid), "--", *argv]

    def seen(self, path: Path) -> Path:
        """``path`` inside, as processes outside reach it."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def run(
        self, argv: list[str], env: Mapping[str, str], input: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command inside."""
        return subprocess.run(
            self.enter(argv),
            input=input,
            env=env,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def pspf(self, pspf: Pspf, *args: str | Path, input: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run the command ``pspf`` inside."""
        return self.run(pspf.argv(*args), pspf.environment(), input)


def read_only(path: Path) -> OwnMounts:
    """``path`` as on a disk that is mounted read-only."""
    return OwnMounts('mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"', str(path))


def small_disk(path: Path, image: Path) -> OwnMounts:
    """An ext4 of 8 MiB at ``path``, or where there are no loop devices, as much of memory."""
    if shutil.which("mkfs.ext4") is not None and os.geteuid() == 0:
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True, capture_output=True)
        mounts = OwnMounts('mount -o loop "$1" "$2"', str(image), str(path))
        if mounts.mounted:
            return mounts
    return OwnMounts('mount -t tmpfs -o size=8m none "$1"', str(path))


def without_privileges(argv: list[str]) -> list[str]:
    """``argv`` so that permissions count for it: for root, who may do anything, without the right to."""
    if os.geteuid() != 0:
        return argv
    if shutil.which("setpriv") is None:
        pytest.skip("as root, this needs setpriv (Debian package util-linux)")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", "--", *argv]
