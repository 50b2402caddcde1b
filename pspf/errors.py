"""Every error that PSPF reports, each with its exit code.

An error is one line, ``WHAT: WHY (WHERE)``, and at most one hint: the command that helps. The class says
what kind of failure it is and which code the command exits with; the message is made where the facts are
known. Nothing here imports anything, since the append path loads it.
"""


class Error(Exception):
    """Base of all errors of PSPF.

    :param what: the thing that failed, in the user's words (``cannot append to 'orders'``).
    :param why: the cause.
    :param where: file, offset, or line; empty when ``what`` already says it.
    :param hint: a command, or a short sentence that names one.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", where: str = "", hint: str = "") -> None:
        self.what = what
        self.why = why
        self.where = where
        self.hint = hint
        super().__init__(what, why, where, hint)

    def __str__(self) -> str:
        line = self.what
        if self.why:
            line += ": " + self.why
        if self.where:
            line += f" ({self.where})"
        return line


class Usage(Error):
    """The call is wrong: an unknown option, a bad name, a selection that means nothing."""

    exit_code = 2


class BadName(Usage):
    """A topic, group or producer name that could not be a file name everywhere."""


class Malformed(Error):
    """Input that is not what it was said to be: a broken envelope, a line without its key separator."""

    exit_code = 65


class RecordTooLarge(Malformed):
    """A record above the topic's ``max_record_bytes``."""


class Damaged(Error):
    """Stored bytes that fail their check, or acknowledged bytes that are gone.

    ``path``, ``position`` (byte in the file, -1 unknown), ``offset`` (first record offset affected, -1
    unknown) and ``resume_offset`` (first offset behind the damage, -1 unknown; the same
    as ``offset`` where no record is missing) let a caller step over it.
    """

    exit_code = 65

    def __init__(
        self,
        what: str,
        why: str = "",
        where: str = "",
        hint: str = "",
        *,
        path: str = "",
        position: int = -1,
        offset: int = -1,
        resume_offset: int = -1,
    ) -> None:
        super().__init__(what, why, where, hint)
        self.path = path
        self.position = position
        self.offset = offset
        self.resume_offset = resume_offset


class NoSuchStore(Error):
    """No store in that directory."""

    exit_code = 66


class NoSuchTopic(Error):
    """The store has no topic of that name."""

    exit_code = 66


class TopicDeleted(NoSuchTopic):
    """The topic was deleted while it was being used."""


class NoSuchPartition(Error):
    """The topic has fewer partitions than that."""

    exit_code = 66


class Exists(Error):
    """A store or topic of that name is already there."""

    exit_code = 73


class IOFailed(Error):
    """The operating system refused a call: full disk, I/O error, too many open files.

    The log is as it was before the call unless the message says otherwise.
    """

    exit_code = 74


class TooManyFiles(IOFailed):
    """The process has as many files open as it may."""


class OutcomeUnknown(IOFailed):
    """Whether the records are stored is not known: written, but not shown to be on stable storage.

    Repeat them through a producer, or look whether they are there.
    """


class Poisoned(IOFailed):
    """An earlier sync failed; the partition takes no appends until it is opened again."""


class UseAfterFork(IOFailed):
    """A handle that the parent process opened was used in a forked child."""


class Closed(IOFailed):
    """The store or writer was closed."""


class Busy(Error):
    """Somebody else holds what this call was told not to wait for."""

    exit_code = 75


class Denied(Error):
    """Permission refused by the file system."""

    exit_code = 77


class BadConfig(Error):
    """A setting, or the surroundings (no HOME, a network file system), that PSPF cannot work with."""

    exit_code = 78


class NewerFormat(BadConfig):
    """Written by a later version of PSPF; refused rather than guessed at."""


class OffsetConflict(Error):
    """``expect_offset`` does not match the end of the partition: somebody appended meanwhile."""

    exit_code = 1


class ProducerConflict(Error):
    """A producer's input or sequence does not continue what it appended before."""

    exit_code = 65


class RecordsTakenBack(Error):
    """Visible records of a topic that is not ``sync`` were cut by a crash; the reader had passed the cut.

    ``offset`` is the new end, from which reading can go on.
    """

    exit_code = 65

    def __init__(
        self, what: str, why: str = "", where: str = "", hint: str = "", *, offset: int = -1
    ) -> None:
        super().__init__(what, why, where, hint)
        self.offset = offset


def from_os(error: OSError, what: str, where: str = "") -> Error:
    """The error of PSPF for an error of the operating system.

    :param what: what was being done, in the user's words.
    :param where: the file, when ``error`` does not name one.
    """
    import errno

    place = where or (error.filename if isinstance(error.filename, str) else "")
    why = error.strerror or str(error)
    number = error.errno
    if number in (errno.EACCES, errno.EPERM):
        from os import geteuid, stat

        owner = ""
        for path in (place, place.rpartition("/")[0]):
            try:
                owner = f", owner uid {stat(path).st_uid}" if path else ""
                break
            except OSError:
                continue
        return Denied(what, f"{why.lower()} for uid {geteuid()}{owner}", place)
    if number == errno.EROFS:
        return IOFailed(what, "the file system is read-only", place)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "the disk quota is used up"}.get(
            number or 0, "a file would grow past the allowed size"
        )
        return IOFailed(
            what, why, place, "free some space and run it again; nothing that was acknowledged is lost"
        )
    if number in (errno.EMFILE, errno.ENFILE):
        from os import sysconf

        limit = max(4 * sysconf("SC_OPEN_MAX"), 4096)
        return TooManyFiles(what, "too many open files", place, f"raise the limit with: ulimit -n {limit}")
    return IOFailed(what, why[:1].lower() + why[1:], place)
