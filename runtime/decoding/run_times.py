"""How long runs of several tokens take, in steps of one token, as a session measures them."""

from __future__ import annotations

_FIRST_GUESS = 0.6  # of a step, for each draft: a run that is tried costs little even then
_STEP_WEIGHT, _RUN_WEIGHT = 0.1, 0.3  # of the newest measurement in a mean
_HICCUP = 3.0  # a measurement counts as at most so many times its mean: the machine did other work
_SHRINKS = 0.998  # an estimate, each time that it rules drafts out, so that it is measured again


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
        self._of_draft: dict[int, float] = {}  # part of a step that each draft takes, by number

    def note_step(self, seconds: float) -> None:
        """Note the time of a step of one token."""
        mean = self.step_seconds
        if mean is None:
            self.step_seconds = seconds
        else:
            self.step_seconds = mean + _STEP_WEIGHT * (min(seconds, _HICCUP * mean) - mean)

    def note_run(self, drafts: int, seconds: float) -> float:
        """Note the time of a run of a token and its drafts; returns it in steps."""
        assert self.step_seconds is not None
        steps = min(seconds / self.step_seconds, _HICCUP * self.steps(drafts))
        found = max(steps - 1, 0) / drafts
        mean = self._of_draft.get(drafts)
        self._of_draft[drafts] = found if mean is None else mean + _RUN_WEIGHT * (found - mean)
        return steps

    def steps(self, drafts: int) -> float:
        """Time of a run with so many drafts, in steps; a guess where none was measured."""
        if not self._of_draft:
            return 1 + drafts * _FIRST_GUESS
        nearest = min(self._of_draft, key=lambda measured: abs(measured - drafts))
        return 1 + drafts * self._of_draft[nearest]

    def shrink(self) -> None:
        """Trust the estimates a little less, as no run measures them anew."""
        for drafts in self._of_draft:
            self._of_draft[drafts] *= _SHRINKS
