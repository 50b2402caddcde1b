"""Every parser of foreign bytes is fed with damaged and forged input: the fuzzer is tests/support_fuzz.py.

:data:`PARSERS` has them all, and a test reads the source to find one that is missing. Only errors that are
documented may come, within bounds of memory and time, and what is accepted must be what the bytes say.

A failure names the parser, the seed and the input; :func:`replay` runs it again. Slower than others are
"argv" (what the fast parser takes, typer takes again) and "partition" (a whole log is read, verified, and
recovered now and then).
"""

import ast
import itertools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from pspf.format import zstd
from pspf.format.batch import header_fault
from pspf.format.columns import BadBody
from pspf.model import MAX_BATCH_BODY
from tests import support_fuzz_formats as formats
from tests.conftest import ROOT
from tests.soak import Slice
from tests.support_figures import Figure
from tests.support_fuzz import Parser, Tally, from_shown, fuzz, little_memory
from tests.support_fuzz_store import FILES_OF_A_STORE
from tests.support_fuzz_words import FOREIGN

FAST, MANY = 300, 20_000
PARSERS: dict[str, Parser] = {**formats.FORMATS, **FILES_OF_A_STORE, **FOREIGN}

# Functions that look like parsers and are not reached by PARSERS, and why not.
NOT_FUZZED = {
    "pspf/cli/app.py:run_typer": "hands a command line to typer, as the check of argv does",
    "pspf/cli/completions.py:bash": "makes text out of our own table",
    "pspf/cli/main.py:OwnModules.find_spec": "finds our own bytecode",
    "pspf/cli/main.py:OwnModules.exec_module": "reads our own bytecode",
    "pspf/disk/waiting.py:holder_of": "reads a table of the kernel",
    "pspf/errors.py:from_os": "takes an OSError",
    "pspf/log/recovery.py:Recovery._newest": "chooses a segment by its name; names and headers are fuzzed",
    "pspf/store/lifecycle.py:_flag_deleted": "looks at names",
    "pspf/store/lifecycle.py:_flag_partition": "finds slots with what commit and lock are fuzzed with",
    "pspf/store/lifecycle.py:alter_topic_from": "decodes as loading a topic does, to see if a file is whole",
    "pspf/store/lost.py:has_topics": "looks at names",
    "pspf/store/store.py:Store.alter_topic_from": "see the one of lifecycle",
    "pspf/wake/inotify.py:InotifyWaiter._take_events": "events are the kernel's",
    "pspf/wake/inotify.py:InotifyWaiter._wait": "waits",
}


def fuzz_all(seed: int, least: int, spent: Callable[[], bool] = lambda: True) -> dict[str, Tally]:
    """``least`` inputs for every parser in turn, and on like that until the time is spent."""
    tallies = {name: Tally() for name in PARSERS}
    for turn in itertools.count(seed * 1_000_003):
        for name, parser in PARSERS.items():
            fuzz(name, parser, turn, least, tallies[name])
        if spent():
            return tallies
    raise AssertionError


def replay(name: str, data: str, sealed: bool) -> bool:
    """Feed one input, as a failure has shown it, to its parser again."""
    return PARSERS[name].check(from_shown(data), sealed)


@pytest.mark.parametrize("name", PARSERS)
def test_changed_input_is_refused_by_name_or_read_right(name: str) -> None:
    tally = Tally()
    fuzz(name, PARSERS[name], 0, FAST, tally)
    assert 0 < tally.accepted < tally.inputs, "who takes everything, or nothing, proves nothing"


@pytest.mark.faults
def test_parsers_of_foreign_bytes(figure: Figure) -> None:
    tallies = fuzz_all(1, MANY)
    figure("parsers of foreign bytes", min(tally.inputs for tally in tallies.values()))


def soak(part: Slice) -> int:
    """The inputs that each parser got in half a minute."""
    until = time.monotonic() + 30
    tallies = fuzz_all(part.seed, 2_000, lambda: time.monotonic() > until)
    return min(tally.inputs for tally in tallies.values())


SOAK = {"parsers of foreign bytes": soak}


