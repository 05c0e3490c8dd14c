"""Read sharded checkpoints without running code: PyTorch's own reader unpickles what it finds."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

_HERE = "torch.distributed.checkpoint."
PLAIN = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    (_HERE + "filesystem", "_StorageInfo"),
    *(
        (_HERE + "metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


class PlainReader(FileSystemReader):
    """Reads the index of a sharded checkpoint, and refuses one that is more than an index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Which tensors there are, and where.

        Raises:
            ValueError: it is no such index, or names other things than an index is made of.
        """
        with self.fs.create_stream(self.fs.concat_path(self.path, ".metadata"), "rb") as file:
            try:
                metadata: Metadata = _PlainUnpickler(file).load()
            except pickle.UnpicklingError as error:
                raise ValueError(
                    f"checkpoint: {self.path}/.metadata is no index ({error})."
                ) from None
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainPlanner(DefaultLoadPlanner):
    """Refuses what is neither a tensor nor a plain value, before PyTorch opens it."""

    def load_bytes(self, read_item: Any, value: Any) -> None:
        """Take up one value that is no tensor, such as a learning rate."""
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
