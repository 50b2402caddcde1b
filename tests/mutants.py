"""The table of the mutation gate: every durability step of the engine, and the test that must notice."""

from tests.mutants_log import LOG
from tests.mutants_store import STORE

MUTANTS = [*LOG, *STORE]
