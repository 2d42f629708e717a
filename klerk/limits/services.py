"""Bounds of what goes on beside commands: timers, subscriptions, the audit trail, keys and blobs."""

from typing import Final

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
