"""Is a size read and written as people mean it?"""

from __future__ import annotations

import pytest
from tramontane.runtime.errors import ConfigError
from tramontane.runtime.sizes import format_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("1B", 1),
        ("2kB", 2000),
        ("5GB", 5 * 10**9),
        ("5gb", 5 * 10**9),
        ("100MiB", 100 << 20),
        ("0.1 GiB", (1 << 30) // 10),
        (" 6GiB ", 6 << 30),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text, flag="--max-shard") == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "5 TB", "-5GB", "1e9", "5GB5", "0", "0.4B", "5,0GB"])
def test_another_word_is_refused_with_its_flag_and_the_units(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_size(text, flag="--max-shard")
    assert str(refusal.value) == (
        f"--max-shard {text}: not a size, expected at least 1 byte in B, kB, MB, GB, KiB, MiB or "
        "GiB; write it like 5GB or 512MiB"
    )


def test_a_size_is_written_in_the_largest_unit_it_reaches() -> None:
    sizes = (0, 999, 1000, 999_999, 10**6, 14_483_464_192)
    assert [format_bytes(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "1000.00 kB",
        "1.00 MB",
        "14.48 GB",
    ]
