"""The six types of errors that tramontane raises.

Each message reads *where: what was found, what was expected; what to do*.
"""


class TramontaneError(Exception):
    """Something given to tramontane cannot be used; the message says what to change."""


class ConfigError(TramontaneError):
    """The architecture or an option is missing, malformed or not supported."""


class CheckpointError(TramontaneError):
    """A weight is missing, misshapen, unreadable or not a number."""


class TraceError(TramontaneError):
    """The model cannot be run or traced with these inputs."""


class GraphError(TramontaneError):
    """A graph breaks a rule that all our graphs keep, or cannot be made as asked."""


class ContractError(TramontaneError):
    """An artifact cannot be written, or differs from its manifest."""


class ParityError(TramontaneError):
    """An artifact and its reference disagree by more than the tolerance."""
