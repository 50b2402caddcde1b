"""The commands as a user meets them: what is printed where, exit codes, signals, terminals, closed pipes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pspf


def rows(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def on_terminal(
    pspf: Pspf, *words: str, typed: bytes = b"", env: dict[str, str | None] | None = None
) -> tuple[int, str]:
    """Run the command with a terminal as its standard input, output and error."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(pspf.home)
        os.execve(
            pspf.argv()[0], pspf.argv(*words), {**pspf.environment(env), "TERM": "xterm", "COLUMNS": "100"}
        )
    os.write(terminal, typed)
    seen = b""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not data:
            break
        seen += data
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode().replace("\r\n", "\n")


# -- messages


def test_success_is_silent_where_nobody_is_watching(pspf: Pspf) -> None:
    for words in (["append", "t"], ["topic", "create", "u"], ["topic", "rename", "u", "v"], ["verify"]):
        ran = pspf(*words, input=b"one\n")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b""), words
    ran = pspf("topic", "delete", "--yes", "v")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_verbose_says_what_was_created_and_where(pspf: Pspf) -> None:
    said = pspf("-v", "append", "t", input=b"one\ntwo\n").stderr.decode()
    assert f"created store {pspf.home}/.local/share/pspf\n" in said
    assert "created topic t\n" in said
    assert "appended 2 records to t\n" in said
    assert "created" not in pspf("-v", "append", "t", input=b"three\n").stderr.decode()


def test_on_a_terminal_append_says_that_it_reads_and_how_to_end(pspf: Pspf) -> None:
    code, seen = on_terminal(pspf, "append", "t", typed=b"hello\n\x04")
    assert code == 0
    assert "reading records for t from this terminal; Ctrl-D" in seen
    assert "created store " in seen
    assert "appended 1 record to t" in seen
    assert pspf("cat", "t").stdout == b"hello\n"


def test_quiet_is_silent_on_a_terminal(pspf: Pspf) -> None:
    code, seen = on_terminal(pspf, "-q", "append", "t", typed=b"hello\n\x04")
    assert code == 0
    assert "pspf:" not in seen


def test_errors_are_said_even_when_quiet(pspf: Pspf) -> None:
    assert pspf("-q", "cat", "t").stderr.startswith(b"pspf: no store in ")


def test_unexpected_defect_is_one_line_with_exit_70_and_a_traceback_on_request(
    pspf: Pspf, scratch_dir: Path
) -> None:
    # A defect put into a library that the command loads.
    package = scratch_dir / "broken"
    package.mkdir()
    (package / "orjson.py").write_text("def dumps(*_, **__):\n    raise KeyError('x')\n")
    pspf("append", "t")
    ran = pspf("ls", "--json", env={"PYTHONPATH": str(package)})
    assert ran.returncode == 70
    assert ran.stderr.splitlines()[0].startswith(b"pspf: internal error: KeyError: 'x' (orjson.py:2)")
    assert b"PSPF_DEBUG=1" in ran.stderr.splitlines()[1]
    assert b"Traceback" not in ran.stderr
    assert b"Traceback" in pspf("ls", "--json", env={"PYTHONPATH": str(package), "PSPF_DEBUG": "1"}).stderr


# -- input that is not right


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["cat", "t"], 66, b"no store in "),
        (["ls"], 66, b"no store in "),
        (["append", "--no-create", "t"], 66, b"no store in "),
        (["append", "t", "no-such-file"], 66, b"cannot read no-such-file: no such file"),
        (["append", "t", "."], 2, b"cannot read .: it is a directory"),
        (["append", "a/b"], 2, b"bad topic name"),
        (["append", ""], 2, b"bad topic name"),
        (["append", "a\nb"], 2, b"bad topic name"),
        (["append", "x" * 201], 2, b"bad topic name"),
        (["cat", ".."], 66, b"no store in "),
    ],
)
def test_wrong_words_are_told_in_one_line(pspf: Pspf, words: list[str], code: int, said: bytes) -> None:
    ran = pspf(*words)
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.startswith(b"pspf: " + said)
    assert ran.stderr.count(b"\n") <= 2


