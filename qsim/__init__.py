"""qsim: emulated number formats for any JAX program, a whole sweep in one compiled call."""

from qsim import arithmetic
from qsim.numbers.catalogue import load as load_formats
from qsim.numbers.codebooks import Codebook
from qsim.numbers.codes import NoNaNError, decode, encode
from qsim.numbers.complexes import RootsOfUnity
from qsim.numbers.components import Components
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.grid import Grid, lower, stack
from qsim.numbers.hifloat import HiFloat8
from qsim.numbers.logarithmic import Logarithmic
from qsim.numbers.modes import OVERFLOWS, ROUNDINGS
from qsim.numbers.p3109 import p3109
from qsim.numbers.packing import pack, unpack
from qsim.numbers.parts import split
from qsim.numbers.posits import Posit, Takum
from qsim.numbers.random_bits import counter_key, fold_in
from qsim.numbers.rounding import quantize
from qsim.numbers.specs import parse
from qsim.propagation.readings import Reading, scale_trace
from qsim.propagation.rescaling import rescale, rescale_gradient
from qsim.propagation.transform import scale_propagation
from qsim.scales.blocks import Block
from qsim.scales.parts import decode_blocks, encode_blocks
from qsim.scales.recipes import Recipe
from qsim.scales.scaled import NORMS, SCALE_ROUNDINGS, ScaledArray, as_scaled, unscaled
from qsim.scales.tensor import SCALES
from qsim.simulate.explanation import Explanation
from qsim.simulate.policy import Policy, Rule, policy
from qsim.simulate.primitives import register
from qsim.simulate.quantizer import Precision, Quantizer
from qsim.simulate.selector import Selector
from qsim.simulate.sites import Site, sites
from qsim.simulate.transform import simulate
from qsim.sweeps.sweep import stream, sweep
from qsim.training.sweep import Runs, train_sweep

__all__ = [
    "NORMS",
    "OVERFLOWS",
    "ROUNDINGS",
    "SCALES",
    "SCALE_ROUNDINGS",
    "Block",
    "Codebook",
    "Components",
    "Explanation",
    "Float",
    "Format",
    "Grid",
    "HiFloat8",
    "Integer",
    "Logarithmic",
    "NoNaNError",
    "Policy",
    "Posit",
    "Precision",
    "Quantizer",
    "Reading",
    "Recipe",
    "RootsOfUnity",
    "Rule",
    "Runs",
    "ScaledArray",
    "Selector",
    "Site",
    "Takum",
    "arithmetic",
    "as_scaled",
    "counter_key",
    "decode",
    "decode_blocks",
    "encode",
    "encode_blocks",
    "fold_in",
    "load_formats",
    "lower",
    "p3109",
    "pack",
    "parse",
    "policy",
    "quantize",
    "register",
    "rescale",
    "rescale_gradient",
    "scale_propagation",
    "scale_trace",
    "simulate",
    "sites",
    "split",
    "stack",
    "stream",
    "sweep",
    "train_sweep",
    "unpack",
    "unscaled",
]
