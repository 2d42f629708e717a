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

# Jobs: threads for plain functions, and coroutines running at once on the jobs' event loop.
JOB_THREADS: Final = 4
JOB_THREADS_MAX: Final = 256
JOB_COROUTINES_MAX: Final = 100
JOB_COROUTINES_LIMIT: Final = 100_000

# Worker processes of jobs, unless there are fewer processors: each costs the memory of an interpreter.
JOB_PROCESSES: Final = 4
JOB_PROCESSES_MAX: Final = 256

# How long a worker process may take to import the main script, in seconds: large libraries take 20.
WORKER_START_S: Final = 120.0

# What a worker process that was sent SIGTERM gets to clean up before SIGKILL, in seconds: less than closing
# waits for that.
WORKER_KILL_GRACE_S: Final = 1.0

# How long a message to a worker process waits for one before it, in seconds. A process that reads nothing
# for so long does not heed this one either.
WORKER_NOTICE_S: Final = 0.2

# What a job that was asked to stop gets before its process is killed, or, where there is none to kill, a
# warning says that it goes on, in seconds.
JOB_STOP_GRACE_S: Final = 5.0

# Attempts of a job unless it says otherwise, and the delay between them: 1 s doubled each time, at most an
# hour.
JOB_ATTEMPTS_MAX: Final = 10
JOB_ATTEMPTS_LIMIT: Final = 1_000
JOB_CRASHES_MAX: Final = 3
JOB_BACKOFF_BASE_S: Final = 1.0
JOB_BACKOFF_MAX_S: Final = 3600.0

# Completions that one transaction records, in a few milliseconds, and seconds until one that failed is tried.
JOB_COMPLETIONS_AT_ONCE: Final = 1_000
JOB_COMPLETIONS_RETRY_S: Final = 1.0

# Running jobs that are marked, so that they are known should the process die: more than the threads and
# coroutines that there are at most, and with the head of the file one page of memory.
JOBS_MARKED_MAX: Final = 509

# Jobs at once that were running when the process died before. It may die again, and then all that run are
# blamed: with one at a time, those that only happened to be there are not blamed together with the guilty.
JOB_SUSPECTS_MAX: Final = 1

# Tokens of ended jobs that are dropped with one group of commands: about 5 ms of work, for the few jobs that
# handle so many.
JOB_TOKENS_DROPPED_AT_ONCE: Final = 10_000

# Jobs that a reason why another one waits names: enough to look at some.
JOB_REASON_NAMES_MAX: Final = 5

# Characters of the name of a step of a job: room for what it is about, as in "invoice 2024-05 of 4711".
JOB_STEP_LENGTH_MAX: Final = 500

# Jobs of a queue, a kind or a key at once: far more than there are workers. Priorities and weights are only
# compared, so their range has to be just wide enough to tell apart what people name.
JOB_CONCURRENCY_MAX: Final = 100_000
JOB_PRIORITY_MAX: Final = 1_000
QUEUE_WEIGHT_MAX: Final = 1_000

# Jobs that are gone keep their places in a line until they are half of it, and so many at least.
JOB_LINE_GONE_MIN: Final = 64

# Limits of keys that are forgotten with each new one once they have nothing to remember: more than come, so
# that they never pile up.
JOB_KEYS_FORGOTTEN_AT_ONCE: Final = 2

# Levels of rates that are kept from one run to the next: 1 MB at most. Most are of keys.
JOB_LEVELS_KEPT_MAX: Final = 10_000

# Versions of a job's parameters, each with its own upcaster.
JOB_VERSION_MAX: Final = 10_000

# For how long a job can be unique whatever becomes of it: it has to be remembered meanwhile.
JOB_UNIQUE_DAYS_MAX: Final = 366

# Unique jobs whose time is over that are dropped with each new one: many more than come, so that they never
# pile up, and few enough that no command waits for them.
JOB_UNIQUE_DROPPED_AT_ONCE: Final = 64

# Jobs that one job can follow: their ids are stored with it. More of them are members of a batch.
JOB_FOLLOWS_MAX: Final = 1_000

# Jobs that one transaction cancels because what they follow ended badly, so that commands get their turn in
# between; and how long these wait after the context provider failed, in seconds.
JOB_CASCADE_JOBS: Final = 500
JOB_CASCADE_RETRY_S: Final = 1.0

# Jobs named when it is asked what a job waits for.
JOB_WAITS_SHOWN_MAX: Final = 20

# How far ahead a job can be scheduled or put off: a thousand years, as for timers.
JOB_DELAY_DAYS_MAX: Final = 365_250

# Jobs in one page read from the store: some 10 ms of reading, after which others get their turn.
JOBS_PAGE: Final = 1_000

