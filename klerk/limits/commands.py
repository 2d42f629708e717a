"""Bounds of commands, what they change, how that is stored and read, and of the open store."""

from typing import Final

# The commit queue. One caller with 1,000 commands in flight, or 1,000 asyncio tasks, must never wait for
# space; 10,000 waiting commands are about 5 MB and, at 100,000 commands/s, a tenth of a second of work.
QUEUE_LENGTH_MAX: Final = 10_000

# A group is processed and written while the writer holds the interpreter lock for stretches. 1,000
# deposits take about 2 ms to write (FACTS: 2 us a command), which is the longest a reader is held up.
GROUP_COMMANDS_MAX: Final = 1_000

# The bytes of one group: bounds the size of a write batch when single commands are large.
GROUP_BYTES_MAX: Final = 16 * 1024 * 1024

# How long changed models and jobs are collected before they are written behind the log, in seconds: what is
# changed again meanwhile is written once. It is also about how much of the log is read again after a crash.
CHECKPOINT_INTERVAL_S: Final = 1.0

# As many collected records are written at once: about 30 MB of memory.
CHECKPOINT_RECORDS_MAX: Final = 100_000

# Records in one write behind the log. 200 puts hold the interpreter lock for about a quarter of a
# millisecond.
CHECKPOINT_BATCH_RECORDS: Final = 200

# Groups between "written" and "published": one that syncs while the next is processed.
GROUPS_IN_FLIGHT_MAX: Final = 2

# Commands that one transaction may hold, with their secondary commands: a list of 100,000 rows is a
# plausible import; more belongs in several transactions, because everyone else waits meanwhile.
TRANSACTION_COMMANDS_MAX: Final = 100_000

# How deep secondary commands may cause secondary commands. A design that needs more is a loop.
SECONDARY_DEPTH_MAX: Final = 32

# One stored record (a model, a job, a log record) in bytes. RocksDB takes far more; blobs are for files.
RECORD_BYTES_MAX: Final = 4 * 1024 * 1024

# Problems listed in one error: enough for any form, and a list of 100,000 bad rows stays readable.
PROBLEMS_MAX: Final = 100

# The default length of a Text or Bytes value type that names no maximum, in characters or bytes.
TEXT_LENGTH_MAX: Final = 1_000_000
BYTES_LENGTH_MAX: Final = 1_000_000

# The elements of a tuple or frozenset field.
COLLECTION_LENGTH_MAX: Final = 100_000

# Nesting of types inside one field (tuple of struct of tuple ...), so that no check recurses without end.
TYPE_DEPTH_MAX: Final = 16

# Models on one page of a query, unless it says otherwise, and at most: what is read under the lock at once.
PAGE_LENGTH: Final = 50
PAGE_LENGTH_MAX: Final = 10_000

# Orders by fields that are kept because a query asked for them, the one used last the longest. Each holds
# about 80 bytes for every model of its state or class.
ORDERS_KEPT_MAX: Final = 64

# Snapshots open at once: reading an old one looks at what changed since each later one.
SNAPSHOTS_MAX: Final = 100

# How long the writer waits for readers before it logs who holds it up, in seconds.
READ_LOCK_WARN_S: Final = 5.0

# How long a used token is kept at least unless the app says otherwise, in days: a week covers whatever is
# sent again after a weekend without a network. Ten years are as good as for ever.
TOKEN_DAYS: Final = 7
TOKEN_DAYS_MAX: Final = 3_650

# Used tokens that are kept: 200 MB of memory, at about 200 bytes each. In a week, that is 1.6 a second.
TOKENS_MAX: Final = 1_000_000

# Expired tokens that are dropped with each new one: many more than come, so that they never pile up, and few
# enough that no command waits for them.
TOKENS_DROPPED_AT_ONCE: Final = 64

# Models that one token may demand to be unchanged, and the characters of its text: 100 take 2,600 at most.
TOKEN_DEMANDS_MAX: Final = 100
TOKEN_TEXT_LENGTH_MAX: Final = 4_096

# How long closing waits for running jobs before it asks them to stop, unless the app says otherwise and at
# most, in seconds. Service managers kill after 90 s; a day covers whoever waits for long jobs on purpose.
CLOSE_WAIT_S: Final = 10.0
CLOSE_WAIT_S_MAX: Final = 86_400.0

# What is left to such jobs for their clean-up, and then to processes that are killed, in seconds.
CLOSE_MARGIN_S: Final = 2.0

# A clock that was set forward is noticed after this many seconds at most.
CLOCK_CHECK_S: Final = 1.0

# The longest single wait, in seconds: about 30 years, which every platform's timer can count in microseconds.
WAIT_MAX_S: Final = 1e9

# Verifying a store in a child process before it is opened after a crash, in seconds: a damaged
# write-ahead log can make RocksDB spin for ever. The time grows with the log's size.
PROBE_BASE_S: Final = 30.0
PROBE_S_PER_GIB: Final = 60.0

# Progress is shown for whatever takes longer than this, in seconds.
PROGRESS_AFTER_S: Final = 1.0

# Migrations that a design may have: a stored model has 16 bits for the version that it was stored with.
SCHEMA_VERSION_MAX: Final = 2**16 - 1

# Models and jobs that a migration stores anew in one batch: about 200 KB of small models, so that writing is
# cheap, little is done again after a crash, and the line of progress moves.
MIGRATION_BATCH_RECORDS: Final = 1_000

# Characters of a name in a migration: an event's, which is two identifiers and a dot, is far below.
NAME_LENGTH_MAX: Final = 500

# The bytes of a JSON object that becomes a command: the longest record with every byte escaped: "\u00e9".
JSON_BYTES_MAX: Final = 6 * RECORD_BYTES_MAX