def test_a_missing_input_file_is_found_before_anything_is_appended_or_created(pspf: Pspf) -> None:
    (pspf.home / "there").write_text("x\n")
    assert pspf("append", "t", "there", "not-there").returncode == 66
    assert {path.name for path in pspf.home.iterdir()} == {"there"}


def test_an_empty_store_option_does_not_mean_the_default_store(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    for words in (["-s", "", "cat", "t"], ["append", "t", "--store="]):
        ran = pspf(*words, input=b"y\n")
        assert ran.returncode == 2
        assert b"--store names no directory" in ran.stderr


def test_skipped_input_is_counted_and_exits_1(pspf: Pspf) -> None:
    ran = pspf("append", "t", "--json", "--skip-invalid", input=b'{"value":"a"}\nnonsense\n{"value":"b"}\n')
    assert ran.returncode == 1
    assert ran.stderr == b"pspf: skipped 1 malformed record, appended 2; the first: standard input, line 2\n"
    assert pspf("cat", "t").stdout == b"a\nb\n"


def test_ls_shows_the_others_when_one_topic_is_missing(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    ran = pspf("ls", "--json", "missing", "t")
    assert ran.returncode == 66
    assert [row["topic"] for row in rows(ran.stdout)] == ["t"]
    assert b"missing" in ran.stderr


# -- append options reach the records


def test_append_options_reach_the_records(pspf: Pspf) -> None:
    pspf("topic", "create", "-n", "2", "t")
    ran = pspf(
        *(
            "append",
            "t",
            "-0",
            "-K",
            "\\x3d",
            "-Z",
            "-H",
            "a=1",
            "-H",
            "b=x=y",
            "-p",
            "1",
            "--timestamp",
            "12345",
            "--ack",
        ),
        input=b"k=v\0q=\0",
    )
    assert rows(ran.stdout) == [{"topic": "t", "partition": 1, "first": 0, "last": 1, "durability": "sync"}]
    headers = [["a", "1"], ["b", "x=y"]]
    assert rows(pspf("cat", "t", "--json").stdout) == [
        {
            "topic": "t",
            "partition": 1,
            "offset": 0,
            "timestamp": 12345,
            "key": "k",
            "value": "v",
            "headers": headers,
        },
        {
            "topic": "t",
            "partition": 1,
            "offset": 1,
            "timestamp": 12345,
            "key": "q",
            "value": None,
            "headers": headers,
        },
    ]


def test_whole_files_become_records_in_order(pspf: Pspf) -> None:
    (pspf.home / "a").write_bytes(b"one\ntwo\n")
    (pspf.home / "b").write_bytes(b"")
    assert pspf("append", "t", "-w", "a", "b", "-", input=b"three").returncode == 0
    assert pspf("cat", "-0", "t").stdout == b"one\ntwo\n\0\0three\0"


def test_copy_through_json_keeps_everything(pspf: Pspf) -> None:
    pspf("topic", "create", "-n", "3", "t")
    pspf("append", "t", "-K", ":", "-H", "h=1", input=b"a:1\nb:2\nc:3\na:\n")
    pspf("-s", "copy", "topic", "create", "-n", "3", "t")
    copied = pspf(
        "-s", "copy", "append", "t", "--json", "--preserve", input=pspf("cat", "t", "--json").stdout
    )
    assert copied.returncode == 0, copied.stderr
    assert pspf("-s", "copy", "cat", "t", "--json").stdout == pspf("cat", "t", "--json").stdout


def test_expect_offset_exits_1_when_somebody_was_faster(pspf: Pspf) -> None:
    assert pspf("append", "t", "--expect-offset", "0", input=b"a\n").returncode == 0
    assert pspf("append", "t", "--expect-offset", "0", input=b"b\n").returncode == 1
    assert pspf("cat", "t").stdout == b"a\n"


# -- selecting and printing


def test_options_of_cat_and_tail_select_and_print(pspf: Pspf) -> None:
    pspf("append", "t", "-K", ":", input=b"a:1\nb:2\na:3\nb:4\n")
    assert pspf("cat", "t", "-o", "1:3").stdout == b"2\n3\n"
    assert pspf("cat", "t", "-o", "-1").stdout == b"4\n"
    assert pspf("cat", "t", "--key", "a", "-K", "=").stdout == b"a=1\na=3\n"
    assert pspf("cat", "t", "-c", "2", "-D", ";").stdout == b"1;2;"
    assert pspf("cat", "t", "-c", "1", "--format", "%t/%p/%o %k=%s\\n").stdout == b"t/0/0 a=1\n"
    assert pspf("cat", "t", "--since", "1h").stdout == b"1\n2\n3\n4\n"
    assert pspf("cat", "t", "--until", "1h").stdout == b""
    assert pspf("tail", "t", "-n", "1").stdout == b"4\n"
    assert pspf("tail", "t", "-n", "-1").stdout == b"4\n"
    assert pspf("tail", "t", "-n", "+3").stdout == b"3\n4\n"
    assert pspf("tail", "t", "-n", "0").stdout == b""
    assert pspf("tail", "t", "-o", "2").stdout == b"3\n4\n"


def test_control_bytes_are_escaped_on_a_terminal_unless_raw(pspf: Pspf) -> None:
    pspf("append", "t", input=b"\x1b[31mred\n")
    assert pspf("cat", "t").stdout == b"\x1b[31mred\n"
    assert "\x1b[31m" not in on_terminal(pspf, "cat", "t")[1]
    assert "\x1b[31m" in on_terminal(pspf, "cat", "t", "--raw")[1]


def test_tables_are_exact_in_a_pipe_and_round_on_a_terminal(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x" * 10_000 + b"\n")
    header, line = pspf("ls").stdout.decode().splitlines()
    assert header.split() == ["TOPIC", "PARTITIONS", "RECORDS", "BYTES", "FIRST", "LAST"]
    assert int(line.split()[3]) > 10_000
    seen = on_terminal(pspf, "ls")[1]
    assert " KiB" in seen and "\x1b[1m" in seen
    assert "\x1b" not in on_terminal(pspf, "ls", env={"NO_COLOR": "1"})[1]
    assert "\x1b" not in on_terminal(pspf, "ls", "--color", "never")[1]


REPORTS: dict[str, set[str]] = {
    "ls": {"topic", "partitions", "records", "bytes", "first_ms", "last_ms"},
    "du": {"topic", "partition", "log_bytes", "index_bytes", "other_bytes", "allocated_bytes", "segments"},
    "topic describe t": {"topic", "topic_id", "created_ms", "settings", "partitions"},
    "verify": {"type", "ok", "partitions", "segments", "batches", "records", "bytes", "findings"},
    "config": {"name", "value", "origin"},
    "version": {"version", "python", "system", "isal", "zstandard"},
    "cat t": {"topic", "partition", "offset", "timestamp", "key", "value", "headers"},
}


@pytest.mark.parametrize("line", REPORTS)
def test_json_keys_of_a_report_stay(pspf: Pspf, line: str) -> None:
    pspf("append", "t", input=b"x\n")
    ran = pspf(*line.split(), "--json")
    assert ran.returncode == 0
    found = rows(ran.stdout)
    assert found
    for row in found:
        assert set(row) == REPORTS[line]


def test_inspect_shows_header_and_batches(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    found = rows(pspf("inspect", "t", "--json").stdout)
    assert [row["type"] for row in found][:2] == ["segment", "batch"]
    plain = pspf("inspect", "t").stdout.splitlines()
    assert len(plain) == len(found)
    assert b"first_offset=0" in plain[1]


def test_verify_names_damage_and_exits_65(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x" * 1000 + b"\n")
    (segment,) = pspf.home.glob(".local/share/pspf/topics/t/0/*.log")
    data = bytearray(segment.read_bytes())
    data[4096 + 500] ^= 1
    segment.write_bytes(data)
    ran = pspf("verify")
    assert ran.returncode == 65
    assert ran.stdout.startswith(b"damage: t/0: ")
    assert str(segment).encode() in ran.stdout
    found = rows(pspf("verify", "--json").stdout)
    assert (
        found[0]["type"] == "finding" and found[0]["severity"] == "damage" and found[0]["first_offset"] == 0
    )
    assert found[-1]["type"] == "summary" and found[-1]["ok"] is False
    assert pspf("cat", "t").returncode == 65
    assert pspf("cat", "t", "--skip-damaged").returncode == 65


# -- topics


def test_settings_given_at_creation_and_changed_later_are_shown(pspf: Pspf) -> None:
    pspf(
        "topic", "create", "t", "-n", "2", "--durability", "os", "--segment-bytes", "1MiB", "--no-preallocate"
    )
    (shown,) = rows(pspf("topic", "describe", "t", "--json").stdout)
    assert len(shown["partitions"]) == 2
    assert shown["settings"]["durability"] == "os"
    assert shown["settings"]["segment_bytes"] == 1 << 20
    assert shown["settings"]["preallocate"] is False
    assert pspf("topic", "alter", "t", "--durability", "interval", "--interval-ms", "50").returncode == 0
    (shown,) = rows(pspf("topic", "describe", "t", "--json").stdout)
    assert (shown["settings"]["durability"], shown["settings"]["interval_ms"]) == ("interval", 50)
    assert shown["settings"]["segment_bytes"] == 1 << 20
    assert pspf("topic", "add-partitions", "t", "-n", "5").returncode == 0
    assert b"partitions: 5\n" in pspf("topic", "describe", "t").stdout


def test_a_topic_that_exists_is_not_created_again(pspf: Pspf) -> None:
    assert pspf("topic", "create", "t").returncode == 0
    assert pspf("topic", "create", "t").returncode == 73


def test_delete_needs_yes_where_nobody_can_be_asked(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    ran = pspf("topic", "delete", "t", input=b"y\n")
    assert ran.returncode == 2
    assert b"hint: pspf topic delete --yes t" in ran.stderr
    ran = pspf("topic", "delete", "--dry-run", "t")
    assert ran.stdout.startswith(b"would delete topic t: up to 1 record, ")
    assert pspf("cat", "t").stdout == b"x\n"
    assert pspf("topic", "delete", "--yes", "t").returncode == 0
    assert pspf("cat", "t").returncode == 66


def test_delete_asks_on_a_terminal_and_no_is_the_default(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    code, seen = on_terminal(pspf, "topic", "delete", "t", typed=b"\n")
    assert code == 1
    assert "delete topic t (up to 1 record" in seen
    assert pspf("cat", "t").stdout == b"x\n"
    assert on_terminal(pspf, "topic", "delete", "t", typed=b"y\n")[0] == 0
    assert pspf("cat", "t").returncode == 66


# -- the store


def test_init_prints_the_line_that_a_shell_evaluates(pspf: Pspf) -> None:
    ran = subprocess.run(
        ["sh", "-c", 'eval "$(pspf init "an odd place")"; echo x | pspf append t; cd /; pspf cat t'],
        cwd=pspf.home,
        env=pspf.environment(),
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b"x\n"
    assert (pspf.home / "an odd place" / "store.toml").exists()
    assert pspf("init", "an odd place").returncode == 73


def test_init_shared_with_and_without_a_group(pspf: Pspf) -> None:
    assert pspf("init", "--shared", "a").returncode == 0
    assert (pspf.home / "a").stat().st_mode & 0o777 == 0o770
    assert pspf("init", "--shared=no-such-group-here", "b").returncode == 2


def test_store_is_taken_from_option_then_environment_then_configuration(pspf: Pspf) -> None:
    (pspf.home / ".config/pspf").mkdir(parents=True)
    (pspf.home / ".config/pspf/config.toml").write_text(f'store = "{pspf.home}/by-file"\n')

    def origin(*words: str, env: dict[str, str | None] | None = None) -> tuple[str, str]:
        found = {row["name"]: row for row in rows(pspf("config", "--json", *words, env=env).stdout)}
        return Path(found["store"]["value"]).name, found["store"]["origin"]

    assert origin() == ("by-file", f"{pspf.home}/.config/pspf/config.toml")
    assert origin(env={"PSPF_STORE": "/x/by-variable"}) == ("by-variable", "PSPF_STORE")
    assert origin("-s", "/x/by-option", env={"PSPF_STORE": "/x/v"}) == ("by-option", "option --store")
    pspf("append", "t", input=b"x\n")
    assert (pspf.home / "by-file" / "store.toml").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("store = " + "[" * 5_000, "nested too deeply"),
        ("store = " + "9" * 5_000, "a number in it has too many digits"),
        ('store = "/tmp/a\\u0000b"', "NUL"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_no_internal_error(pspf: Pspf, text: str, why: str) -> None:
    file = pspf.home / ".config/pspf/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    ran = pspf("ls")
    assert ran.returncode == 78 and why in ran.stderr.decode() and str(file) in ran.stderr.decode()
    assert ran.stderr.count(b"\n") == 2 and b"hint: " in ran.stderr


def test_no_home_and_no_store_named_exits_78(pspf: Pspf) -> None:
    assert pspf("ls", env={"HOME": None}).returncode == 78


# -- signals and descriptors


def started(pspf: Pspf, *words: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        pspf.argv(*words),
        env=pspf.environment(),
        cwd=pspf.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_append_makes_complete_lines_durable_and_names_the_rest(pspf: Pspf, number: int) -> None:
    process = started(pspf, "append", "--ack", "t")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(b"one\ntwo\nunfin")
    process.stdin.flush()
    assert rows(process.stdout.readline())[0]["last"] == 1
    process.send_signal(number)
    assert process.wait(30) == -number
    assert (
        process.stderr.read() == b"pspf: stopped: 2 records appended; an unfinished one of 5 bytes was not\n"
    )
    assert pspf("cat", "t").stdout == b"one\ntwo\n"


def test_a_shell_loop_ends_with_the_command_that_was_interrupted(pspf: Pspf) -> None:
    # Ctrl-C reaches the shell and the command; the shell goes on if the command seems to have dealt with it.
    script = "while :; do echo go; pspf append t <fifo; done"
    os.mkfifo(pspf.home / "fifo")
    writer = os.open(pspf.home / "fifo", os.O_RDWR)
    loop = subprocess.Popen(
        ["bash", "-c", script],
        env=pspf.environment(),
        cwd=pspf.home,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert loop.stdout is not None
    assert loop.stdout.readline() == b"go\n"
    time.sleep(1)
    os.killpg(loop.pid, signal.SIGINT)
    assert loop.wait(30) == -signal.SIGINT
    os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_follower_without_a_word(pspf: Pspf, number: int) -> None:
    pspf("append", "t", input=b"one\n")
    process = started(pspf, "tail", "-f", "t")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"one\n"
    process.send_signal(number)
    assert process.wait(30) == -number
    assert process.stderr.read() == b""


def test_a_reader_that_goes_away_ends_cat_silently(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x" * 999 + b"\n" + b"0123456789\n" * 200_000)
    ran = subprocess.run(
        ["bash", "-c", "pspf cat t | head -c 10; echo ${PIPESTATUS[0]}"],
        env=pspf.environment(),
        cwd=pspf.home,
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b"x" * 10 + b"141\n"
    assert ran.stderr == b""


def test_a_full_disk_behind_standard_output_is_an_error(pspf: Pspf) -> None:
    pspf("append", "t", input=b"x\n")
    for line in ("cat t", "ls", "ls --json", "config", "help", "version"):
        ran = subprocess.run(
            ["sh", "-c", f"pspf {line} >/dev/full"],
            env=pspf.environment(),
            cwd=pspf.home,
            capture_output=True,
            check=False,
        )
        assert ran.returncode == 74, line
        assert ran.stderr.startswith(b"pspf: cannot write "), ran.stderr


def test_closed_descriptors_are_never_taken_for_the_log(pspf: Pspf) -> None:
    def shell(line: str) -> int:
        return subprocess.run(
            ["sh", "-c", line], env=pspf.environment(), cwd=pspf.home, check=False
        ).returncode

    assert shell("echo one | pspf -v append t 2>&-") == 0
    assert shell("echo two | pspf -v append t >&- 2>&-") == 0
    assert shell("pspf -v append t <&- 2>&-") == 74
    assert shell("echo three | pspf append --ack t >&- 2>&-") == 74
    assert shell("pspf cat t >&- 2>&-") == 74
    ran = pspf("cat", "t")
    assert (ran.returncode, ran.stdout) == (0, b"one\ntwo\nthree\n")
    assert pspf("verify").returncode == 0
