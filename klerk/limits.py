"""Every bound in Klerk, with its unit in the name and the reason for the number.

Nothing in Klerk grows without a limit. A bound that a user may want to move is a parameter of
`App.open`; the value here is its default.
"""

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

# How long the writer waits for readers before it logs who holds it up, in seconds.
READ_LOCK_WARN_S: Final = 5.0

# Jobs: threads for plain functions, and coroutines running at once on the jobs' event loop.
JOB_THREADS: Final = 4
JOB_THREADS_MAX: Final = 256
JOB_COROUTINES_MAX: Final = 100

# Attempts of a job unless it says otherwise, and the delay between them: 1 s doubled each time, at most an
# hour.
JOB_ATTEMPTS_MAX: Final = 10
JOB_BACKOFF_BASE_S: Final = 1.0
JOB_BACKOFF_MAX_S: Final = 3600.0

# Lines and characters of a job's own log that are kept with it.
JOB_LOG_LINES_MAX: Final = 100
JOB_LOG_LINE_LENGTH_MAX: Final = 1_000

# Characters of an error that are kept with a job or a log record.
ERROR_LENGTH_MAX: Final = 2_000

# Jobs that one transaction may create.
TRANSACTION_JOBS_MAX: Final = 100_000

# Unmanaged calls that wait to be run; more are refused and logged, since nothing promises that they run.
UNMANAGED_QUEUE_LENGTH_MAX: Final = 10_000

# How long after entering a state a timer may be due: a thousand years, where 64-bit microseconds are far from
# their end.
TIMER_DELAY_DAYS_MAX: Final = 365_250

# Timers fired in one go after a long stop, so that commands get their turn in between.
TIMERS_FIRED_AT_ONCE_MAX: Final = 500

# How long closing waits for running jobs before it leaves them to the next start, in seconds.
CLOSE_WAIT_S: Final = 10.0

# What is left to cancelled jobs for their clean-up once that time is over, in seconds.
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

# Entries of the commit log in one page unless it is asked for more or fewer, and at most: 1,000 transactions
# are 1 MB or so, and reading them from as many log records takes about a second.
LOG_PAGE: Final = 50
LOG_PAGE_MAX: Final = 1_000
