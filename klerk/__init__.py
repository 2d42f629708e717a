"""Klerk: an in-process framework in place of a database and a business-logic layer."""

from klerk._version import __version__
from klerk._waiting import Submission
from klerk.aio import AioKlerk
from klerk.aio_blobs import AioBlobReader, AioBlobs
from klerk.blob_streams import BlobInfo, BlobReader
from klerk.blobs import Blobs
from klerk.commands import Actor, Anonymous, Args, Command, Context, Result, System, User
from klerk.declared import Index, View
from klerk.errors import (
    ArgumentError,
    BrokenReference,
    Closed,
    ConfigError,
    Conflict,
    Corrupted,
    Denied,
    FunctionFailed,
    InvalidValue,
    JobCancelled,
    JobError,
    KlerkError,
    LimitExceeded,
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
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.opening import App
from klerk.reader import PlainReader, Reader
from klerk.values import MASKED, Bytes, Enum, Float, Int, Model, Ref, Text
from klerk.views import Columns

__all__ = [
    "MASKED",
    "Actor",
    "AioBlobReader",
    "AioBlobs",
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
    "Enum",
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
    "LimitExceeded",
    "Machine",
    "Model",
    "NewerStore",
    "NotAStore",
    "NotFound",
    "NotPure",
    "PlainReader",
    "Problem",
    "QueueFull",
    "ReadLockHeld",
    "Reader",
    "ReaderClosed",
    "Ref",
    "Rejected",
    "Result",
    "SchemaChanged",
    "State",
    "StorageError",
    "StoreFailed",
    "StoreLocked",
    "Submission",
    "System",
    "Text",
    "User",
    "View",
    "WrongState",
    "WrongStore",
    "__version__",
]
