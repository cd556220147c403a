"""`onespike cache`."""

from pathlib import Path
from typing import Literal

from onespike.errors import OnespikeError
from onespike.terminal import person, plain_table


def cache(action: Literal["verify"], cache: Path | None = None) -> int:
    """Compare the decoded images in the cache, byte for byte, with what was written; damaged ones are an error.

    A damaged entry is decoded anew when it is opened. Images in large files are compared one by one when they are
    fetched.

    Args:
        action: verify.
        cache: Folder for the decoded images; by default $ONESPIKE_CACHE, or else ~/.cache/onespike.
    """
    from onespike.data.cache import verify_cache
    from onespike.data.dataset import cache_folder

    folder = cache or cache_folder()
    if (cache or folder.exists()) and not folder.is_dir():
        remedy = f"correct {'--cache' if cache else '$ONESPIKE_CACHE'}"
        raise OnespikeError(f"{folder}: no such folder; expected one with decoded images; {remedy}")
    found = verify_cache(folder)
    rows = [(one.name, "damaged" if why else "whole") for one, why in found.items()]
    if not found:
        person().print(f"{folder}: no decoded images")
        return 0
    person().print(plain_table("entry", action, rows=rows))
    if damaged := [one.name for one, why in found.items() if why]:
        raise OnespikeError(f"{folder}: damaged: {', '.join(damaged)}; remove them, they are made anew when needed")
    return 0
