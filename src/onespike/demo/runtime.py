"""ONNX Runtime for the browser: its npm package, fetched once, kept in the cache, verified whenever it is opened."""

import base64
import hashlib
import io
import tarfile
from contextlib import suppress
from http.client import HTTPException
from urllib.request import urlopen

from onespike.data.dataset import cache_folder
from onespike.durable import MOST, read_whole, save_text
from onespike.errors import OnespikeError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FILE = f"{PACKAGE}-{VERSION}.tgz"
URL = f"https://registry.npmjs.org/{PACKAGE}/-/{FILE}"
#: The package's SHA-512 in base 64, as npm has it.
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: The files of it that the page needs, by the names that the page has for them: the script, and its WebAssembly for one
#: thread. A stock nginx does not know that .mjs is a script.
NEEDED = {"ort.js": "ort.wasm.bundle.min.mjs", "ort.wasm": "ort-wasm-simd-threaded.wasm"}
_SECONDS = 60  # to wait for an answer


def runtime() -> dict[str, bytes]:
    """The runtime's files, by the page's names for them.

    The package comes from the cache, or, the first time, from the npm registry.

    Raises:
        OnespikeError: It is not in the cache and cannot be fetched; the message says how to put it there.
    """
    kept, content = cache_folder() / FILE, b""
    with suppress(OSError):
        content = read_whole(kept)
    if not _is_whole(content):
        try:
            with urlopen(URL, timeout=_SECONDS) as answer:
                content = answer.read(MOST)
        except (OSError, ValueError, HTTPException) as error:  # a proxy with a malformed address, for one
            reason = getattr(error, "reason", error)
            advice = f"where there is a network, run npm pack {PACKAGE}@{VERSION}, and put the file to {kept}"
            raise OnespikeError(f"{URL} cannot be fetched ({reason}): {advice}") from error
        if not _is_whole(content):
            raise OnespikeError(f"{URL}: expected the package whose SHA-512 is {INTEGRITY}, got another: try again")
        save_text(content, kept)
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        files = {name: package.extractfile(f"package/dist/{theirs}") for name, theirs in NEEDED.items()}
        return {name: file.read() for name, file in files.items() if file is not None}


def _is_whole(content: bytes) -> bool:
    return base64.b64encode(hashlib.sha512(content).digest()).decode() == INTEGRITY
