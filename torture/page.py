"""The page docs/reliability.md: how all cases ended."""

from __future__ import annotations

from collections import Counter

from .outcomes import CRASHED, FINE, HUNG, LARGE, LOST, TYPED, UNTYPED, Record

_HEAD = """# Reliability

Printed by `make torture`, which runs in parts: each run goes on where the last one ended.
Seed {seed}: {kills} kills and full disks, {mutations} mutated files, {flips} flipped bits,
in {minutes} minutes.
The targets are 1000, 100 000 and 1000, with 0 untyped errors, 0 cases that hang for over 10 s,
0 crashes, 0 that take over 1 GB of memory, and 0 lost.
"""
_KILLS = """
## Exports that are ended

The bundled demo model is exported, and the export is ended by SIGKILL, SIGTERM or SIGINT at a
random moment, up to six times, then let through. Three of ten signals go to the processes that it
started too. Half of the exports replace an artifact.
{disks}

*Fine*: ended by the signal, or by itself before it. *Typed*: one of our errors. *Lost*: neither
the old artifact nor the new one is whole, or the export that is let through has other bytes than
one that nobody ended. Processes that it started must be gone within 10 s.
"""
_DISKS = """A *full disk* is a tmpfs of a random size up to 1.3 times the artifact's; in four of
five cases the export does not look how much room there is before it writes. Then the disk gets
room, and the next export must make the same bytes."""
_NO_DISKS = "Full disks were left out: this system lets users mount none."
_MUTATIONS = """
## Mutated files

Each case is a good file with one to four mutations. It is read as the commands read it, and must
be read (*fine*), or refused by one line of a typed error, in 10 s and with 1 GB of memory. Damaged
journals and caches are put aside and made anew, and of a damaged README.md only the readable part
is carried into the card: that is fine too.
"""
_FLIPS = """
## Flipped bits

One bit of one file of an artifact is flipped, and the artifact verified as `inspect` does it.
Every flip must be found (*typed*); *lost* are those that were not.
"""
# How a case of each part may end: what is measured there.
_OF_EXPORTS = (FINE, TYPED, UNTYPED, HUNG, CRASHED, LOST)
_OF_MUTATIONS = (FINE, TYPED, UNTYPED, HUNG, CRASHED, LARGE)
_OF_FLIPS = (TYPED, UNTYPED, LOST)


def as_markdown(record: Record, *, seed: int) -> str:
    """The page of all cases that were counted."""
    totals = {part: f"{record.total(part)}" for part in ("kills", "mutations", "flips")}
    minutes = sum(record.seconds.values()) / 60
    text = _HEAD.format(seed=seed, minutes=f"{minutes:.0f}", **totals)
    kills = record.counts.get("kills", {})
    has_disks = any("disk" in case for case in kills)
    parts = (
        ("kills", _KILLS.format(disks=_DISKS if has_disks else _NO_DISKS), _OF_EXPORTS),
        ("mutations", _MUTATIONS, _OF_MUTATIONS),
        ("flips", _FLIPS, _OF_FLIPS),
    )
    for part, words, kinds in parts:
        if cases := record.counts.get(part):
            text += words + _table(cases, kinds)
    return text


def _table(cases: dict[str, Counter[str]], kinds: tuple[str, ...]) -> str:
    lines = [
        "",
        f"| case | cases | {' | '.join(kinds)} |",
        f"| --- | {' | '.join(['---'] * (1 + len(kinds)))} |",
    ]
    rows = {**dict(sorted(cases.items())), "all": sum(cases.values(), Counter[str]())}
    for name, found in rows.items():
        cells = [found.total(), *(found[kind] for kind in kinds)]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
