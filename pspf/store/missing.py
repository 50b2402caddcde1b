"""The errors for what is not there, apart from the store: what goes well does not load them."""

from pspf import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.store.store import Store
    from pspf.store.topics import Topic

GONE = "the topic was deleted or renamed"


def no_such_topic(store: "Store", name: str) -> "errors.NoSuchTopic":
    """A topic that is not there."""
    hint = f"pspf topic create {name}, or list them with: pspf ls"
    return errors.NoSuchTopic(f"no topic '{name}'", f"in the store {store.path}", "", hint)


def no_such_partition(topic: "Topic", partition: int, reading: bool) -> "errors.NoSuchPartition":
    """A partition that is not there, with a hint for who appends or for who reads."""
    what = f"no partition {partition} in topic '{topic.name}'"
    why = f"it has {topic.config.partitions}, numbered from 0"
    hint = f"describe {topic.name}" if reading else f"add-partitions {topic.name} -n {partition + 1}"
    return errors.NoSuchPartition(what, why, "", f"pspf topic {hint}")


def no_topics(path: str, error: OSError) -> "errors.Error":
    """A store without its directory of topics."""
    topics = f"{path}/topics"
    if isinstance(error, FileNotFoundError):
        why = "its directory 'topics' is missing"
        return errors.Damaged(f"cannot open the store {path}", why, path, path=topics)
    return errors.from_os(error, "cannot open the store", topics)


def not_opened(store: "Store", topic: "Topic", path: str, error: "OSError | errors.Error") -> "errors.Error":
    """A partition that could not be opened for appending, perhaps because its topic went away."""
    what = f"cannot append to '{topic.name}'"
    if not store._lives(topic):
        store.forget(topic.name)
        return errors.TopicDeleted(what, GONE)
    return error if isinstance(error, errors.Error) else errors.from_os(error, what, path)


def gone(name: str) -> "errors.TopicDeleted":
    """A topic that went away from under a reader."""
    return errors.TopicDeleted(f"cannot read '{name}'", GONE)
