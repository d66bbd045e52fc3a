"""Says what a file is that is no weights file: a pointer, an error page, an archive, a format of another library."""

from __future__ import annotations

from pathlib import Path

from ovlabel.errors import short

HEAD = 4096  # bytes of a file that are looked at
_AGAIN = "download it again"
_UNPACK = "unpack it, and pass the file in it"
_OTHER = "take the model's .safetensors, or its pytorch_model.bin"
_MAGIC = {
    b"version https://git-lfs": "a pointer of Git LFS, not the weights; fetch them with git lfs pull",
    b"\x1f\x8b": f"compressed with gzip; {_UNPACK}",
    b"BZh": f"compressed with bzip2; {_UNPACK}",
    b"\xfd7zXZ": f"compressed with xz; {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed with zstd; {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive; {_UNPACK}",
    b"Rar!": f"a RAR archive; {_UNPACK}",
    b"\x89HDF": f"an HDF5 file, as Keras and TensorFlow write them; {_OTHER}",
    b"GGUF": f"a GGUF file of llama.cpp; {_OTHER}",
    b"lmgg": f"a GGML file of llama.cpp; {_OTHER}",
    b"\x93NUMPY": f"a NumPy array; {_OTHER}",
    b"Entry not found": f"the hub's answer that there is no such file, not the weights; {_AGAIN}",
    b"Invalid username": f"the hub's answer to a wrong token, not the weights; {_AGAIN}",
}
_SUFFIXES = {
    ".onnx": f"an ONNX model; {_OTHER}",
    ".msgpack": f"a file of Flax; {_OTHER}",
    ".h5": f"a file of Keras or TensorFlow; {_OTHER}",
    ".pb": f"a file of TensorFlow; {_OTHER}",
    ".tflite": f"a file of TensorFlow Lite; {_OTHER}",
    ".mlmodel": f"a model of Core ML; {_OTHER}",
    ".engine": f"a model of TensorRT; {_OTHER}",
}


def named(path: Path, head: bytes) -> str:
    """What a file is that holds no weights in a form that is read, as the end of "it is …".

    Args:
        path: the file; its suffix is looked at where the content says nothing.
        head: its first bytes, at most `HEAD`.
    """
    start = head.lstrip().lower()
    if not head:
        return f"empty; {_AGAIN}"
    if found := next((what for magic, what in _MAGIC.items() if head.startswith(magic)), ""):
        return found
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return f"a page of HTML or XML, as servers send it in place of a file; {_AGAIN}"
    if start.startswith((b"{", b"[")):
        return _json(start)
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    if head[4:8] == b"TFL3" or path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES.get(path.suffix.lower(), _SUFFIXES[".tflite"])
    if head[:1] == b"\x08" and (b"onnx" in head or b"pytorch" in head):
        return _SUFFIXES[".onnx"]
    if not any(head):
        return f"zeros at its start, as an unfinished download leaves them; {_AGAIN}"
    if head.isascii() and head[:80].decode().replace("\n", " ").isprintable():
        return f"text ('{short(head[:40].decode())}'), no weights"
    return "neither a file of torch's nor safetensors, whatever its name says"


def _json(start: bytes) -> str:
    if b"weight_map" in start or b"total_size" in start:
        return "the index of weights that lie in several files, which are not read; take a model in one file"
    return "JSON, no weights"
