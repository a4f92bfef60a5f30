"""What each process of train_worker.py would do first: the one that it is forked from has done it.

The first step of an optimizer takes seconds in a fresh process.
"""

import torch
from torch import nn

import train_worker  # noqa: F401

torch.set_num_threads(1)  # a process with more threads could not be forked
_weight = nn.Parameter(torch.ones(1))
_weight.grad = torch.ones(1)
torch.optim.Adam([_weight], fused=True).step()
