"""Rows of different lengths in one flat array: row b owns the members offset[b]:offset[b + 1]."""

import torch
from torch.nn import functional as F


def members(offset, rows):
    """The members of some rows, one row after another.

    Args:
        offset: [R + 1] int64.
        rows: [B] int64.

    Returns:
        Positions of the members [M] in the flat array, the row of each from 0 [M], and offsets [B + 1] of the rows among them.
    """
    start, count = offset[rows], offset[rows + 1] - offset[rows]
    packed = F.pad(count.cumsum(0), (1, 0))
    row = torch.repeat_interleave(torch.arange(len(rows), device=offset.device), count)
    return torch.arange(len(row), device=offset.device) + (start - packed[:-1])[row], row, packed
