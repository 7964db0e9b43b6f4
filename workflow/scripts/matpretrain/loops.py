"""Compiled loops over shares of an array, in as many threads as torch may take."""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch


def in_shares(loop, bounds, *arrays):
    """Run loop(begin, end, share, *arrays) for the rows bounds[k]:bounds[k + 1] of every share k, each in its own thread.

    The loop must release the interpreter lock. numba's own thread pool is not used: starting it sets the threads of torch
    to all cores of the machine, and its idle threads spin, so that they and those of torch take the cores from each other.
    """
    shares = [(bounds[k], bounds[k + 1], k) for k in range(len(bounds) - 1)]
    waiting = [_pool().submit(loop, *share, *arrays) for share in shares[1:]]
    loop(*shares[0], *arrays)
    for share in waiting:
        share.result()


@functools.cache
def _pool():
    return ThreadPoolExecutor(torch.get_num_threads())
