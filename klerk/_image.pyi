from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from klerk._dispatch import ClassPlan
from klerk._table import ModelTable

IMAGE_FORMAT: Final[int]

def key_of(number: int) -> bytes: ...
def without_meta(value: object) -> None: ...
def model_puts(
    family: int, images: dict[int, bytes | None]
) -> tuple[list[tuple[int, bytes, bytes]], list[tuple[int, bytes]]]: ...
def version_of(stored: bytes) -> int: ...
def class_code_of(stored: bytes) -> int: ...
def load_models(
    table: ModelTable,
    rows: Iterable[tuple[bytes, bytes]],
    plans: dict[int, ClassPlan | None],
    progress: Callable[[int], object],
    refused: Callable[[int, Exception], object] | None = None,
) -> None: ...
def model_of(plans: dict[int, ClassPlan | None], id: int, stored: bytes) -> Any: ...
def outdated(
    table: ModelTable,
    rows: Iterable[tuple[bytes, bytes]],
    plans: dict[int, ClassPlan | None],
    encode: Callable[[Any], bytes],
) -> Iterator[tuple[bytes, bytes | None]]: ...
