"""Klerk: an in-process framework in place of a database and a business-logic layer."""

from klerk._version import __version__
from klerk._waiting import Submission
from klerk.aio import AioKlerk
from klerk.aio_blobs import AioBlobReader, AioBlobs
from klerk.blob_streams import BlobInfo, BlobReader
from klerk.blobs import Blobs
from klerk.changes import Change, ChangeKind
from klerk.columns import Columns
from klerk.commands import Actor, Anonymous, Args, Command, Context, Result, System, User
from klerk.erasure import Erasure
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
    JobError,
    KlerkError,
    Lagged,
    LimitExceeded,
    MigrationFailed,
    NewerStore,
    NotAStore,
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
from klerk.job_run import Completion, JobRun
from klerk.jobs import Job, JobRecord, JobRequest, JobState
from klerk.keys import KeyPage
from klerk.keyvalue import AioKeyValues, KeyValue, KeyValues
from klerk.klerk import Klerk
from klerk.labels import label
from klerk.log_entries import ActorName, LogEntry, LogFilter, LoggedCommand, LogPage, Version
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.migrations import Migration
from klerk.opening import App
from klerk.paging import Page
from klerk.reader import PlainReader, Readable, Reader
from klerk.selections import Index, View
from klerk.snapshots import Snapshot
from klerk.subscriptions import AioChanges, Changes
from klerk.timer_work import DueTimer, RefusedTimer
from klerk.timers import Timers
from klerk.tokens import Token
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
    "AioKeyValues",
    "AioKlerk",
    "Anonymous",
    "App",
    "Args",
    "ArgumentError",
    "BlobInfo",
    "BlobReader",
    "Blobs",
    "BrokenReference",
    "Bytes",
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
    "JobError",
    "JobRecord",
    "JobRequest",
    "JobRun",
    "JobState",
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
    "Model",
    "NewerStore",
    "NotAStore",
    "NotFound",
    "NotPure",
    "Page",
    "PlainReader",
    "Problem",
    "QueueFull",
    "ReadLockHeld",
    "Readable",
    "Reader",
    "ReaderClosed",
    "Ref",
    "RefusedTimer",
    "Rejected",
    "Result",
    "SchemaChanged",
    "Snapshot",
    "State",
    "StorageError",
    "StoreFailed",
    "StoreLocked",
    "Submission",
    "System",
    "Text",
    "Timers",
    "Token",
    "Translation",
    "UnsafeCreate",
    "UnsafeDelete",
    "UnsafeUpdate",
    "User",
    "Version",
    "View",
    "Visibility",
    "WrongState",
    "WrongStore",
    "__version__",
    "label",
]