# Jobs that wait for a time in memory, the soonest first; the others are on disk alone. At 20,000 jobs/s, half
# of these last while a page of the next is read ten times over; they take about 10 MB.
JOBS_AT_HAND_MAX: Final = 10_000

# How long jobs are kept after their end unless the app says otherwise, in days. A week of those that went
# well answers what happened last weekend; those that failed for good wait for somebody to look at them, and
# for the end of a quarter.
JOBS_COMPLETED_DAYS: Final = 7
JOBS_CANCELLED_DAYS: Final = 7
JOBS_DISCARDED_DAYS: Final = 90

# Ended jobs that are kept at most unless the app says otherwise: about 300 MB of disk. When there are more, a
# twentieth more than that goes at once, so that the oldest are not looked for again and again.
JOBS_ENDED_MAX: Final = 1_000_000
JOBS_PRUNED_BEYOND_SHARE: Final = 20

# Ended jobs removed in one go, after which what was published meanwhile is written: about 0.2 s of work, and
# as many as can come in a second.
JOBS_PRUNED_AT_ONCE: Final = 20_000

# The bytes of a result that is kept, encoded: as of a key-value. More belongs in a blob.
JOB_RESULT_BYTES_MAX: Final = 128 * 1024

# How long the jobs after those in memory wait to be read again, after reading them failed, in seconds.
JOBS_READ_AGAIN_S: Final = 10.0

# Characters of a job's key, of a queue's name and of a tag: all of them stand in listings.
JOB_KEY_LENGTH_MAX: Final = 500
JOB_NAME_LENGTH_MAX: Final = 100

# Lines and characters of a job's own log that are kept with it.
JOB_LOG_LINES_MAX: Final = 100
JOB_LOG_LINE_LENGTH_MAX: Final = 1_000

# Characters of an error that are kept with a job or a log record.
ERROR_LENGTH_MAX: Final = 2_000

# How long an action on a job waits for another one, or for the end of an attempt, to be published; and jobs
# that one transaction of an action on many changes: about as many as a group has commands.
JOB_ACTION_WAIT_S: Final = 10.0
JOB_ACTION_JOBS_MAX: Final = 1_000

# Jobs in one page of a query unless it is asked for more or fewer, and at most; and at how many it looks to
# find them, some 20 ms of reading.
JOB_QUERY: Final = 50
JOB_QUERY_MAX: Final = 1_000
JOB_QUERY_LOOKS_MAX: Final = 5_000

# Jobs that one transaction may create.
TRANSACTION_JOBS_MAX: Final = 100_000

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

# The state that a job saves with a checkpoint, in bytes: as much as one write may take without holding the
# interpreter lock for more than a quarter of a millisecond. It is stored anew whenever the job is.
JOB_STATE_BYTES_MAX: Final = 128 * 1024

# The numbers of a job's progress: what 64 bits with a sign hold.
JOB_PROGRESS_MAX: Final = 2**63 - 1

# A job that holds the read lock for longer is warned about, in seconds: nobody's command is acknowledged
# meanwhile, and a second is what people notice. The writer itself warns later, of whoever reads.
JOB_READ_WARN_S: Final = 1.0

# Missed times of a cron job, the newest, that get a job each if it asks for that: six weeks of an hourly one.
JOBS_MISSED_MAX: Final = 1_000

# A cron job that comes later than this after its time, in seconds, because the machine slept or the clock was
# set, was missed: within a minute, no other time could have been meant.
CRON_LATE_S: Final = 60.0

# After a cron job could not be created, because a context provider or a key function failed, it is tried
# again so many seconds later: the shortest time between two ticks of most expressions.
CRON_RETRY_S: Final = 60.0

# A cron job that ran for times so many seconds ahead of the clock is warned about at the start: by more than
# a clock is set back to correct it.
CRON_AHEAD_S: Final = 86_400.0

# Unmanaged calls that wait to be run; more are refused and logged, since nothing promises that they run.
UNMANAGED_QUEUE_LENGTH_MAX: Final = 10_000

# How long after entering a state a timer may be due: a thousand years, where 64-bit microseconds are far from
# their end.
TIMER_DELAY_DAYS_MAX: Final = 365_250

# How often timers may make each other due at once, without coming nearer to the present, before that is
# taken for a loop: far more than any process has steps at one moment, and less than a second of work.
TIMER_LOOP_FIRINGS_MAX: Final = 1_000

# States named in the error about such a loop.
TIMER_LOOP_STATES_SHOWN_MAX: Final = 8

# Refused timers that are kept to be shown; all of them are in the commit log.
TIMERS_REFUSED_KEPT_MAX: Final = 1_000