DEFECTS: list[tuple[str, bytes]] = [
    ("input", b'\x0a{"headers":[["' + b"x" * 65_536 + b'",null]],"value":""}\n'),
    ("configuration", b"store = " + b"9" * 5_000),
    ("configuration", b"store = " + b"[" * 5_000),
    ("configuration", b'store = "/s\\u0000"'),
    ("partitions", b"9" * 5_000),
    ("number of records", b"9" * 5_000),
    ("times", b"99999999999999w"),
]


@pytest.mark.parametrize("number", range(len(DEFECTS)))
def test_inputs_that_were_internal_errors_are_refused(number: int) -> None:
    name, data = DEFECTS[number]
    assert PARSERS[name].check(data, True) is False


# -- nothing is left out

LOOKS_LIKE = re.compile("_*(parse|decode|decompress|unpack|newest|from)(_|$)|_*loads?$|.*(_fault|_from)$")
TAKES_APART = frozenset(
    """unpack unpack_from from_bytes loads fromhex fromisoformat a2b_base64 decompress isdigit isdecimal
    int""".split()
)


def parsers_in_source() -> set[str]:
    """``file:function`` of every function of the package that is named like a parser or takes bytes apart."""
    found: set[str] = set()

    def visit(node: ast.AST, where: str, names: list[str]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.ClassDef):
                inner = [*names, child.name]
            elif isinstance(child, ast.FunctionDef):
                inner = [*names, child.name, "<locals>"]
                calls = [call.func for call in ast.walk(child) if isinstance(call, ast.Call)]
                called = {getattr(f, "attr", None) or getattr(f, "id", "") for f in calls}
                if LOOKS_LIKE.match(child.name) or called & TAKES_APART:
                    found.add(f"{where}:{'.'.join([*names, child.name])}")
            visit(child, where, inner)

    for folder in ("pspf", "cmds"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            # The link to cmds/, and what measures and tests: it reads what it wrote itself.
            if not where.startswith(("pspf/cmds/", "pspf/testing/", "pspf/bench/")):
                visit(ast.parse(path.read_bytes()), where, [])
    return found


def test_no_parser_of_the_package_is_left_out() -> None:
    """By what is executed, not by what the table says."""
    reached: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            reached.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    for name, parser in PARSERS.items():
        parser.corpus()  # made by the engine itself, which may read there what it likes
        sys.setprofile(note)
        try:
            fuzz(name, parser, 5, FAST, Tally())
        finally:
            sys.setprofile(None)
    names = {
        f"{Path(file).resolve().relative_to(ROOT)}:{name}"
        for file, name in reached
        if Path(file).resolve().is_relative_to(ROOT)
    }
    looking = parsers_in_source()
    assert len(looking) > 50
    assert looking - names - NOT_FUZZED.keys() == set(), "no parser of PARSERS reaches these"
    assert NOT_FUZZED.keys() & names == set() and NOT_FUZZED.keys() <= looking, "stale"


@pytest.mark.parametrize("said", [100, 1 << 20, MAX_BATCH_BODY, MAX_BATCH_BODY + 1])
def test_a_zstd_bomb_does_not_go_off(said: int) -> None:
    """A frame of some kilobytes that becomes 200 MiB; header and frame say what it is, or something else."""
    library = pytest.importorskip("zstandard")
    bomb = bytearray(library.ZstdCompressor(write_content_size=True).compress(bytes(200 << 20)))
    honest = bytes(bomb)
    assert library.frame_content_size(honest) == 200 << 20 and honest[4] >> 6 == 2
    lying = honest[:4] + honest[4:].replace((200 << 20).to_bytes(4, "little"), said.to_bytes(4, "little"), 1)
    assert library.frame_content_size(lying) == said
    for frame in (honest, lying):
        header = bytearray(formats.compressed_batches()[0][:104])
        header[36:40] = said.to_bytes(4, "little")
        batch = header + frame
        formats.seal_batch(batch)
        fault = header_fault(bytes(batch), 0, formats.SEGMENT_ID, formats.POSITION)
        assert (fault == "") == (said <= MAX_BATCH_BODY)
        with little_memory(), pytest.raises(BadBody):
            zstd.decompress(frame, min(said, MAX_BATCH_BODY))
