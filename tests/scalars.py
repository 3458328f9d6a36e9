"""The formats of the catalogue that have a code for each number, which block formats have not."""

from qsim.numbers.catalogue import Entry, catalogue
from qsim.scales.blocks import Block


def scalars() -> dict[str, Entry]:
    """The entries by name."""
    entries = catalogue().items()
    return {name: entry for name, entry in entries if not isinstance(entry.format, Block)}
