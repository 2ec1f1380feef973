"""What has been compiled is kept with its network, or its regression: the second call has it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate

from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import find_fingerprint


def remember[Owner: (Network, Regression), **Options, Compiled](
    make: Callable[Concatenate[Owner, Options], Compiled],
) -> Callable[Concatenate[Owner, Options], Compiled]:
    """Let `make(owner, ...)` return what it returned for the same owner and options before.

    Any number of threads may call one compiled function. Copies of the owner, and what is read from
    a file, have none yet; an owner whose layers, noise or prior were changed since gets another.
    """

    @wraps(make)
    def recall(owner: Owner, *args: Options.args, **options: Options.kwargs) -> Compiled:
        key = (make.__name__, _identify(owner), args, tuple(sorted(options.items())))
        try:
            return owner.compiled[key]
        except (KeyError, TypeError):  # TypeError: options that are not what is expected
            compiled = make(owner, *args, **options)
        owner.compiled[key] = compiled
        return compiled

    return recall


def _identify(owner: Network | Regression) -> Hashable:
    """All that its functions depend on; layers are frozen, and kept by the key."""
    net = owner if isinstance(owner, Network) else owner.net
    parts: tuple[Hashable, ...] = (net.layers, net.n_pixels)
    if isinstance(owner, Regression):
        noise = owner.noise
        kind = f"{type(noise).__module__}.{type(noise).__qualname__}"
        parts += (find_fingerprint(kind, noise, owner.prior_precision),)
    return parts
