"""Binary floating-point formats.

A code is a sign bit, an exponent field E and a fraction T of ``mantissa_bits``; its value is::

    T * 2**(emin - mantissa_bits)                          where E == 0, if that holds subnormals
    (2**mantissa_bits + T) * 2**(E - bias - mantissa_bits)                              elsewhere

but for the special codes, which are infinities, NaNs and a zero or two.

Sources: IEEE 754-2019, 3.4; OCP OFP8 1.0, 5.1 and MX 1.0, 5.3; IEEE P3109 draft 4.0 (one zero,
precision 1); arXiv:2208.09225 (real bias).
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from qsim.numbers import real_bias, special_codes
from qsim.numbers.records import (
    MAX_CODE_BITS,
    Format,
    exponent_of,
    power,
    require,
    require_booleans,
    require_integers,
)
from qsim.numbers.special_codes import Specials

__all__ = ["SUBNORMALS", "Float"]

SUBNORMALS = {
    "gradual": "values below 2**emin are spaced as those of the lowest binade",
    "flush_after": "as gradual, but a rounded magnitude below 2**emin becomes zero",
    "flush_before": "a magnitude below 2**emin becomes zero before it is rounded",
    "absent": "zero and 2**emin are neighbours on the grid",
    "read_as_zero": "stored as gradual, but the codes of subnormals read as zero",
    "normalised": "the exponent field 0 is an ordinary binade, whose first code is zero",
}

REAL_BIAS_BITS = 24  # of the significands, as of float32


@dataclass(frozen=True, kw_only=True)
class Float(Format):
    """A binary floating-point format.

    Attributes:
        exponent_bits: width of the exponent field, 0 to 16. Without one the values are
            ``±T * 2**(1 - bias - mantissa_bits)``, fixed point with sign and magnitude.
        mantissa_bits: width of the fraction field. An unsigned format with 0 of them is by default
            a power-of-two *scale* (OCP E8M0), without zero.
        bias: exponent bias, in units of the exponent field; by default
            ``2**(exponent_bits - 1) - 1``, and one more where the NaN is at minus zero. A real
            number is taken apart into an integer, which stays here, and ``scale``.
        scale: a positive factor of all values, of float32's 24 bits; a record keeps it above 1/2
            and at most 1, a power of two being moved into the bias. With a scale other than 1
            each value is the product rounded to 24 significant bits, ties to even, as hardware
            that applies the factor in float32 has it; ``emin`` and ``emax`` are those before.
        emax_limit: the exponent of the largest values, where the codes of larger ones are unused;
            None if all are used.
        signed: whether there is a sign bit.
        zero: whether zero is a value; without it the exponent field 0 is an ordinary binade.
        one_zero: whether the code of minus zero is unused and reads as zero.
        infinities: whether the code just below the NaNs of the top is an infinity; or the codes
            of the infinities, one for each sign.
        nans: ``"ieee"`` (all-ones exponent, non-zero fraction), ``"top"`` (only the all-ones
            code), ``"negative_zero"`` (only the code of minus zero) or ``"none"``; or the codes
            of the NaNs. Codes are listed as integers, or as the values (fractions, decimal
            strings, floats) that they would have otherwise; formats of at most 16 bits.
        subnormals: one of ``SUBNORMALS``.

    Codes that are unused or beyond ``emax`` read as NaN.

    Raises:
        TypeError: for a field of another type.
        ValueError: for a combination that names no set of values, more than 16 exponent bits, a
            code of more than 64 bits or a bias beyond 2**15; the message says which rule.

    Equal formats have equal records: special codes that have a name are kept by their name.

    >>> Float(exponent_bits=4, mantissa_bits=3, nans=(0x7F, 0xFF), infinities=False).nans
    'top'
    >>> Float(exponent_bits=4, mantissa_bits=3, bias=7.3).scale
    Fraction(6813667, 8388608)
    """

    exponent_bits: int
    mantissa_bits: int
    bias: Any = None  # an int in every record; the usual one is filled in
    scale: Any = Fraction(1)
    emax_limit: int | None = None
    signed: bool = True
    zero: Any = None  # True or False in every record
    one_zero: bool = False
    infinities: Any = True
    nans: Any = "ieee"
    subnormals: str = "gradual"

    def __post_init__(self):
        require_integers(self, "exponent_bits", "mantissa_bits")
        require_booleans(self, "signed", "one_zero")
        self._check_widths()
        self._fill(zero=self.mantissa_bits > 0 or self.signed if self.zero is None else self.zero)
        require_booleans(self, "zero")
        self._check_zero()
        self._fill_bias()
        self._fill_specials()
        self._fill_subnormals()
        self._fill_emax_limit()
        self._check_values()

    @classmethod
    def between(cls, *, mantissa_bits: int, emin: int, emax: int, **fields: Any) -> "Float":
        """The format with the fewest exponent bits whose normal values have these exponents.

        Args:
            mantissa_bits, fields: as for ``Float``.
            emin, emax: exponents of the smallest and of the largest normal value.

        Raises:
            ValueError: if ``emin`` is above ``emax``, and as ``Float`` does.

        >>> str(Float.between(mantissa_bits=10, emin=-14, emax=15))
        'e5m10'
        """
        require(emin <= emax, f"emin is {emin}, but it must be at most emax, which is {emax}")
        bits, bias = (emax - emin + 1).bit_length(), 1 - emin
        found = cls(exponent_bits=bits, mantissa_bits=mantissa_bits, bias=bias, **fields)
        if found.top_code >> mantissa_bits < emax + bias:
            found = replace(found, exponent_bits=bits + 1)
        return replace(found, emax_limit=emax)

    def _fill(self, **fields) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _check_widths(self) -> None:
        e, m = self.exponent_bits, self.mantissa_bits
        require(e >= 0, f"exponent_bits is {e}, but it cannot be negative")
        require(m >= 0, f"mantissa_bits is {m}, but it cannot be negative")
        require(e + m > 0, "a float without exponent and mantissa bits has no values but zero")
        require(e <= 16, f"exponent_bits is {e}, but at most 16 are supported (binary128 has 15)")
        require(
            self.bits <= MAX_CODE_BITS,
            f"the code would have {self.bits} bits, but at most {MAX_CODE_BITS} are supported",
        )

    def _check_zero(self) -> None:
        require(
            self.zero or not self.signed,
            "zero=False needs signed=False: a signed format has a zero between its signs",
        )
        require(
            self.zero or self.exponent_bits > 0,
            "zero=False needs an exponent field; without one the values are multiples of a quantum",
        )

    def _fill_specials(self) -> None:
        found = special_codes.canonical(
            exponent_bits=self.exponent_bits,
            mantissa_bits=self.mantissa_bits,
            bias=self.bias,
            signed=self.signed,
            nans=self.nans,
            infinities=self.infinities,
        )
        self._fill(nans=found.nans, infinities=found.infinities)
        require(
            self.zero or self.mantissa_bits > 0 or not self.infinities,
            "a power-of-two scale format has no infinities: pass infinities=False, or zero=True "
            "for a format with a zero",
        )
        if not self.signed or found.meaning(found.sign) is not None:
            self._fill(one_zero=False)

    def _fill_bias(self) -> None:
        bias = self._usual_bias if self.bias is None else self.bias
        bias, scale = real_bias.taken_apart(bias, self.scale)
        require(abs(bias) <= 2**15, f"bias is {bias}, but it must be within -32768..32768")
        self._fill(bias=bias, scale=scale)
        require(
            scale == 1 or self.mantissa_bits < REAL_BIAS_BITS - 2,
            f"mantissa_bits is {self.mantissa_bits}, but a format with a real bias has at most "
            f"{REAL_BIAS_BITS - 3}: its values are rounded to {REAL_BIAS_BITS} bits",
        )

    def _fill_subnormals(self) -> None:
        require(
            self.subnormals in tuple(SUBNORMALS),
            f"subnormals is {self.subnormals!r}, but must be one of {', '.join(SUBNORMALS)}",
        )
        if self.mantissa_bits == 0:
            self._fill(subnormals="gradual")  # there are none, whatever is done to them
        require(
            self.subnormals == "gradual" or (self.zero and self.exponent_bits > 0),
            f"subnormals={self.subnormals!r} needs a zero and an exponent field: leave it out, as "
            "without them all values are normal or all are subnormal",
        )

    def _fill_emax_limit(self) -> None:
        if self.emax_limit is None:
            return
        require_integers(self, "emax_limit")
        limit = self.emax_limit
        self._fill(emax_limit=None)
        require(
            self.emin <= limit <= self.emax,
            f"emax_limit is {limit}, but it must be within emin..emax of the codes, which are "
            f"{self.emin}..{self.emax}: change the bias or exponent_bits",
        )
        if limit < self.emax:
            self._fill(emax_limit=limit)
            self.__dict__.pop("_ends", None)

    def _check_values(self) -> None:
        least = 0 if not self.zero else 1 << self.mantissa_bits if self._skips_subnormals else 1
        require(
            min(self._ends) >= least,
            "the special codes leave no value" + (" but zero" if self.zero else ""),
        )
        require(
            self.subnormals in ("gradual", "absent", "normalised") or self.is_regular,
            f"subnormals={self.subnormals!r} needs an integer bias and special codes beyond the "
            "values: otherwise choose 'gradual', 'absent' or 'normalised'",
        )

    # --- the layout of the codes -----------------------------------------------------------

    @property
    def _width(self) -> int:
        """Bits of a magnitude code."""
        return self.exponent_bits + self.mantissa_bits

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.signed + self._width

    @property
    def has_zero(self) -> bool:
        """Whether zero is a value."""
        return self.zero

    @property
    def has_negative_zero(self) -> bool:
        """Whether minus zero is a value of its own."""
        sign = 1 << self._width
        return self.signed and not self.one_zero and self.special(sign) is None

    @cached_property
    def _specials(self) -> Specials:
        return Specials(
            width=self._width,
            mantissa_bits=self.mantissa_bits,
            signed=self.signed,
            nans=self.nans,
            infinities=self.infinities,
        )

    def special(self, code: int) -> float | None:
        """The infinity or NaN that a code is; None for the others, unused ones among them."""
        return self._specials.meaning(code)

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """The magnitude codes of the largest value and of the lowest, or of the largest again."""
        limit = None
        if self.emax_limit is not None:
            limit = ((self.emax_limit + self.bias + 1) << self.mantissa_bits) - 1
        top = self._specials.last_finite(False, limit)
        low = self._specials.last_finite(self.signed, limit)
        return top, low

    @property
    def top_code(self) -> int:
        """The magnitude code of the largest finite value."""
        return self._ends[0]

    @property
    def bottom_code(self) -> int:
        """The magnitude code of the lowest value; of the largest, in an unsigned format."""
        return self._ends[1]

    @property
    def nan_count(self) -> int:
        """How many codes read as NaN, both signs counted, unused codes too."""
        return self._specials.nan_count + self._unused

    @property
    def has_nan(self) -> bool:
        """Whether some code is meant for a NaN."""
        return self._specials.nan_count > 0

    @property
    def _unused(self) -> int:
        """How many codes lie between the last values and what the layout could have."""
        if self.emax_limit is None:
            return 0
        count = 0
        for negative in range(1 + self.signed):
            beyond = range(self._ends[negative] + 1, self._specials.last_finite(negative > 0) + 1)
            count += len(beyond)
            if isinstance(self.nans, tuple):
                special = (code - negative * self._specials.sign for code in self._specials.listed)
                count -= sum(code in beyond for code in special)
        return count

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN: quiet and positive where there is a choice; None without NaNs."""
        return self._specials.nan_code

    def infinity_code(self, negative: bool) -> int:
        """The code of an infinity, in a format that has infinities."""
        return self._specials.infinity_code(negative)

    def is_hole(self, magnitude: int, negative: bool) -> bool:
        """Whether a code within the values is special, so that a value is missing there."""
        code = magnitude | (negative << self._width if self.signed else 0)
        within = 0 < magnitude < self._ends[negative and self.signed]
        return within and self.special(code) is not None

    @property
    def is_regular(self) -> bool:
        """Whether gaps are the same within a binade: no value is missing, and none is rounded."""
        if self.scale != 1 or not isinstance(self.nans, tuple):
            return self.scale == 1
        special = (divmod(code, self._specials.sign) for code in self._specials.listed)
        return not any(0 < magnitude < self._ends[sign] for sign, magnitude in special)

    # --- the values ------------------------------------------------------------------------

    @property
    def lowest_field(self) -> int:
        """The exponent field of the lowest binade of full precision."""
        return 1 if self.zero and self.subnormals != "normalised" else 0

    @property
    def _skips_subnormals(self) -> bool:
        return self.subnormals not in ("gradual", "normalised")

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return self.lowest_field - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite value."""
        largest = max(self._ends)
        return max(largest >> self.mantissa_bits, self.lowest_field) - self.bias

    @property
    def quantum(self) -> int:
        """Exponent of the smallest gap between neighbours."""
        if self.scale != 1:
            return exponent_of(self.smallest) - REAL_BIAS_BITS + 1
        return self.emin - self.mantissa_bits

    @property
    def precision(self) -> int:
        """Bits of the significand, the implicit bit counted."""
        if self.scale != 1:
            return REAL_BIAS_BITS
        return self.mantissa_bits + (self.exponent_bits > 0)

    @property
    def largest(self) -> Fraction:
        """The largest finite value."""
        return self.magnitude(self.top_code)

    @property
    def lowest(self) -> Fraction:
        """The lowest finite value."""
        return -self.magnitude(self.bottom_code) if self.signed else self._floor

    @property
    def _floor(self) -> Fraction:
        return Fraction(0) if self.zero else self.magnitude(0)

    @property
    def smallest_normal(self) -> Fraction:
        """The smallest positive normal value."""
        first = self.lowest_field << self.mantissa_bits
        return self.magnitude(first + (self.subnormals == "normalised"))

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value, subnormal where the format has subnormals."""
        if self._skips_subnormals:
            return self.smallest_normal
        code = 1 if self.zero else 0
        while self.is_hole(code, negative=False):
            code += 1
        return self.magnitude(code)

    @property
    def flushed_below(self) -> Fraction:
        """Rounded magnitudes below this become zero."""
        flushes = self.subnormals in ("flush_after", "read_as_zero")
        return self.smallest_normal if flushes else Fraction(0)

    def magnitude(self, code: int) -> Fraction:
        """The value of a magnitude code (a code without its sign), were it not special."""
        m = self.mantissa_bits
        field, fraction = code >> m, code & (2**m - 1)
        if code == 0 and self.zero:
            return Fraction(0)
        if field < self.lowest_field:
            value = fraction * power(1 - self.bias - m)
        else:
            value = (2**m + fraction) * power(field - self.bias - m)
        if self.scale == 1:
            return value
        return real_bias.rounded(value * self.scale, REAL_BIAS_BITS)

    def code_below(self, magnitude: Fraction) -> int:
        """The magnitude code of the last grid point that is not above ``magnitude``.

        The grid goes on beyond the largest value, and so do the codes. Below the smallest value of
        a format without zero it is the code of that value.
        """
        code = self._unscaled_code_below(magnitude / self.scale)
        if self.scale != 1:  # the values are rounded, one way or the other
            while code > 0 and self.magnitude(code) > magnitude:
                code -= 1
            while self.magnitude(code + 1) <= magnitude:
                code += 1
        return code

    def _unscaled_code_below(self, magnitude: Fraction) -> int:
        m = self.mantissa_bits
        if magnitude < power(self.emin):
            return int(magnitude / power(self.emin - m)) if self.lowest_field else 0
        exponent = exponent_of(magnitude)
        fraction = int((magnitude / power(exponent) - 1) * 2**m)
        return ((exponent + self.bias) << m) + fraction

    def neighbours(self, magnitude: Fraction, negative: bool) -> tuple[int, int]:
        """The magnitude codes of the two grid points that enclose a magnitude of a sign."""
        near = self.code_below(magnitude)
        far, normal = near + 1, 1 << self.mantissa_bits
        if self.subnormals == "absent" and near < normal:
            near, far = 0, normal
        while self.is_hole(near, negative):
            near -= 1
        while self.is_hole(far, negative):
            far += 1
        return near, far

    # --- names -----------------------------------------------------------------------------

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        return f"{self._layout}{''.join('_' + option for option in self._options)}"

    @property
    def _layout(self) -> str:
        e, m = self.exponent_bits, self.mantissa_bits
        scale = m == 0 and not self.zero
        unsigned = "" if self.signed or scale else "u"
        bias = ""
        if self.scale != 1:
            bias = f"b{real_bias.text(self.bias, self.scale)}"
        elif self.bias != self._usual_bias:
            bias = f"b{self.bias}"
        specials = ""
        if scale:
            specials = "f" if self.nans == "none" else ""
        elif isinstance(self.nans, str) and (e > 0 or self.infinities or self.nans != "none"):
            specials = special_codes.SUFFIXES[self.nans, self.infinities]
        return f"{unsigned}e{e}m{m}{bias}{specials}"

    @property
    def _options(self) -> list[str]:
        options = []
        if self.zero != (self.mantissa_bits > 0):
            options.append("zero" if self.zero else "no_zero")
        if self.one_zero:
            options.append("one_zero")
        if isinstance(self.nans, tuple):
            listed = {"inf": self.infinities, "nan": self.nans}
            options += [
                f"{name}={special_codes.text(codes)}" for name, codes in listed.items() if codes
            ]
        if self.emax_limit is not None:
            options.append(f"emax{self.emax_limit}")
        if self.subnormals != "gradual":
            options.append(self.subnormals)
        return options

    @property
    def _usual_bias(self) -> int:
        require_integers(self, "exponent_bits", "mantissa_bits")
        return 2 ** max(self.exponent_bits - 1, 0) - (self.nans != "negative_zero")
