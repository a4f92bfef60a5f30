"""What each process of train_worker.py would do first: the one that it is forked from has done it.

The first step of an optimizer and the first call of a function that Numba compiles take seconds in
a fresh process.
"""

import numpy as np
import torch
from torch import nn

import train_worker  # noqa: F401
from ubnlib.kitti.packed import decode_depth, encode_depth

torch.set_num_threads(1)  # a process with more threads could not be forked
_weight = nn.Parameter(torch.ones(1))
_weight.grad = torch.ones(1)
torch.optim.Adam([_weight], fused=True).step()
_codes = torch.from_numpy(encode_depth(np.ones((2, 2), np.float32)).view(np.int32))
decode_depth(_codes, torch.tensor([len(_codes)]), (2, 2))
