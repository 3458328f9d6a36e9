"""Recordings, and the log-mel spectrogram that Whisper hears.

    S[t, f]   = |sum_n w[n] x[160 t + n - 200] exp(-2 pi i f n / 400)|^2     w: Hann, 400 samples
    L[t, c]   = log10(max(sum_f M[f, c] S[t, f], 1e-10))                     M: 80 triangles
    mel[t, c] = (max(L[t, c], max(L) - 8) + 4) / 4

The signal x has 16,000 samples a second and is mirrored at its ends. The triangles are Slaney's
(Auditory Toolbox, 1998): their corners are equally spaced on a scale that is linear up to 1 kHz and
logarithmic above, and all have the same area.

Source: Radford et al. 2022, section 2.2, and `audio.py` of openai/whisper.
"""

import wave
from pathlib import Path

import numpy as np

RATE = 16_000  # samples a second
RATES = (RATE, 2 * RATE, 3 * RATE)
SECONDS = 30
WINDOW, HOP = 400, 160  # samples
BINS = 80


def read_wav(path: Path) -> np.ndarray:
    """Returns a recording, float32 [samples], 16,000 a second, values in [-1, 1).

    Raises ValueError when it is cut, or not mono with 16 bits a sample at a multiple of that rate.
    """
    try:
        with wave.open(str(path), "rb") as file:
            kind = file.getparams()
            if kind[:2] != (1, 2) or kind.framerate not in RATES:
                raise ValueError(f"not mono with 16 bits a sample at a rate of {RATES} Hz")
            size = path.stat().st_size
            if not 0 < 2 * kind.nframes <= size:
                raise ValueError(f"{kind.nframes} samples in {size} bytes")
            content = file.readframes(kind.nframes)
    except (wave.Error, EOFError, ValueError) as error:
        raise ValueError(f"{path.name}: {error or 'the file is cut'}") from error
    if len(content) != 2 * kind.nframes:
        raise ValueError(f"{path.name}: {len(content)} bytes for {kind.nframes} samples")
    signal_N = np.frombuffer(content, "<i2") / 2**15
    return decimate(signal_N, kind.framerate // RATE).astype(np.float32)


def decimate(signal_N: np.ndarray, factor: int) -> np.ndarray:
    """Returns every `factor`-th sample of the signal without what lies above the new half rate.

    The filter is a sinc under a Kaiser window of 64 `factor` + 1 samples.
    """
    if factor == 1:
        return signal_N
    place = np.arange(-32 * factor, 32 * factor + 1)
    taps = np.sinc(0.95 * place / factor) * np.kaiser(place.size, 8.0)
    return np.convolve(signal_N, taps / taps.sum(), mode="same")[::factor]


def log_mel(signal_N: np.ndarray, seconds: int = SECONDS) -> np.ndarray:
    """Returns the log-mel spectrogram, float32 [100 frames a second, 80].

    The signal is cut to `seconds`, or filled up with silence.
    """
    length = seconds * RATE
    padded_N = np.pad(signal_N[:length], (0, max(0, length - len(signal_N))))
    mirrored_N = np.pad(padded_N, WINDOW // 2, mode="reflect")
    frame_TxW = np.lib.stride_tricks.sliding_window_view(mirrored_N, WINDOW)[::HOP][:-1]
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power_TxF = np.abs(np.fft.rfft(frame_TxW * hann_W)) ** 2
    log_TxC = np.log10(np.maximum(power_TxF @ triangles(), 1e-10))
    return np.float32((np.maximum(log_TxC, log_TxC.max() - 8) + 4) / 4)


def triangles() -> np.ndarray:
    """Returns the weight of each frequency in each mel bin, float64 [201, 80].

    Triangle c rises from corner c to corner c + 1 and falls to corner c + 2, with area 1 in Hz.
    """
    frequency_Fx1 = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    corner = hertz(np.linspace(0, mel(RATE / 2), BINS + 2))
    low, peak, high = corner[:-2], corner[1:-1], corner[2:]
    rising_FxC = (frequency_Fx1 - low) / (peak - low)
    falling_FxC = (high - frequency_Fx1) / (high - peak)
    return np.maximum(np.minimum(rising_FxC, falling_FxC), 0) * 2 / (high - low)


def mel(frequency: float) -> float:
    """Returns Slaney's mel of f Hz: 3 f / 200 up to 1000 Hz; above, 27 steps are a factor 6.4."""
    linear = 3 * frequency / 200
    return linear if linear < 15 else 15 + 27 * np.log(frequency / 1000) / np.log(6.4)


def hertz(mels_C: np.ndarray) -> np.ndarray:
    """Returns the frequencies of Slaney's mels, the inverse of `mel`."""
    return np.where(mels_C < 15, 200 * mels_C / 3, 1000 * 6.4 ** ((mels_C - 15) / 27))
