"""Bounds of jobs, of those who run them, and of testing them."""

from typing import Final

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

# Completions that one transaction records, in a few milliseconds, and seconds until one that failed, or the
# end of any other attempt that could not be recorded, is tried.
JOB_COMPLETIONS_AT_ONCE: Final = 1_000
JOB_COMPLETIONS_RETRY_S: Final = 1.0

# Running jobs that are marked, so that they are known should the process die: more than the threads and
# coroutines that there are at most, and with the head of the file one page of memory.
JOBS_MARKED_MAX: Final = 509

# Jobs at once that were running when the process died before. It may die again, and then all that run are
# blamed: with one at a time, those that only happened to be there are not blamed together with the guilty.
JOB_SUSPECTS_MAX: Final = 1

# For how long such a job keeps others like it, or all together those whose next crash may be their last keep
# all others, from starting, in seconds: most that kill the process do so within moments, and hundreds of long
# ones must not hold each other up for hours. Doubled with each crash after that, so that one that kills the
# process late is found alone in the end, but not more often than this: 10,000 s.
JOB_ALONE_S: Final = 10.0
JOB_ALONE_DOUBLED_MAX: Final = 10

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

# Values of a returned collection that are looked at, for commands and the like that nobody would handle: a
# list of these begins with them, and a long result is not to be walked through.
JOB_RETURN_LOOKS_MAX: Final = 100

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

# Failed attempts that are kept with a job: the first, which often says what went wrong before everything did,
# and the last ones. The first and the last have tracebacks: characters of one, some thirty frames, and of one
# frame or text in it.
# Together at most 18 kB with a job that fails again and again, while it is in memory, too.
JOB_ERRORS_KEPT_MAX: Final = 5
JOB_TRACEBACK_LENGTH_MAX: Final = 4_000
JOB_TRACEBACK_PART_MAX: Final = 1_000

# How long an action on a job waits for another one, or for the end of an attempt, to be published; and jobs
# that one transaction of an action on many changes: about as many as a group has commands.
JOB_ACTION_WAIT_S: Final = 10.0
JOB_ACTION_JOBS_MAX: Final = 1_000

# How often it is logged how far an action on many jobs has come, in seconds.
JOB_BULK_TOLD_S: Final = 10.0

# Jobs in one page of a query unless it is asked for more or fewer, and at most; and at how many it looks to
# find them, some 20 ms of reading.
JOB_QUERY: Final = 50
JOB_QUERY_MAX: Final = 1_000
JOB_QUERY_LOOKS_MAX: Final = 5_000

# Names that the error about a wrong one lists: as many as can be looked through.
JOB_NAMES_SHOWN_MAX: Final = 20

# Jobs that one transaction may create.
TRANSACTION_JOBS_MAX: Final = 100_000

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

# Jobs that `klerk.testing.drain`, or an inline call, runs, and moments that it sets the clock to: far more
# than a test can mean to, still over in seconds. How often it asks whether the store still works, in seconds.
TEST_JOBS_MAX: Final = 10_000
TEST_STEPS_MAX: Final = 100_000
TEST_CHECK_S: Final = 1.0
TEST_JOBS_SHOWN_MAX: Final = 50
