"""Training steps that a GPU replays as one graph, instead of being given a thousand small operations by Python."""

import warnings

import torch


class Replayed:
    """A step of a training on a CUDA device. The first call for rows of some numbers runs as it is, which compiles kernels and
    makes the optimiser's state; the second one is captured; it and all further ones replay that.

    Args:
        step: function (list of C int64 tensors of rows) -> tensors. It waits for nothing that it computes, and what else it reads
            or writes stays at its place in memory.
    """

    def __init__(self, step):
        self.step, self._seen, self._captured, self._pool, self._sizes = step, set(), {}, None, None

    def __call__(self, rows, sizes):
        """What step(rows) returns; valid until the next call.

        Args:
            sizes: what the sizes of the step's arrays depend on besides the numbers of rows; where it differs from the call before,
                steps are captured anew.
        """
        if sizes != self._sizes:
            self._sizes = sizes
            self._captured.clear()
            self._pool = None  # no graph is left that holds it
        numbers = tuple(map(len, rows))
        if numbers not in self._seen:
            self._seen.add(numbers)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*capturable=True")  # that this step of the optimiser is not captured
                return self.step(rows)
        if numbers not in self._captured:
            place, graph = torch.cat(rows), torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, self._pool):
                returned = self.step(list(place.split(numbers)))
            self._pool = graph.pool()
            self._captured[numbers] = graph, place, returned
        graph, place, returned = self._captured[numbers]
        torch.cat(rows, out=place)
        graph.replay()
        return returned
