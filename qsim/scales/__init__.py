"""How numbers share scales: whole tensors, blocks, scales of scales."""

from qsim.scales import block_grid as block_grid  # registers the family of block formats
from qsim.scales import parts as parts
