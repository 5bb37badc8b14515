"""Do short codes survive being packed into bytes?"""

from __future__ import annotations

import numpy as np
import pytest
from tramontane.graphs.quantization.codes import pack_codes, unpack_codes


def test_first_code_of_a_byte_is_in_its_low_bits() -> None:
    assert pack_codes(np.array([1, 2, 15, 0], np.uint8), bits=4).tolist() == [0x21, 0x0F]
    assert pack_codes(np.array([3, 4, 5], np.uint8), bits=4).tolist() == [0x43, 0x05]
    assert unpack_codes(np.array([0x21, 0x0F], np.uint8), bits=4).tolist() == [1, 2, 15, 0]


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 16), (5,), (2, 7)], ids=str)
def test_codes_survive_being_packed(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    codes = rng.integers(16, size=shape, dtype=np.uint8)
    packed = pack_codes(codes, bits=4)
    assert packed.shape == (*shape[:-1], -(-shape[-1] // 2))
    np.testing.assert_array_equal(unpack_codes(packed, bits=4)[..., : shape[-1]], codes)
