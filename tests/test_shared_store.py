"""A store that the members of a group write to: its modes do not depend on the umask of whoever writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import pspf
from pspf.store.init import init_store
from tests.conftest import Pspf


def wrong_modes(store: Path) -> dict[str, str]:
    """What the group cannot use, by its path in the store."""
    wrong = {}
    for path in (store, *store.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o2770 if path.is_dir() else 0o660):
            wrong[str(path.relative_to(store))] = oct(mode)
    return wrong


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_shared_store_is_shared_whatever_the_umask(pspf: Pspf, umask: int) -> None:
    def under(*words: str, input: bytes = b"") -> int:
        return pspf("-s", "shared", *words, input=input, preexec_fn=lambda: os.umask(umask)).returncode

    assert pspf("init", "--shared", "shared", preexec_fn=lambda: os.umask(umask)).returncode == 0
    assert under("topic", "create", "-n", "2", "t", "--segment-bytes", "64KiB") == 0
    for value in (b"x", b"y"):
        assert under("append", "t", "-p", "0", input=value * 50_000 + b"\n") == 0  # the second one rolls
    assert under("append", "--producer", "p", "u", input=b"x\n") == 0
    assert under("topic", "alter", "t", "--durability", "os") == 0
    assert under("verify") == 0
    store = pspf.home / "shared"
    assert len(list(store.rglob("*.log"))) >= 3
    assert wrong_modes(store) == {}


def test_a_store_that_is_not_shared_stays_private(store_dir: Path) -> None:
    before = os.umask(0)
    try:
        with pspf.open(store_dir / "s") as store:
            store.append("t", b"v")
    finally:
        os.umask(before)
    for path in (store_dir / "s", *(store_dir / "s").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_shared_store_whose_settings_were_lost_is_still_shared(store_dir: Path) -> None:
    init_store(str(store_dir / "s"), shared=True).close()
    with pspf.open(store_dir / "s") as store:
        store.append("t", b"v")
    (store_dir / "s" / "store.toml").unlink()
    before = os.umask(0o022)
    try:
        with pspf.open(store_dir / "s") as store:
            store.append("u", b"v")
    finally:
        os.umask(before)
    assert wrong_modes(store_dir / "s") == {}


def test_a_group_that_does_not_exist_leaves_nothing_behind(pspf: Pspf) -> None:
    ran = pspf("init", "--shared=no-such-group-here", "S1")
    assert ran.returncode == 2
    error, hint = ran.stderr.decode().splitlines()
    assert error == "pspf: cannot share the store: no group is named 'no-such-group-here'"
    assert hint.startswith("hint: getent group")
    assert not (pspf.home / "S1").exists()
