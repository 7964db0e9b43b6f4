"""Sizes of packed arrays."""

import torch

from matpretrain.packed import Padded, up


def test_packed_arrays_have_few_sizes_and_little_padding():
    sizes = range(1, 5000)
    padded = [up(size) for size in sizes]
    assert all(size <= room <= max(size * 17 / 16, size + 15) for size, room in zip(sizes, padded, strict=True))
    assert [len({room for room in padded if least < room <= 2 * least}) for least in (256, 512, 1024, 2048)] == [16] * 4


def test_padding_is_behind_the_members_and_of_the_last_row():
    offset = torch.tensor([0, 3, 3, 8, 40])
    position, row, packed, padding = Padded(offset).members(torch.tensor([[2, 0, 1], [3, 1, 0]]))
    assert position.shape == (2, 48) and packed.tolist() == [[0, 5, 8, 8], [0, 32, 32, 35]]
    assert (~padding).sum(1).tolist() == [8, 35] and not padding[0, :8].any() and not padding[1, :35].any()
    assert position[0, :8].tolist() == [3, 4, 5, 6, 7, 0, 1, 2] and row[0, :8].tolist() == [0] * 5 + [1] * 3
    assert (row[padding] == 2).all() and ((position >= 0) & (position < 40)).all()
