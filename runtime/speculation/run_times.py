"""How long runs of several tokens take, in steps of one token, as a session measures them."""

from __future__ import annotations

_FIRST_GUESS = 0.3  # of a step, for each draft: low, so that a run is tried and measured soon
_STEP_WEIGHT, _RUN_WEIGHT = 0.1, 0.3  # of the newest measurement in a mean
_HICCUP = 3.0  # a measurement counts as at most so many times its mean: the machine did other work
# What an estimate is multiplied by, so that it is measured again: each time that it rules drafts
# out, and with each run of another number of drafts.
_SHRINKS, _SHRINKS_BY_OTHERS = 0.998, 0.98


class RunTimes:
    """Mean times of steps, and of runs by the number of drafts in them.

    >>> times = RunTimes()
    >>> times.note_step(0.010)
    >>> times.note_run(4, 0.015)
    1.5
    >>> times.steps(4), times.steps(2)
    (1.5, 1.25)
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.step_seconds: float | None = None
        self._num_steps = 0
        self._of_draft: dict[int, float] = {}  # part of a step that each draft takes, by number
        self._by_nearest: dict[int, float] = {}  # the same for numbers that were not measured too
        self._trust = 1.0  # in all of them

    def note_step(self, seconds: float) -> None:
        """Note the time of a step of one token."""
        mean = self.step_seconds
        self._num_steps += 1
        if mean is None:
            self.step_seconds = seconds
            return
        weight = _STEP_WEIGHT
        if seconds < mean:  # the first ones of a session are slow
            weight = max(weight, 1 / self._num_steps)
        self.step_seconds = mean + weight * (min(seconds, _HICCUP * mean) - mean)

    def in_steps(self, seconds: float) -> float:
        """A time in steps; 0 where no step was measured."""
        return seconds / self.step_seconds if self.step_seconds else 0.0

    def note_run(self, drafts: int, seconds: float) -> float:
        """Note the time of a run of a token and its drafts; returns it in steps."""
        usual = self.steps(drafts) if self._of_draft else 1 + drafts
        steps = min(self.in_steps(seconds), _HICCUP * usual)
        found = max(steps - 1, 0) / drafts
        mean = self._of_draft[drafts] * self._trust if drafts in self._of_draft else found
        others = self._trust * _SHRINKS_BY_OTHERS
        self._of_draft = {number: part * others for number, part in self._of_draft.items()}
        self._of_draft[drafts] = mean + _RUN_WEIGHT * (found - mean)
        self._by_nearest, self._trust = {}, 1.0
        return steps

    def steps(self, drafts: int) -> float:
        """Time of a run with so many drafts, in steps; a guess where none was measured."""
        part = self._by_nearest.get(drafts)
        if part is None:
            nearest = min(self._of_draft, key=lambda known: abs(known - drafts), default=None)
            part = _FIRST_GUESS if nearest is None else self._of_draft[nearest]
            self._by_nearest[drafts] = part
        return 1 + drafts * part * self._trust

    def shrink(self) -> None:
        """Trust the estimates a little less, as no run measures them anew."""
        self._trust *= _SHRINKS
