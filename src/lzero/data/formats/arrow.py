"""Arrow files: streams of batches, as `datasets` keeps them, and Arrow's file format."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from lzero.data.formats import columnar
from lzero.data.formats.base import Found

_MAGIC = b"ARROW1"


def read(path: Path) -> Iterator[Found]:
    """Yield the rows. Raises as `columnar.read` does."""
    return columnar.read(path, _batches)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches, each checked: an Arrow file holds its values as they lie in memory, and a false length would crash its reader."""
    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.OSFile(str(path)) as file:
        is_file = file.read(len(_MAGIC)) == _MAGIC
        file.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file, options=options) as reader:
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                batch.validate(full=True)
                yield batch
