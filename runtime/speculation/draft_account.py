"""How much time drafts may lose, in steps: an account that steps and drafts have filled before."""

from __future__ import annotations

SHARE = 0.02  # of each plain step, which drafts may lose
ALLOWANCE = 1.0  # steps that may be lost before any was earned
MOST = 16.0  # steps of the balance, so that what is saved in one text is not lost in a long other


class DraftAccount:
    """Steps that the drafts of a session may still lose.

    Each token earns ``SHARE`` of a step, whatever computes it. A run pays its time, and earns the
    step of each token that it gives; looking for drafts pays its time too. A run is computed only
    where the balance covers it with all of its drafts wrong. A negative balance closes the account
    until the allowance is earned again: no drafts are looked for. So, at every moment,

        time with drafts <= (1 + SHARE) * time without + ALLOWANCE + the largest excess,

    in steps: the excess of a run is what it takes beyond what was expected, and that of a search
    its time. Excesses do not add up, as each is earned back before the next. The same holds from
    the beginning of each generation, where the balance is ``ALLOWANCE`` at most.

    >>> account = DraftAccount()
    >>> account.covers(0.6), account.covers(1.2)
    (True, False)
    >>> account.pay(1.1)
    >>> account.is_open
    False
    >>> for _ in range(60):
    ...     account.earn_token()
    >>> account.is_open
    True
    """

    def __init__(self) -> None:
        """Begin with the allowance."""
        self.is_open = True  # whether drafts may be looked for
        self._balance = ALLOWANCE

    def begin(self) -> None:
        """Begin a generation: what others saved is not for it to lose."""
        self._balance = min(self._balance, ALLOWANCE)

    def covers(self, steps: float) -> bool:
        """Whether so many steps may be lost."""
        return self.is_open and steps <= self._balance

    def earn_token(self) -> None:
        """Note a token, for which plain decoding takes a step."""
        self._earn(SHARE)

    def earn_draft(self) -> None:
        """Note a draft that was chosen: plain decoding takes a step for it."""
        self._earn(1.0)

    def pay(self, steps: float) -> None:
        """Note time beyond that of the step which plain decoding takes."""
        self._balance -= steps
        if self._balance < 0:
            self.is_open = False

    def _earn(self, steps: float) -> None:
        self._balance = min(self._balance + steps, MOST)
        if self._balance >= ALLOWANCE:
            self.is_open = True
