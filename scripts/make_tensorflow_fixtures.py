"""Make small TensorFlow checkpoints, and say what TensorFlow itself reads from them.

    python scripts/make_tensorflow_fixtures.py tests/vectors/tensorflow

Importing TensorFlow takes a quarter of a minute, so its files are kept; a test makes them anew and compares.
Writes FOLDER/<name>.index and its data files, FOLDER/saved (a SavedModel), and FOLDER/expected.json:
prefix → name → [dtype as NumPy calls it, shape, hex SHA-256 of the little-endian bytes].
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Write everything below `folder`, which is emptied first."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = _module(tf)
    tf.saved_model.save(module, str(folder / "saved"))
    for surplus in ("assets", "fingerprint.pb", "saved_model.pb"):
        path = folder / "saved" / surplus
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    checkpoint = tf.train.Checkpoint(model=module, optimizer=_trained(tf))
    checkpoint.save(str(folder / "ckpt"))
    (folder / "checkpoint").unlink()
    _sliced(tf, folder)
    prefixes = sorted(str(p.relative_to(folder))[: -len(".index")] for p in folder.rglob("*.index"))
    expected = {prefix: _truth(tf, folder / prefix) for prefix in prefixes}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def _module(tf: Any) -> Any:
    module = tf.Module()
    values = {
        "float": tf.reshape(tf.range(12, dtype=tf.float32), (3, 4)), "brain": tf.cast([1, 2], tf.bfloat16),
        "half": tf.cast([1.5], tf.float16), "long": tf.constant(-7, tf.int64), "flag": tf.constant([True, False]),
        "empty": tf.zeros((0, 3)), "complex": tf.complex([1.0], [2.0]), "text": tf.constant("hello"),
        "byte": tf.constant([1, 255], tf.uint8),
    }  # fmt: skip
    for name, value in values.items():
        setattr(module, name, tf.Variable(value))
    return module


def _trained(tf: Any) -> Any:
    optimizer = tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
    variable = tf.Variable([1.0, 2.0])
    optimizer.apply_gradients([(tf.constant([0.5, 0.5]), variable)])
    return optimizer


def _sliced(tf: Any, folder: Path) -> None:
    """Write variables in slices: by rows, by columns, in blocks, with offsets of more than one byte, in two shards."""

    def save(name: str, **parts: tuple[str, Any]) -> None:
        names = [key.partition("__")[0] for key in parts]
        specs, tensors = [spec for spec, _ in parts.values()], [tensor for _, tensor in parts.values()]
        tf.raw_ops.SaveV2(prefix=str(folder / name), tensor_names=names, shape_and_slices=specs, tensors=tensors)

    def numbers(start: int, *shape: int) -> Any:
        return tf.reshape(tf.range(start, start + tf.reduce_prod(shape)), shape)

    save("rows", w__0=("4 6 0,1:-", numbers(0, 1, 6)), w__1=("4 6 1,3:-", numbers(6, 3, 6)), v=("", numbers(3, 2)))
    save("columns", w__0=("3 500 -:0,200", numbers(0, 3, 200)), w__1=("3 500 -:200,300", numbers(600, 3, 300)))
    save("blocks", **{
        f"w__{row}{column}": (f"4 6 2 {2 * row},2:{3 * column},3:-", numbers(10 * row + column, 2, 3, 2))
        for row in (0, 1) for column in (0, 1)
    })  # fmt: skip
    save("one", a=("", numbers(0, 5)), w__0=("9000 0,8500", numbers(0, 8500)))
    save("two", b=("", numbers(7, 2)), w__1=("9000 8500,500", numbers(8500, 500)))
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(folder / "one"), str(folder / "two")],
        destination_prefix=str(folder / "merged"),
        delete_old_dirs=False,
    )
    for left in (*folder.glob("one.*"), *folder.glob("two.*")):
        left.unlink()


def _truth(tf: Any, prefix: Path) -> dict[str, list[object]]:
    reader = tf.train.load_checkpoint(str(prefix))
    found: dict[str, list[object]] = {}
    for name, dtype in reader.get_variable_to_dtype_map().items():
        if dtype != tf.string:
            value = reader.get_tensor(name)
            digest = hashlib.sha256(value.tobytes()).hexdigest()
            found[name] = [dtype.name, list(reader.get_variable_to_shape_map()[name]), digest]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
