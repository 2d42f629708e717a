"""Where Klerk keeps its data: one contract, in memory and on disk."""

from klerk.storage.contract import Delete, Family, Put, Storage, Witness
from klerk.storage.layout import app_of
from klerk.storage.memory import MemoryStorage
from klerk.storage.rocks import RocksStorage

__all__ = ["Delete", "Family", "MemoryStorage", "Put", "RocksStorage", "Storage", "Witness", "app_of"]
