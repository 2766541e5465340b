"""Function vectors as files that llama.cpp reads: GGUF control vectors (`--control-vector`, `--control-vector-scaled`).

llama.cpp adds the tensor `direction.<n>` (float32, residual width) to the output of block n, n from 1, at EVERY token;
ours are measured with the edit at the last token alone. It reads the tensors and no metadata; ours say where the vector
comes from. Source: common/common.cpp `common_control_vector_load` and tools/cvector-generator of llama.cpp.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

ARCHITECTURE, DIRECTION = "controlvector", "direction."


def write(
    path: Path, vectors: Mapping[int, np.ndarray], model: str, blocks: int, provenance: Mapping[str, str]
) -> None:
    """Write vectors (D,), each by the block after which it is added, strength multiplied in.

    model: the model's type, as a hint; blocks: how many it has; provenance: what else the file says, name -> text.
    Raises `ValueError` for block 0, which llama.cpp cannot steer.
    """
    if min(vectors) < 1:
        raise ValueError(f"block {min(vectors)}: llama.cpp adds vectors after blocks from 1 on")
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", blocks)
    for name, text in sorted(provenance.items()):
        writer.add_string(f"{ARCHITECTURE}.{name}", text)
    for layer, vector_D in sorted(vectors.items()):
        writer.add_tensor(f"{DIRECTION}{layer}", np.ascontiguousarray(vector_D, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> dict[int, np.ndarray]:
    """Return the vectors (D,) of a control-vector file by the block after which they are added."""
    tensors = GGUFReader(path).tensors
    return {int(tensor.name.removeprefix(DIRECTION)): np.array(tensor.data) for tensor in tensors}
