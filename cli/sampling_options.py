"""Options that say how tokens are chosen and where text ends. (stdlib only)"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..runtime.errors import ConfigError

if TYPE_CHECKING:
    from ..runtime import Sampler

_NUMBERS = (  # option, type, name of its value, default, what it does; names as in ``Sampler``
    ("temperature", float, "T", 0.0, "0: take the most likely token; larger: sample more freely"),
    ("top-k", int, "K", 0, "sample from the K most likely tokens; 0: from all"),
    ("top-p", float, "P", 1.0, "sample from the fewest tokens that reach this probability"),
    (
        "min-p",
        float,
        "P",
        0.0,
        "sample from tokens with at least this share of the most likely one's probability",
    ),
    (
        "typical-p",
        float,
        "P",
        1.0,
        "sample from the fewest tokens that reach this probability, those first whose surprise, "
        "-log p, is nearest to the mean",
    ),
    (
        "repetition-penalty",
        float,
        "X",
        1.0,
        "divide the logits of tokens in prompt and answer; above 1: fewer repetitions",
    ),
    ("presence-penalty", float, "X", 0.0, "subtract from the logit of each token in the answer"),
    (
        "frequency-penalty",
        float,
        "X",
        0.0,
        "subtract once for each time that the token is in the answer",
    ),
    ("seed", int, "N", 0, "seed of sampling"),
)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options, with the defaults of ``Sampler``."""
    for name, kind, metavar, default, what in _NUMBERS:
        parser.add_argument(
            f"--{name}",
            type=kind,
            metavar=metavar,
            default=default,
            help=f"{what} (default: %(default)s)",
        )
    parser.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        metavar="TOKEN=BIAS",
        help="add to a token's logit; -inf rules it out; repeat the option for several "
        "(default: none)",
    )


def sampler_of(args: argparse.Namespace) -> Sampler:
    """The sampler that the options describe.

    Raises:
        ConfigError: a bias is not TOKEN=BIAS.
        ContractError: a setting outside its range.
    """
    from ..runtime import Sampler

    numbers = {name.replace("-", "_"): kind for name, kind, *_ in _NUMBERS}
    return Sampler(
        **{name: getattr(args, name) for name in numbers},
        logit_bias=dict(map(_bias, args.logit_bias)),
    )


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise ConfigError(
            f"--logit-bias {text}: expected TOKEN=BIAS, the number of a token and what to add, "
            "such as 13=-inf"
        ) from None
