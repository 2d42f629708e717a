"""How RocksDB is set up: every option that is not its default, with the reason."""

from rocksdict import (
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    Options,
)

_MIB = 1024 * 1024
_block_cache = Cache(8 * _MIB)


def database_options() -> Options:
    """Return the options of the whole database; what is not named here is RocksDB's default."""
    options = table_options()
    # Bounds what a start after a crash has to replay, twice: about 0.5 s each.
    options.set_max_total_wal_size(64 * _MIB)
    # All families reach the tables together, so that whatever is lost of the write-ahead log shows as a gap
    # or an early end of the commit log: no family can lose what the commit log still has.
    options.set_atomic_flush(True)
    # Tables written in the background reach the disk little by little, not in one burst that the next
    # sync of the write-ahead log would have to wait behind.
    options.set_bytes_per_sync(_MIB)
    # An application's own sockets and files come out of the same limit, often 1,024.
    options.set_max_open_files(256)
    # RocksDB's own diary: two files of at most 1 MiB, without the periodic statistics.
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def table_options() -> Options:
    """Return the options of one family; all are alike.

    No bloom filters and hardly a cache: models are in memory, and the system keeps pages of the files.
    """
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    # A write holds the interpreter lock, so it must not be made to wait for the background: four buffers
    # per family instead of two, and far more unsorted tables than the default of 20 before it is slowed.
    options.set_write_buffer_size(32 * _MIB)
    options.set_max_write_buffer_number(4)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_block_cache)
    options.set_block_based_table_factory(blocks)
    return options


def thorough_compaction() -> CompactOptions:
    """Return the options of a compaction after which nothing is left of what was overwritten.

    By itself RocksDB moves a table of the lowest level as it is, old versions and all.
    """
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
    return options