# Timers listed at once, so that nobody holds up the others with a list of millions.
TIMERS_LISTED_MAX: Final = 10_000

# Moments that were put off stay in the queue of timers; as many at least gather before it is cleaned, and
# never more than there are timers besides.
TIMERS_LEFT_OVER_MIN: Final = 10_000

# How long timers wait after the context provider failed: doubled each time, in seconds.
TIMER_RETRY_BASE_S: Final = 1.0
TIMER_RETRY_MAX_S: Final = 60.0

# Timers whose functions fail for models of a changed design: as many are named when opening is refused.
TIMER_FAILURES_SHOWN_MAX: Final = 10

# Timers fired in one go after a long stop, so that commands get their turn in between.
TIMERS_FIRED_AT_ONCE_MAX: Final = 500

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

# Changes of key-values and blobs that wait for their writer; whoever comes then waits for room. Each belongs
# to a thread or task that waits for it, so this is as many callers at once as the commit queue has room for.
SIDE_WRITES_WAITING_MAX: Final = 10_000

# Changes of key-values and blobs that share one sync, and rows that one clean-up removes: 200 puts hold the
# interpreter lock for about a quarter of a millisecond.
SIDE_WRITES_GROUP_MAX: Final = 200

# The key of a key-value or blob, in bytes of UTF-8: room for a path or an address.
KEY_BYTES_MAX: Final = 1_024

# One stored key-value in bytes, and how deep its lists and dicts nest. More belongs in a blob: one write of
# this size holds the interpreter lock for a quarter of a millisecond.
KV_VALUE_BYTES_MAX: Final = 128 * 1024
KV_VALUE_DEPTH_MAX: Final = 32

# Keys in one page of a listing.
KEYS_PAGE_MAX: Final = 1_000

# How soon after its end an entry with a time to live is removed, in seconds. It is never shown after its end,
# so this only keeps many short lives from causing as many small writes.
SWEEP_INTERVAL_S: Final = 1.0

# A blob is stored in chunks of so many bytes. Writing 128 KiB holds the interpreter lock for a quarter of a
# millisecond (256 KiB: 0.8 ms), and reading it takes 17 us.
BLOB_CHUNK_BYTES: Final = 128 * 1024

# Bytes of chunks between syncs: commits share the write-ahead log, and their sync may find so many unwritten.
BLOB_SYNC_BYTES: Final = 1024 * 1024

# Chunks that are announced at once as perhaps belonging to no blob: one small row for each 8 MiB.
BLOB_CHUNKS_ANNOUNCED: Final = 64

# The bytes of one blob unless `put` says otherwise: a long video or a disk image should be asked for.
BLOB_BYTES_MAX: Final = 1024 * 1024 * 1024

# Characters of a content type: the longest registered ones have about 80.
CONTENT_TYPE_LENGTH_MAX: Final = 255

# Changed models that wait for one subscriber. One that stalls for a tenth of a second misses nothing at
# 100,000 commands/s; what waits is two versions of each, so a few MB. The bound on what may be asked for is
# ten seconds of that.
SUBSCRIBER_QUEUE_LENGTH_MAX: Final = 10_000
SUBSCRIBER_QUEUE_LENGTH_LIMIT: Final = 1_000_000

# Subscribers of one Klerk. Handing a group to one takes less than a microsecond, so this is milliseconds.
SUBSCRIBERS_MAX: Final = 10_000

# Changed models that a subscriber looks at while it holds the read lock or an event loop: a few microseconds
# each, so well under a millisecond.
SUBSCRIBER_MODELS_AT_ONCE: Final = 100

# Transactions, and images, that a subscriber reads from the log at once: some milliseconds, and a few MB.
CATCH_UP_TRANSACTIONS: Final = 1_000

# Versions that a subscriber keeps while it reads the log, since what changed lately mostly changes next. For
# the others it has to look further back.
CATCH_UP_VERSIONS_MAX: Final = 100_000

# Entries of the commit log in one page unless it is asked for more or fewer, and at most: 1,000 transactions
# are 1 MB or so, and reading them from as many log records takes about a second.
LOG_PAGE: Final = 50
LOG_PAGE_MAX: Final = 1_000

# Jobs that `klerk.testing.drain`, or an inline call, runs, and moments that it sets the clock to: far more
# than a test can mean to, still over in seconds. How often it asks whether the store still works, in seconds.
TEST_JOBS_MAX: Final = 10_000
TEST_STEPS_MAX: Final = 100_000
TEST_CHECK_S: Final = 1.0
TEST_JOBS_SHOWN_MAX: Final = 50
