"""Klerk: an in-process framework in place of a database and a business-logic layer."""

from klerk._version import __version__
from klerk._waiting import Submission
from klerk.aio import AioKlerk
from klerk.audit.entries import ActorName, LogEntry, LogFilter, LoggedCommand, LogPage, Version
from klerk.audit.erasure import Erasure
from klerk.batch import Batch, chain
from klerk.changes.change import Change, ChangeKind
from klerk.changes.subscriptions import AioChanges, Changes
from klerk.commands import Actor, Anonymous, Args, Command, Context, Result, System, User
from klerk.errors import (
    ArgumentError,
    BrokenReference,
    Closed,
    ConfigError,
    Conflict,
    Corrupted,
    Denied,
    Erased,
    FunctionFailed,
    InvalidValue,
    JobCancelled,
    JobCrashed,
    JobError,
    JobTimeout,
    KlerkError,
    Lagged,
    LimitExceeded,
    MigrationFailed,
    MissingLibrary,
    NewerStore,
    NoResult,
    NotAStore,
    NotEnded,
    NotFound,
    NotPure,
    Problem,
    QueueFull,
    ReaderClosed,
    ReadLockHeld,
    Rejected,
    SchemaChanged,
    StorageError,
    StoreFailed,
    StoreLocked,
    WrongState,
    WrongStore,
)
from klerk.job_failures import JobFailure, UnsentError
from klerk.job_manager.batches import BatchStatus
from klerk.job_manager.face import AioJobs, Jobs
from klerk.job_manager.queue_control import QueueStatus
from klerk.job_manager.retention import Retention
from klerk.job_manager.searching import JobFilter, JobPage, JobQuery
from klerk.job_manager.status import JobReason, JobStatus
from klerk.job_options import Backoff, JobOptions, QueueOptions, Unique
from klerk.job_outcomes import Cancel, Completion, Discard, Retry, Snooze
from klerk.job_run import JobRun
from klerk.jobs import Job, JobRecord, JobRequest, JobState
from klerk.keyed.aio_blobs import AioBlobReader, AioBlobs
from klerk.keyed.blob_streams import BlobInfo, BlobReader
from klerk.keyed.blobs import Blobs
from klerk.keyed.keys import KeyPage
from klerk.keyed.keyvalue import AioKeyValues, KeyValue, KeyValues
from klerk.klerk import Klerk
from klerk.labels import label
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.migration.migrations import Migration
from klerk.opening import App
from klerk.reading.columns import Columns
from klerk.reading.paging import Page
from klerk.reading.reader import PlainReader, Readable, Reader
from klerk.reading.snapshots import Snapshot
from klerk.selections import Index, View
from klerk.statistics import Statistics
from klerk.timers.timers import Timers
from klerk.timers.work import DueTimer, RefusedTimer
from klerk.tokens.token import Token
from klerk.translation import Translation
from klerk.unsafe import UnsafeCreate, UnsafeDelete, UnsafeUpdate
from klerk.values import MASKED, Bytes, Enum, Float, Int, Model, Ref, Text
from klerk.visibility import Visibility

__all__ = [
    "MASKED",
    "Actor",
    "ActorName",
    "AioBlobReader",
    "AioBlobs",
    "AioChanges",
    "AioJobs",
    "AioKeyValues",
    "AioKlerk",
    "Anonymous",
    "App",
    "Args",
    "ArgumentError",
    "Backoff",
    "Batch",
    "BatchStatus",
    "BlobInfo",
    "BlobReader",
    "Blobs",
    "BrokenReference",
    "Bytes",
    "Cancel",
    "Change",
    "ChangeKind",
    "Changes",
    "Closed",
    "Columns",
    "Command",
    "Completion",
    "ConfigError",
    "Conflict",
    "Context",
    "Corrupted",
    "CreateEvent",
    "Denied",
    "Discard",
    "DueTimer",
    "Enum",
    "Erased",
    "Erasure",
    "Event",
    "Float",
    "FunctionFailed",
    "Index",
    "Int",
    "InvalidValue",
    "Job",
    "JobCancelled",
    "JobCrashed",
    "JobError",
    "JobFailure",
    "JobFilter",
    "JobOptions",
    "JobPage",
    "JobQuery",
    "JobReason",
    "JobRecord",
    "JobRequest",
    "JobRun",
    "JobState",
    "JobStatus",
    "JobTimeout",
    "Jobs",
    "KeyPage",
    "KeyValue",
    "KeyValues",
    "Klerk",
    "KlerkError",
    "Lagged",
    "LimitExceeded",
    "LogEntry",
    "LogFilter",
    "LogPage",
    "LoggedCommand",
    "Machine",
    "Migration",
    "MigrationFailed",
    "MissingLibrary",
    "Model",
    "NewerStore",
    "NoResult",
    "NotAStore",
    "NotEnded",
    "NotFound",
    "NotPure",
    "Page",
    "PlainReader",
    "Problem",
    "QueueFull",
    "QueueOptions",
    "QueueStatus",
    "ReadLockHeld",
    "Readable",
    "Reader",
    "ReaderClosed",
    "Ref",
    "RefusedTimer",
    "Rejected",
    "Result",
    "Retention",
    "Retry",
    "SchemaChanged",
    "Snapshot",
    "Snooze",
    "State",
    "Statistics",
    "StorageError",
    "StoreFailed",
    "StoreLocked",
    "Submission",
    "System",
    "Text",
    "Timers",
    "Token",
    "Translation",
    "Unique",
    "UnsafeCreate",
    "UnsafeDelete",
    "UnsafeUpdate",
    "UnsentError",
    "User",
    "Version",
    "View",
    "Visibility",
    "WrongState",
    "WrongStore",
    "__version__",
    "chain",
    "label",
]
