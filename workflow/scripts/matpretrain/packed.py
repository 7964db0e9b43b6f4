"""Rows of different lengths in one flat array: row b owns the members offset[b]:offset[b + 1]."""

import torch
from torch.nn import functional as F

MULTIPLE = 16  # numbers of members are padded to a multiple of it
SHARE = 16  # or, of many members, of this share of the power of two below
SPARE = 1.02  # times the members of the largest step so far are reserved, so that a larger one is rare


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


class Padded:
    """Members of the rows of C networks, packed in arrays [C, M] of few sizes (`up`): what is behind them is padding.

    A graph of a GPU keeps one size (`reserve`); on a CPU the products of each size are compiled once.

    Args:
        offset: [R + 1] int64.
    """

    def __init__(self, offset):
        self.offset, self.count, self._reserved = offset, offset.diff(), {}

    def members(self, rows):
        """`members` for rows [C, B] of C networks, with room for those of the network that has most, or for as many as `reserve`
        said while a graph is captured.

        Returns:
            Positions [C, M], rows [C, M], offsets [C, B + 1], and which members are padding [C, M] bool: those are of the last row, at
            any position.
        """
        packed = F.pad(self.count[rows].cumsum(-1), (1, 0))
        captured = rows.is_cuda and torch.cuda.is_current_stream_capturing()
        size = self._reserved[rows.shape[1]] if captured else up(int(packed[:, -1].max()))
        place = torch.arange(size, device=rows.device).expand(len(rows), -1)
        row = torch.searchsorted(packed[:, 1:].contiguous(), place.contiguous(), right=True).clamp(max=rows.shape[1] - 1)
        position = self.offset[rows].gather(1, row) + place - packed.gather(1, row)
        return torch.minimum(position, self.offset[-1] - 1), row, packed, place >= packed[:, -1:]

    def reserve(self, steps):
        """Fix the sizes that steps, whose rows are given, need, for graphs that are captured from now on.

        Args:
            steps: list of int64 tensors [C, B].

        Returns:
            {B: M}, which has grown where a step needs more than all before.
        """
        for n_rows in {rows.shape[1] for rows in steps}:
            largest = int(torch.stack([self.count[rows].sum(1).max() for rows in steps if rows.shape[1] == n_rows]).max())
            if n_rows not in self._reserved or largest > self._reserved[n_rows]:
                self._reserved[n_rows] = _multiple(int(SPARE * largest), MULTIPLE)
        return dict(self._reserved)


def up(size):
    """The next size that arrays of members may have; there are few, since oneDNN compiles a matrix product for each of its shapes.

    The next multiple of MULTIPLE or, where that is larger, of a SHARE-th of the power of two below.
    """
    return _multiple(size, max(MULTIPLE, (1 << max(size, 1).bit_length() - 1) // SHARE))


def _multiple(size, step):
    return -(-size // step) * step
