"""Who works on the pieces of long work: this process, or those of a cluster."""

from symspec.workers.choice import open_workers

__all__ = ["open_workers"]
